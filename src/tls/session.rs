//! A TLS session that knows no socket: records in, plaintext out, and the other way round.
//!
//! It stands on rustls's unbuffered connections, so a session that waits holds no buffer: records are
//! decrypted where they were received and encrypted where they are sent from. Kept here are only
//! leftovers, in vectors that are freed once they are empty: the beginning of a record, plaintext that
//! the reader had no room for, and records that the kernel did not take.

use std::mem;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::resolver;
use super::tail::Tail;

/// One end of a TLS connection.
pub(crate) struct Session {
    side: Side,
    input: Input,
    /// Records that are incomplete, or whose handshake message is, in the state that rustls left them in.
    partial: Vec<u8>,
    plain: Leftover,
    pub(super) tail: Tail,
    server_name: Option<Box<str>>,
    close_notify_queued: bool,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What has become of the peer's stream.
enum Input {
    Flowing,
    /// The peer ended it with close_notify.
    Ended,
    /// It broke the protocol, or refused this side; not told yet.
    Broken(Error),
    /// The same, and told.
    Refused,
}

/// Plaintext that the reader had no room for.
#[derive(Default)]
struct Leftover {
    bytes: Vec<u8>,
    taken: usize,
}

/// What a step of rustls came to.
enum Next {
    Again,
    NeedsInput,
    PeerEnded,
    Failed(Error),
}

/// The most that one record's header, padding and tag add to its plaintext, with room to spare.
pub(super) const RECORD_OVERHEAD: usize = 64;

/// The longest record's plaintext.
pub(super) const RECORD_MAX: usize = 16 << 10;

/// A close_notify, with what rustls may have queued in front of it.
const CLOSE_NOTIFY_MAX: usize = 256;

impl Session {
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(|side| Self::new(Side::Server(side), None))
    }

    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let shown: Box<str> = name.to_str().into();
        UnbufferedClientConnection::new(config, name)
            .map(|side| Self::new(Side::Client(side), Some(shown)))
    }

    fn new(side: Side, server_name: Option<Box<str>>) -> Self {
        Self {
            side,
            input: Input::Flowing,
            partial: Vec::new(),
            plain: Leftover::default(),
            tail: Tail::default(),
            server_name,
            close_notify_queued: false,
        }
    }

    /// What was negotiated.
    pub(crate) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Server(side) => side,
            Side::Client(side) => side,
        }
    }

    /// The name the client asked for.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether the peer ended its stream with close_notify, and all before it was read.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.input, Input::Ended) && !self.has_plaintext()
    }

    /// Whether the protocol failed, and the failure was told.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.input, Input::Refused)
    }

    /// Whether a read would bring something without more input: plaintext, the end, or a failure.
    pub(crate) fn has_news(&self) -> bool {
        self.has_plaintext() || !matches!(self.input, Input::Flowing)
    }

    pub(crate) fn has_plaintext(&self) -> bool {
        !self.plain.bytes.is_empty()
    }

    /// Tells the protocol's failure, once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        match mem::replace(&mut self.input, Input::Refused) {
            Input::Broken(error) => Some(error),
            other => {
                self.input = other;
                None
            }
        }
    }

    /// Copies plaintext that an earlier [`decrypt`](Self::decrypt) had no room for.
    pub(crate) fn take_plaintext(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.plain.bytes[self.plain.taken..];
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.plain.taken += n;
        if self.plain.taken == self.plain.bytes.len() {
            self.plain = Leftover::default();
        }
        n
    }

    /// What must lie in front of the bytes that are received next.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Begins the handshake, if that is for this side to do.
    pub(crate) fn start(&mut self) {
        if matches!(self.side, Side::Client(_)) && self.partial.is_empty() {
            self.decrypt(&mut [], &mut []);
        }
    }

    /// Decrypts `input`, which begins with [`partial`](Self::partial), in place; returns how much plaintext
    /// is now `into`. What has no room there waits for [`take_plaintext`](Self::take_plaintext), and what
    /// is to be answered is in the tail.
    pub(crate) fn decrypt(&mut self, input: &mut [u8], into: &mut [u8]) -> usize {
        let mut done = 0;
        let mut n = 0;
        let greeting = matches!(self.side, Side::Server(_)) && self.is_handshaking();
        loop {
            let (discard, next) = self.step(&mut input[done..], into, &mut n);
            done += discard;
            match next {
                Next::Again => {}
                Next::NeedsInput => break,
                Next::PeerEnded => {
                    self.input = Input::Ended;
                    // Whatever follows must be ignored (RFC 8446, section 6.1).
                    done = input.len();
                    break;
                }
                Next::Failed(error) => {
                    self.queue_alert();
                    self.input = Input::Broken(error);
                    done = input.len();
                    break;
                }
            }
        }
        if greeting && let Some(name) = resolver::take_asked_name() {
            self.server_name = Some(name);
        }
        self.keep_partial(&input[done..]);
        n
    }

    /// Takes the protocol for broken.
    pub(crate) fn fail(&mut self, error: Error) {
        self.input = Input::Broken(error);
        self.partial = Vec::new();
    }

    fn keep_partial(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Encrypts `plain` to the front of `out`, which must have room for it and [`RECORD_OVERHEAD`] for each
    /// record; returns how many bytes that came to.
    ///
    /// # Errors
    ///
    /// When the session cannot send: it has failed, has sent close_notify, or has used up its keys.
    pub(crate) fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        if self.close_notify_queued || !self.is_sound() {
            return Err(Error::EncryptError);
        }
        self.write(Output::Data(plain), out)
    }

    /// Queues close_notify behind everything, once; a session that has failed or not begun has none to send.
    pub(crate) fn queue_close_notify(&mut self) {
        if self.close_notify_queued || self.is_handshaking() || !self.is_sound() {
            return;
        }
        let mut record = [0; CLOSE_NOTIFY_MAX];
        if let Ok(n) = self.write(Output::CloseNotify, &mut record) {
            self.tail.push(&record[..n]);
        }
        self.close_notify_queued = true;
    }

    /// Whether the protocol has not failed. After that rustls must not be asked for more than the alert: it may
    /// look for messages in input that is gone.
    fn is_sound(&self) -> bool {
        matches!(self.input, Input::Flowing | Input::Ended)
    }

    fn write(&mut self, what: Output<'_>, out: &mut [u8]) -> Result<usize, Error> {
        // Rustls looks for a handshake message where it left one, so it is shown what it has seen.
        let (partial, tail) = (&mut self.partial, &mut self.tail);
        match &mut self.side {
            Side::Server(side) => write(side, partial, tail, what, out),
            Side::Client(side) => write(side, partial, tail, what, out),
        }
    }

    fn step(&mut self, input: &mut [u8], into: &mut [u8], n: &mut usize) -> (usize, Next) {
        let (plain, tail) = (&mut self.plain, &mut self.tail);
        match &mut self.side {
            Side::Server(side) => advance(side.process(input), into, n, plain, tail),
            Side::Client(side) => advance(side.process(input), into, n, plain, tail),
        }
    }

    /// Puts the alert that tells the peer of a failure into the tail.
    fn queue_alert(&mut self) {
        // Only what is to be sent is asked for: rustls must not look for more input after a failure.
        while self.common().wants_write() {
            let (_, Next::Again) = self.step(&mut [], &mut [], &mut 0) else {
                break;
            };
        }
    }
}

/// The two kinds of connection, which rustls drives by methods of the same name.
trait Connection {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// Does what one status of rustls asks for; returns how much of the input is done with.
fn advance<D>(
    status: UnbufferedStatus<'_, '_, D>,
    into: &mut [u8],
    n: &mut usize,
    plain: &mut Leftover,
    tail: &mut Tail,
) -> (usize, Next) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    *n += deliver(record.payload, &mut into[*n..], plain);
                }
                Some(Err(error)) => break Next::Failed(error),
                None => break Next::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, tail),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // It is in the tail, which goes before everything else.
            transmit.done();
            Next::Again
        }
        Ok(ConnectionState::PeerClosed) => Next::PeerEnded,
        Ok(_) => Next::NeedsInput,
        Err(error) => Next::Failed(error),
    };
    (discard, next)
}

/// Copies plaintext `into` the reader's buffer; what has no room there, or came after such, is kept.
fn deliver(payload: &[u8], into: &mut [u8], plain: &mut Leftover) -> usize {
    let room = if plain.bytes.is_empty() {
        into.len()
    } else {
        0
    };
    let n = payload.len().min(room);
    into[..n].copy_from_slice(&payload[..n]);
    plain.bytes.extend_from_slice(&payload[n..]);
    n
}

/// Moves a record of the handshake, or an alert, into the tail.
fn encode<D>(mut data: EncodeTlsData<'_, D>, tail: &mut Tail) -> Next {
    // How long it is, only a refusal tells.
    let len = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            required_size
        }
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Next::Again,
    };
    match data.encode(tail.grow(len)) {
        Ok(_) => Next::Again,
        Err(error) => Next::Failed(Error::General(error.to_string())),
    }
}

/// What is to be encrypted.
enum Output<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

fn write<C: Connection>(
    connection: &mut C,
    partial: &mut [u8],
    tail: &mut Tail,
    what: Output<'_>,
    out: &mut [u8],
) -> Result<usize, Error> {
    loop {
        match connection.process(partial).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let written = match what {
                    Output::Data(plain) => traffic.encrypt(plain, out),
                    Output::CloseNotify => traffic.queue_close_notify(out),
                };
                return written.map_err(|_| Error::EncryptError);
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, tail);
            }
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}
