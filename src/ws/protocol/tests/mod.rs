//! Both codecs without a connection.

mod closing;
mod deflating;
mod receiving;
mod sending;
mod violations;

use super::*;
use crate::codec::{Codec, Encode, close_notice_to_vec, encode_to_vec, poll_output_to_vec};
use crate::ws::{ClientCodec, DeflateOptions, Event, Incoming, ServerCodec, extension};

/// The result of decoding, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(Message<'static>),
    Pong(Vec<u8>),
    Closed(Option<u16>, String),
}

impl Seen {
    fn text(text: &str) -> Self {
        Seen::Message(Message::from(text).into_owned())
    }

    fn binary(bytes: &[u8]) -> Self {
        Seen::Message(Message::from(bytes).into_owned())
    }

    fn closed(close: Close<'_>) -> Self {
        Seen::Closed(close.code.map(CloseCode::get), close.reason.to_owned())
    }
}

/// The parts of both codecs that the tests use.
trait Side:
    Codec + for<'a> Encode<Message<'a>> + for<'a> Encode<Fragment<'a>> + for<'a> Encode<Ping<'a>>
{
    fn seen(frame: Self::Frame<'_>) -> Seen;
}

impl Side for ServerCodec {
    fn seen(frame: Incoming<'_>) -> Seen {
        match frame {
            Incoming::Message(message) => Seen::Message(message.into_owned()),
            Incoming::Pong(payload) => Seen::Pong(payload.to_vec()),
            Incoming::Closed(close) => Seen::closed(close),
            Incoming::Request(request) => panic!("{request:?}"),
        }
    }
}

impl Side for ClientCodec {
    fn seen(frame: Event<'_>) -> Seen {
        match frame {
            Event::Message(message) => Seen::Message(message.into_owned()),
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Closed(close) => Seen::closed(close),
            Event::Opened(opened) => panic!("{opened:?}"),
        }
    }
}

fn server() -> ServerCodec {
    ServerCodec::opened(Limits::default(), None)
}

fn client() -> ClientCodec {
    ClientCodec::opened(Limits::default(), None)
}

/// Both ends of a connection that compresses.
fn deflating(options: DeflateOptions, limits: Limits) -> (ClientCodec, ServerCodec) {
    let offer = options.offer();
    let offers = extension::parse(&offer).expect("is well formed");
    let agreed = options.accept(&offers).expect("is acceptable");
    let answer = agreed.answer();
    let answers = extension::parse(&answer).expect("is well formed");
    let concluded = options.conclude(&answers[0].params).expect("is an answer");
    (
        ClientCodec::opened(limits, Some(concluded)),
        ServerCodec::opened(limits, Some(agreed)),
    )
}

fn sent<T, C: Encode<T>>(codec: &mut C, item: T) -> Vec<u8> {
    encode_to_vec(codec, item).expect("is sent")
}

/// Feeds a codec in pieces that end at `cuts`, as the engine would: the next call comes when as many bytes are there as
/// the codec asked for.
fn feed<C: Side>(codec: &mut C, bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<FrameError>) {
    let mut seen = Vec::new();
    let mut input = Vec::new();
    let mut need = 1;
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        input.extend_from_slice(&bytes[start..end]);
        start = end;
        while !input.is_empty() && input.len() >= need {
            need = 1;
            let len = input.len();
            let consumed = match codec.decode(&mut input) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    seen.push(C::seen(frame));
                    consumed
                }
                Ok(Decoded::Skip { consumed }) => consumed,
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least > len);
                    need = at_least;
                    break;
                }
                Ok(Decoded::Hold) => panic!("nothing is owed"),
                Err(error) => return (seen, Some(error)),
            };
            assert!(consumed > 0 && consumed <= len);
            input.drain(..consumed);
        }
    }
    (seen, None)
}

#[track_caller]
fn feed_all<C: Side>(codec: &mut C, bytes: &[u8]) -> Vec<Seen> {
    let (seen, error) = feed(codec, bytes, &[]);
    assert!(error.is_none(), "{error:?}");
    seen
}

/// A client's frame with a mask of its own and this first byte.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ ..=125 => frame.push(0x80 | len as u8),
        len @ ..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let key = [0x37, 0xFA, 0x21, 0x3D];
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ key[n % 4]),
    );
    frame
}

/// The Close that a server sends as its close notice for `error`.
fn goodbye(codec: &mut ServerCodec, error: FrameError) -> (u16, String) {
    let bytes = close_notice_to_vec(codec, CloseCause::Malformed(&error));
    match &feed_all(&mut client(), &bytes)[..] {
        [Seen::Closed(Some(code), reason)] => (*code, reason.clone()),
        other => panic!("{other:?}"),
    }
}
