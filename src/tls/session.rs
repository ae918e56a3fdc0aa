//! A TLS session without a socket: it turns records into plaintext, and plaintext into records.
//!
//! It is built on rustls's unbuffered connections, so an idle session holds no buffer: records are decrypted where they
//! were received, and encrypted where they are sent from. The session keeps only leftovers, in vectors that are freed
//! once they are empty: an incomplete record, plaintext for which the reader had no room, and records that the kernel
//! did not accept.
//!
//! # Dependence on rustls's unbuffered API
//!
//! **This is the only file that uses rustls's unbuffered API** (`rustls::unbuffered`, `UnbufferedServerConnection`,
//! `UnbufferedClientConnection`). Keep it that way: rustls 0.24 removes this API
//! (<https://github.com/rustls/rustls/pull/2905>), and then only this file and its buffers have to change.
//!
//! The plan for rustls 0.24, as its `0.24.0-dev.2` looks; check it again against the release:
//!
//! - `Connection<Side, Tcp>` replaces both unbuffered types, and `SideData` replaces the trait `Connection` below.
//! - [`Session::decrypt`] calls `read_tls(&mut SliceInput, &mut Vec<u8>)` and takes the plaintext from
//!   `MessageHandler::next_payload`. `TlsInputBuffer` decrypts in place, as today, and counts the discarded bytes,
//!   which become `done`. `IoState::peer_has_closed` replaces `ConnectionState::PeerClosed`.
//! - [`Session::encrypt`] calls `write(OutboundPlain, &mut Vec<u8>)`, which appends to a vector. The output scratch
//!   buffer in `stream.rs` therefore becomes a `Vec<u8>` with its capacity reserved once, and `encrypt` no longer
//!   writes into a slice.
//! - Handshake messages and alerts are appended to the same vector, or to the tail's, so `encode` and
//!   [`Session::queue_alert`] go.
//! - `Connection::server_name` returns the client's SNI, so the thread-local in `resolver.rs` goes.
//! - Other files follow renames only: `ServerCredentialResolver` and `ClientCredentialResolver` replace the traits in
//!   `resolver.rs` and `client.rs`, and the crate `rustls-ring` replaces the feature `ring` (`mod.rs`).
//!
//! Before the move, measure an idle connection and the TLS echo (`docs/benchmarks.md`). Stay on rustls 0.23
//! until the result is not worse, but no longer than 0.23 receives security fixes.

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
    /// Incomplete records, or records of an incomplete handshake message, in the state in which rustls left them.
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

/// The state of the peer's stream.
enum Input {
    Open,
    /// The peer ended it with close_notify.
    Ended,
    /// The peer violated the protocol or refused this side. The error has not been reported yet.
    Failed(Error),
    /// The same, and the error has been reported.
    FailureReported,
}

/// Plaintext for which the reader had no room.
#[derive(Default)]
struct Leftover {
    bytes: Vec<u8>,
    taken: usize,
}

/// The result of one step of rustls.
enum Step {
    Again,
    NeedsInput,
    PeerEnded,
    Failed(Error),
}

/// An upper bound for the header, padding and tag that a record adds to its plaintext.
pub(super) const RECORD_OVERHEAD: usize = 64;

/// The maximum plaintext of a record.
pub(super) const RECORD_MAX: usize = 16 << 10;

/// The maximum length of a close_notify, with the records that rustls may have queued in front of it.
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
            input: Input::Open,
            partial: Vec::new(),
            plain: Leftover::default(),
            tail: Tail::default(),
            server_name,
            close_notify_queued: false,
        }
    }

    /// Returns the negotiated parameters.
    pub(crate) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Server(side) => side,
            Side::Client(side) => side,
        }
    }

    /// Returns the name that the client asked for.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Returns true if the peer ended its stream with close_notify and all data before it was read.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.input, Input::Ended) && !self.has_plaintext()
    }

    /// Returns true if the protocol failed and the error was reported.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.input, Input::FailureReported)
    }

    /// Returns true if a read returns something without more input: plaintext, the end, or an error.
    pub(crate) fn is_readable(&self) -> bool {
        self.has_plaintext() || !matches!(self.input, Input::Open)
    }

    pub(crate) fn has_plaintext(&self) -> bool {
        !self.plain.bytes.is_empty()
    }

    /// Returns the protocol's error, once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        match mem::replace(&mut self.input, Input::FailureReported) {
            Input::Failed(error) => Some(error),
            other => {
                self.input = other;
                None
            }
        }
    }

    /// Copies plaintext for which an earlier [`decrypt`](Self::decrypt) had no room.
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

    /// Returns the bytes that must precede the next received bytes.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Starts the handshake if this side is the client.
    pub(crate) fn start(&mut self) {
        if matches!(self.side, Side::Client(_)) && self.partial.is_empty() {
            self.decrypt(&mut [], &mut []);
        }
    }

    /// Decrypts `input`, which begins with [`partial`](Self::partial), in place. Returns the number of bytes of
    /// plaintext that were written to `into`. [`take_plaintext`](Self::take_plaintext) returns plaintext that had no
    /// room there. Answers of the protocol go to the tail.
    pub(crate) fn decrypt(&mut self, input: &mut [u8], into: &mut [u8]) -> usize {
        let mut done = 0;
        let mut n = 0;
        let awaits_client_hello = matches!(self.side, Side::Server(_)) && self.is_handshaking();
        loop {
            let (discard, next) = self.step(&mut input[done..], into, &mut n);
            done += discard;
            match next {
                Step::Again => {}
                Step::NeedsInput => break,
                Step::PeerEnded => {
                    self.input = Input::Ended;
                    // Input after close_notify must be ignored (RFC 8446, section 6.1).
                    done = input.len();
                    break;
                }
                Step::Failed(error) => {
                    self.queue_alert();
                    self.input = Input::Failed(error);
                    done = input.len();
                    break;
                }
            }
        }
        if awaits_client_hello && let Some(name) = resolver::take_requested_name() {
            self.server_name = Some(name);
        }
        self.keep_partial(&input[done..]);
        n
    }

    /// Marks the protocol as failed.
    pub(crate) fn fail(&mut self, error: Error) {
        self.input = Input::Failed(error);
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

    /// Encrypts `plain` to the front of `out`, which must have room for it and [`RECORD_OVERHEAD`] for each record.
    /// Returns the number of bytes written.
    ///
    /// # Errors
    ///
    /// Returns an error if the session cannot send: it failed, sent close_notify, or used up its keys.
    pub(crate) fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        if self.close_notify_queued || !self.is_usable() {
            return Err(Error::EncryptError);
        }
        self.write(Output::Data(plain), out)
    }

    /// Queues a close_notify after all other records, once. A session that failed, or whose handshake is incomplete,
    /// sends none.
    pub(crate) fn queue_close_notify(&mut self) {
        if self.close_notify_queued || self.is_handshaking() || !self.is_usable() {
            return;
        }
        let mut record = [0; CLOSE_NOTIFY_MAX];
        if let Ok(n) = self.write(Output::CloseNotify, &mut record) {
            self.tail.push(&record[..n]);
        }
        self.close_notify_queued = true;
    }

    /// Returns true if the protocol has not failed. After a failure only the alert may be taken from rustls: it could
    /// look for messages in input that is gone.
    fn is_usable(&self) -> bool {
        matches!(self.input, Input::Open | Input::Ended)
    }

    fn write(&mut self, what: Output<'_>, out: &mut [u8]) -> Result<usize, Error> {
        // Rustls expects an incomplete handshake message where it left it, so pass the same bytes again.
        let (partial, tail) = (&mut self.partial, &mut self.tail);
        match &mut self.side {
            Side::Server(side) => write(side, partial, tail, what, out),
            Side::Client(side) => write(side, partial, tail, what, out),
        }
    }

    fn step(&mut self, input: &mut [u8], into: &mut [u8], n: &mut usize) -> (usize, Step) {
        let (plain, tail) = (&mut self.plain, &mut self.tail);
        match &mut self.side {
            Side::Server(side) => advance(side.process(input), into, n, plain, tail),
            Side::Client(side) => advance(side.process(input), into, n, plain, tail),
        }
    }

    /// Queues the alert that reports a failure to the peer.
    fn queue_alert(&mut self) {
        // Take only pending output: rustls must not look for more input after a failure.
        while self.common().wants_write() {
            let (_, Step::Again) = self.step(&mut [], &mut [], &mut 0) else {
                break;
            };
        }
    }
}

/// The two kinds of connection, whose methods in rustls have the same names.
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

/// Handles one status of rustls. Returns the number of input bytes to discard.
fn advance<D>(
    status: UnbufferedStatus<'_, '_, D>,
    into: &mut [u8],
    n: &mut usize,
    plain: &mut Leftover,
    tail: &mut Tail,
) -> (usize, Step) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    *n += deliver(record.payload, &mut into[*n..], plain);
                }
                Some(Err(error)) => break Step::Failed(error),
                None => break Step::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, tail),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // The data is already in the tail, which is sent first.
            transmit.done();
            Step::Again
        }
        Ok(ConnectionState::PeerClosed) => Step::PeerEnded,
        Ok(_) => Step::NeedsInput,
        Err(error) => Step::Failed(error),
    };
    (discard, next)
}

/// Copies plaintext to the reader's buffer `into`. Keeps the part that has no room there, and all plaintext after
/// that.
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

/// Moves a handshake record or an alert into the tail.
fn encode<D>(mut data: EncodeTlsData<'_, D>, tail: &mut Tail) -> Step {
    // Rustls reports the length only by refusing a buffer that is too small.
    let len = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            required_size
        }
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Step::Again,
    };
    match data.encode(tail.grow(len)) {
        Ok(_) => Step::Again,
        Err(error) => Step::Failed(Error::General(error.to_string())),
    }
}

/// The data to encrypt.
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
