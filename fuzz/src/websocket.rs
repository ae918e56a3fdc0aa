//! Open WebSockets that receive frames.

use std::cell::RefCell;

use epicycle::codec::{Codec, Decoded, FrameError, Stage, encode_to_vec};
use epicycle::ws::{
    self, ClientCodec, Close, DeflateOptions, Event, Fragment, Handshake, Incoming, Limits,
    Message, ServerCodec,
};

use crate::Subject;

/// The settings of both sides of a WebSocket.
#[derive(Clone, Copy)]
pub struct Settings {
    /// The options of compression, or `None` without compression.
    pub deflate: Option<DeflateOptions>,
    /// The longest frame, in bytes.
    pub frame: usize,
    /// The longest message, in bytes.
    pub message: usize,
}

impl Settings {
    /// Returns settings of the fuzzer's choice. `compressed` forces compression.
    pub fn new(choice: u8, frame: usize, message: usize, compressed: bool) -> Self {
        let options = DeflateOptions::default()
            .threshold(usize::from(choice & 1))
            .context_takeover(choice & 2 != 0)
            .window_bits(9 + (choice >> 2) % 7)
            .level(1 + (choice >> 5));
        Self {
            deflate: (compressed || choice & 0x80 != 0).then_some(options),
            frame,
            message,
        }
    }

    /// Returns the most bytes of input that a side may ask for: a header, and the payload of a message or a control frame.
    fn longest_input(&self) -> usize {
        let payload = match self.deflate {
            // Compression can make a message longer.
            Some(_) => self.frame,
            None => self.frame.min(self.message),
        };
        14 + payload.max(125)
    }

    /// Returns both sides, after the handshake.
    pub fn opened(self) -> (ServerCodec, ClientCodec) {
        let limits = Limits::default()
            .max_frame(self.frame)
            .max_message(self.message);
        let mut server = ServerCodec::new(limits);
        let mut client = ClientCodec::new(limits);
        let mut handshake = Handshake::new("a", "/");
        if let Some(options) = self.deflate {
            handshake = handshake.deflate(options);
        }
        let mut wire = encode_to_vec(&mut client, handshake).expect("a handshake");
        let accept = match server.decode(&mut wire) {
            Ok(Decoded::Frame {
                frame: Incoming::Request(request),
                ..
            }) => {
                let mut accept = ws::accept(&request).expect("it opens a WebSocket");
                if let Some(options) = self.deflate {
                    accept = accept.deflate(options);
                }
                assert_eq!(accept.is_compressed(), self.deflate.is_some());
                accept.into_owned()
            }
            other => panic!("{other:?}"),
        };
        let mut wire = encode_to_vec(&mut server, accept).expect("an answer");
        let len = wire.len();
        match client.decode(&mut wire) {
            Ok(Decoded::Frame {
                frame: Event::Opened(_),
                consumed,
            }) if consumed == len => {}
            other => panic!("{other:?}"),
        }
        (server, client)
    }
}

/// The messages received from the other side.
#[derive(Default)]
struct Received {
    messages: RefCell<Vec<Message<'static>>>,
}

impl Received {
    fn message(&self, message: Message<'_>, settings: &Settings, log: &mut Vec<Vec<u8>>) {
        let bytes = message.as_bytes();
        assert!(bytes.len() <= settings.message, "{} bytes", bytes.len());
        let kind = message.as_text().map_or("binary ", |_| "text ");
        log.push([kind.as_bytes(), bytes].concat());
        self.messages.borrow_mut().push(message.into_owned());
    }

    fn closed(close: Close<'_>, log: &mut Vec<Vec<u8>>) {
        assert!(close.reason.len() <= 123);
        log.push(format!("closed {:?} {}", close.code, close.reason).into_bytes());
    }
}

/// A server that receives a client's frames.
pub struct Server {
    settings: Settings,
    received: Received,
}

/// A client that receives a server's frames.
pub struct Client {
    settings: Settings,
    received: Received,
}

macro_rules! side {
    ($side:ident, $codec:ident, $frame:ident, $of:expr, $is_server:expr) => {
        impl $side {
            /// Returns this side of a WebSocket with the given settings.
            pub fn new(settings: Settings) -> Self {
                Self {
                    settings,
                    received: Received::default(),
                }
            }

            /// Returns the messages of the last round.
            pub fn messages(self) -> Vec<Message<'static>> {
                self.received.messages.into_inner()
            }
        }

        impl Subject for $side {
            type Codec = $codec;

            fn codec(&self) -> $codec {
                self.received.messages.borrow_mut().clear();
                $of(self.settings.opened())
            }

            fn limit(&self) -> usize {
                self.settings.longest_input()
            }

            fn note(&self, frame: $frame<'_>, log: &mut Vec<Vec<u8>>) {
                match frame {
                    $frame::Message(message) => self.received.message(message, &self.settings, log),
                    $frame::Pong(payload) => {
                        assert!(payload.len() <= 125);
                        log.push([b"pong ", payload].concat());
                    }
                    $frame::Closed(close) => Received::closed(close, log),
                    other => panic!("{other:?} on an open WebSocket"),
                }
            }

            fn kind(&self, error: &FrameError) -> &'static str {
                match error {
                    FrameError::TooLong { .. } => "too long",
                    // If a message is neither well compressed nor valid text, either fault may be found first.
                    _ => "malformed",
                }
            }

            fn notice(&self, close_notice: &[u8]) -> Vec<u8> {
                // The code of the Close frame. A client's is masked.
                let code = close_notice.get(2..4).filter(|_| $is_server);
                code.unwrap_or_default().to_vec()
            }

            fn is_over(&self, codec: &$codec) -> bool {
                matches!(codec.stage(), Stage::Finished | Stage::Closing)
            }
        }
    };
}

side!(Server, ServerCodec, Incoming, |(server, _)| server, true);
side!(Client, ClientCodec, Event, |(_, client)| client, false);

/// Sends messages from each side to the other, and also in two fragments. They must arrive unchanged.
///
/// # Panics
///
/// If a message does not arrive unchanged.
pub fn check_echo(settings: Settings, messages: &[Message<'_>]) {
    let (mut server, mut client) = settings.opened();
    for message in messages {
        let mut wire = encode_to_vec(&mut server, message.clone()).expect("is sent");
        match client.decode(&mut wire) {
            Ok(Decoded::Frame {
                frame: Event::Message(arrived),
                ..
            }) => assert_eq!(arrived, *message),
            other => panic!("{message:?} arrives as {other:?}"),
        }
        let mut wire = encode_to_vec(&mut client, message.clone()).expect("is sent");
        match server.decode(&mut wire) {
            Ok(Decoded::Frame {
                frame: Incoming::Message(arrived),
                ..
            }) => assert_eq!(arrived, *message),
            other => panic!("{message:?} arrives as {other:?}"),
        }
        let mut halves = Vec::new();
        for (part, last) in halved(message) {
            let fragment = Fragment { part, last };
            halves.extend(encode_to_vec(&mut client, fragment).expect("is sent"));
        }
        let first = match server.decode(&mut halves) {
            Ok(Decoded::Skip { consumed }) => consumed,
            other => panic!("half of {message:?} arrives as {other:?}"),
        };
        match server.decode(&mut halves[first..]) {
            Ok(Decoded::Frame {
                frame: Incoming::Message(arrived),
                ..
            }) => assert_eq!(arrived, *message),
            other => panic!("{message:?} arrives in two halves as {other:?}"),
        }
    }
}

fn halved<'a>(message: &'a Message<'_>) -> [(Message<'a>, bool); 2] {
    match message {
        Message::Text(text) => {
            let (front, back) = text.split_at(text.floor_char_boundary(text.len() / 2));
            [(front.into(), false), (back.into(), true)]
        }
        Message::Binary(bytes) => {
            let (front, back) = bytes.split_at(bytes.len() / 2);
            [(front.into(), false), (back.into(), true)]
        }
    }
}
