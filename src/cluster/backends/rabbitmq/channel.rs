use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::wire::{self, Args, Frame, Method, Reader};
use crate::cluster::backends::stream::{ReadTimeout, Server, Stream};
use crate::tls::TlsClient;

/// A connection with one channel.
pub(super) struct Channel<S = Stream> {
    stream: S,
    read: Vec<u8>,
    timeout: Duration,
    /// The longest payload of a frame.
    max_payload: usize,
}

/// Where connections lead to, and how.
pub(super) struct Target {
    pub(super) servers: Vec<Server>,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
    pub(super) timeout: Duration,
    pub(super) tls: Option<TlsClient>,
}

/// The result of a read from the server.
pub(super) enum Received {
    Message {
        tag: u64,
        body: Vec<u8>,
    },
    /// A sign of life.
    Other,
    Nothing,
}

/// The reason why a channel failed.
pub(super) enum Failed {
    /// The connection can no longer be used.
    Lost(String),
    /// The server refuses it, and has closed the channel.
    Refused(String),
}

impl Failed {
    pub(super) fn problem(self) -> String {
        match self {
            Self::Lost(problem) | Self::Refused(problem) => problem,
        }
    }
}

/// The longest message that is taken.
const MAX_BODY: u64 = 64 << 20;
const CHANNEL: u16 = 1;

impl Channel {
    /// Dials one server after the other, and opens a channel. With a heartbeat, the server wants a sign of life as often, in seconds, and
    /// gives one.
    pub(super) fn dial(target: &Target, heartbeat: u16) -> Result<Self, Failed> {
        let mut last = Failed::Lost("there is no server to dial".to_owned());
        for server in &target.servers {
            let stream = Stream::dial(server, target.timeout, target.tls.as_ref());
            let opened = stream.map_err(Failed::Lost).and_then(|stream| {
                let mut channel = Self {
                    stream,
                    read: Vec::new(),
                    timeout: target.timeout,
                    max_payload: wire::MAX_FRAME as usize - wire::OVERHEAD,
                };
                channel.open(target, heartbeat)?;
                Ok(channel)
            });
            match opened {
                Ok(channel) => return Ok(channel),
                // A user that is refused is as good as no server.
                Err(failed) => last = Failed::Lost(failed.problem()),
            }
        }
        Err(last)
    }

    fn open(&mut self, target: &Target, heartbeat: u16) -> Result<(), Failed> {
        self.write(wire::PROTOCOL)?;
        self.await_method(wire::START)?;
        let response = format!("\0{}\0{}", target.user, target.password);
        let start = Args::of(wire::START_OK).bytes(&wire::client_properties());
        let start = start.text("PLAIN").bytes(response.as_bytes()).text("en_US");
        self.send(0, start)?;
        let tune = self.await_method(wire::TUNE)?;
        let mut tune = Reader(&tune);
        let limits = (tune.short(), tune.long());
        let (Some(_channels), Some(frame)) = limits else {
            return Err(Failed::Lost("an incomplete answer".to_owned()));
        };
        // 0 is no limit.
        let frame = match frame {
            0 => wire::MAX_FRAME,
            frame => frame.clamp(4096, wire::MAX_FRAME),
        };
        self.max_payload = frame as usize - wire::OVERHEAD;
        let tuned = Args::of(wire::TUNE_OK).short(1).long(frame);
        self.send(0, tuned.short(heartbeat))?;
        let open = Args::of(wire::OPEN).text(&target.vhost).text("").byte(0);
        self.send(0, open)?;
        self.await_method(wire::OPEN_OK)?;
        self.call(Args::of(wire::CHANNEL_OPEN).text(""), wire::CHANNEL_OPEN_OK)?;
        Ok(())
    }
}

impl<S: Read + Write + ReadTimeout> Channel<S> {
    /// Returns a channel that is open already.
    #[cfg(feature = "internals")]
    pub(super) fn over(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
            timeout: Duration::from_secs(1),
            max_payload: wire::MAX_FRAME as usize - wire::OVERHEAD,
        }
    }

    /// Calls a method of the channel, and returns the arguments of the answer.
    pub(super) fn call(&mut self, args: Args, answer: Method) -> Result<Vec<u8>, Failed> {
        self.send(CHANNEL, args)?;
        self.await_method(answer)
    }

    pub(super) fn send_to_channel(&mut self, args: Args) -> Result<(), Failed> {
        self.send(CHANNEL, args)
    }

    pub(super) fn send_heartbeat(&mut self) -> Result<(), Failed> {
        let mut out = Vec::new();
        wire::put_frame(&mut out, wire::HEARTBEAT, 0, b"");
        self.write(&out)
    }

    /// Publishes a message, and waits until the server has it.
    pub(super) fn publish(&mut self, exchange: &str, key: &str, body: &[u8]) -> Result<(), Failed> {
        let mut out = Vec::new();
        let publish = Args::of(wire::PUBLISH).short(0).text(exchange).text(key);
        wire::put_frame(&mut out, wire::METHOD, CHANNEL, &publish.byte(0).take());
        // With a content type, and kept on disk by queues that are.
        let header = Args::of((wire::PUBLISH.0, 0)).long_long(body.len() as u64);
        let header = header.short(0x8000 | 0x1000).text("application/json");
        wire::put_frame(&mut out, wire::HEADER, CHANNEL, &header.byte(2).take());
        for part in body.chunks(self.max_payload) {
            wire::put_frame(&mut out, wire::BODY, CHANNEL, part);
        }
        self.write(&out)?;
        let deadline = self.deadline();
        loop {
            let payload = self.await_any(deadline)?;
            match wire::method(&payload) {
                Some(wire::ACK) => return Ok(()),
                Some(wire::NACK) => {
                    return Err(Failed::Lost("the server could not take it".to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Waits for a message, for at most `wait`.
    pub(super) fn receive(&mut self, wait: Duration) -> Result<Received, Failed> {
        let Some(frame) = self.frame_until(Instant::now() + wait)? else {
            return Ok(Received::Nothing);
        };
        if frame.kind != wire::METHOD {
            return Ok(Received::Other);
        }
        let payload = Self::check(frame.payload)?;
        match wire::method(&payload) {
            Some(wire::DELIVER) => {}
            Some(wire::CANCEL) => {
                return Err(Failed::Lost("the server has ended the queue".to_owned()));
            }
            _ => return Ok(Received::Other),
        }
        let mut args = Reader(&payload[4..]);
        let tag = args.text().and_then(|_| args.long_long());
        let mut deadline = self.deadline();
        let header = self.content(wire::HEADER, deadline)?;
        let mut header = Reader(&header);
        let len = (header.long(), header.long_long()).1;
        let (Some(tag), Some(len)) = (tag, len.filter(|len| *len <= MAX_BODY)) else {
            return Err(Failed::Lost(
                "a message that is malformed or too long".to_owned(),
            ));
        };
        let mut body = Vec::new();
        while (body.len() as u64) < len {
            let part = self.content(wire::BODY, deadline)?;
            if !part.is_empty() {
                deadline = self.deadline();
            }
            body.extend_from_slice(&part);
        }
        Ok(Received::Message { tag, body })
    }

    /// Returns the payload of the next frame, which belongs to a message.
    fn content(&mut self, kind: u8, deadline: Instant) -> Result<Vec<u8>, Failed> {
        loop {
            let frame = self.frame(deadline)?;
            match frame.kind {
                wire::HEARTBEAT => {}
                found if found == kind => return Ok(frame.payload),
                _ => return Err(Failed::Lost("a message that is not whole".to_owned())),
            }
        }
    }

    fn await_method(&mut self, wanted: Method) -> Result<Vec<u8>, Failed> {
        let deadline = self.deadline();
        loop {
            let payload = self.await_any(deadline)?;
            if wire::method(&payload) == Some(wanted) {
                return Ok(payload[4..].to_vec());
            }
        }
    }

    /// Returns the next method.
    fn await_any(&mut self, deadline: Instant) -> Result<Vec<u8>, Failed> {
        loop {
            let frame = self.frame(deadline)?;
            if frame.kind == wire::METHOD {
                return Self::check(frame.payload);
            }
        }
    }

    /// Tells if the server has closed the channel or the connection.
    fn check(payload: Vec<u8>) -> Result<Vec<u8>, Failed> {
        let closes = [wire::CLOSE, wire::CHANNEL_CLOSE];
        if wire::method(&payload).is_some_and(|method| closes.contains(&method)) {
            let mut args = Reader(&payload[4..]);
            let (code, reason) = (args.short().unwrap_or(0), args.text().unwrap_or_default());
            let problem = format!("{reason} ({code})");
            // 320 is the end of the server.
            return Err(match code {
                320 => Failed::Lost(problem),
                _ => Failed::Refused(problem),
            });
        }
        Ok(payload)
    }

    /// Returns the moment at which an answer is too late. Signs of life do not change it.
    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn frame(&mut self, deadline: Instant) -> Result<Frame, Failed> {
        self.frame_until(deadline)?
            .ok_or_else(|| Failed::Lost("it has not answered in time".to_owned()))
    }

    /// Returns none if there is no whole frame in time.
    fn frame_until(&mut self, deadline: Instant) -> Result<Option<Frame>, Failed> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if let Some(frame) = wire::take_frame(&mut self.read).map_err(Failed::Lost)? {
                return Ok(Some(frame));
            }
            self.stream.set_read_timeout(left);
            let mut some = [0; 16 << 10];
            match self.stream.read(&mut some) {
                Ok(0) => {
                    return Err(Failed::Lost(
                        "the server has closed the connection".to_owned(),
                    ));
                }
                Ok(read) => self.read.extend_from_slice(&some[..read]),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(Failed::Lost(error.to_string())),
            }
        }
    }

    fn send(&mut self, channel: u16, args: Args) -> Result<(), Failed> {
        let mut out = Vec::new();
        wire::put_frame(&mut out, wire::METHOD, channel, &args.take());
        self.write(&out)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let written = self.stream.write_all(bytes);
        let written = written.and_then(|()| self.stream.flush());
        written.map_err(|error| Failed::Lost(error.to_string()))
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
