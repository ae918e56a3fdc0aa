//! A socket with a TLS session, with the interface of a plain socket.

use std::fmt;
use std::io::{self, IoSlice};
use std::iter::Peekable;

use rustls::{InvalidMessage, PeerMisbehaved};

use super::client::TlsClient;
use super::error::{ConnectionError, TlsError};
use super::info::TlsInfo;
use super::server::TlsServer;
use super::session::{RECORD_MAX, RECORD_OVERHEAD, Session};
use crate::error::StreamError;
use crate::sys::socket::{Received, StreamSocket};

/// A connected socket that carries TLS records.
///
/// Plaintext is sent and received as on a plain socket. The session's own output, and records that the kernel did not
/// accept, form the *tail*, which is sent before anything else.
pub(crate) struct TlsStream {
    socket: StreamSocket,
    session: Session,
    /// True once the socket is known to be connected.
    connected: bool,
    /// The number of bytes accepted after the session failed, which cannot be sent.
    lost: usize,
    /// The number of bytes of records that the kernel has accepted since the handshake began.
    taken: u64,
}

/// The buffers into which the records of all connections of a reactor are received and encrypted.
///
/// They take 82 and 80 KiB, and are allocated when the first TLS connection needs them.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    input: Box<[u8]>,
    output: Box<[u8]>,
}

/// The number of full records in one system call.
const BATCH: usize = 4;

/// Slices shorter than this share a record: a copy is cheaper than a record.
const SHARED_RECORD: usize = 4 << 10;

/// The maximum plaintext accepted by one call.
const SEND_MAX: usize = 1 << 20;

/// The maximum length of a record, with header, padding and tag.
const WIRE_RECORD_MAX: usize = RECORD_MAX + 2048;

/// The number of bytes that a peer may send without resulting plaintext. More counts as an attack.
const NO_PLAINTEXT_MAX: usize = 1 << 20;

impl Scratch {
    fn input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; BATCH * RECORD_MAX + WIRE_RECORD_MAX].into_boxed_slice();
        }
        &mut self.input
    }

    /// Returns the buffer for encrypted records, and the one in which the plaintext of a record is assembled.
    fn output(&mut self) -> (&mut [u8], &mut [u8]) {
        const RECORDS: usize = BATCH * (RECORD_MAX + RECORD_OVERHEAD);
        if self.output.is_empty() {
            self.output = vec![0; RECORDS + RECORD_MAX].into_boxed_slice();
        }
        self.output.split_at_mut(RECORDS)
    }
}

impl TlsStream {
    /// Returns a stream on a connected socket whose peer starts the handshake.
    pub(crate) fn server(socket: StreamSocket, tls: &TlsServer) -> Result<Self, TlsError> {
        let session = tls.session()?;
        Ok(Self {
            socket,
            session,
            connected: true,
            lost: 0,
            taken: 0,
        })
    }

    /// Returns a stream on a socket that is connected, or connecting, to `host`. The peer must prove that identity.
    pub(crate) fn client(
        socket: StreamSocket,
        tls: &TlsClient,
        host: &str,
    ) -> Result<Self, TlsError> {
        let session = tls.session(host)?;
        Ok(Self {
            socket,
            session,
            connected: false,
            lost: 0,
            taken: 0,
        })
    }

    /// Returns a stream on a connected socket that was plain until now. `input` has arrived already, and belongs to the
    /// handshake.
    pub(crate) fn amid(socket: StreamSocket, mut session: Session, input: &mut [u8]) -> Self {
        session.start();
        if !input.is_empty() {
            session.decrypt(input, &mut []);
        }
        Self {
            socket,
            session,
            connected: true,
            lost: 0,
            taken: 0,
        }
    }

    pub(crate) fn socket(&self) -> &StreamSocket {
        &self.socket
    }

    /// Returns the negotiated parameters after the handshake.
    pub(crate) fn info(&self) -> Option<TlsInfo<'_>> {
        (!self.is_handshaking()).then(|| TlsInfo::new(&self.session))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Returns true if the connection is established, so that the peer could take part in the handshake.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Connects, and continues the handshake as far as the socket allows. Returns true once it is complete.
    ///
    /// A tail may remain afterwards, even after an error: the alert for the peer.
    ///
    /// # Errors
    ///
    /// The same as for [`recv`](Self::recv), except `WouldBlock`.
    pub(crate) fn open(
        &mut self,
        writable: bool,
        scratch: &mut Scratch,
    ) -> Result<bool, StreamError> {
        if !self.connected {
            self.connected = writable && self.socket.is_connected()?;
            if !self.connected {
                return Ok(false);
            }
            self.session.start();
        }
        // Input that arrived before the handshake began may have ended it.
        self.check()?;
        while self.is_handshaking() {
            // The peer may wait for the records in the tail.
            self.flush_some()?;
            match self.receive(&mut [], scratch) {
                Ok(_) => self.check()?,
                Err(StreamError::WouldBlock) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Receives plaintext. Returns its length, or 0 after the peer ended its stream with close_notify.
    ///
    /// # Errors
    ///
    /// - `WouldBlock` if there is none now.
    /// - [`StreamError::Truncated`] if the stream ended without close_notify: it may be truncated.
    /// - [`StreamError::Tls`] if the peer violated the protocol or refused this side. Later input is received and dropped, and
    ///   `n` is the number of dropped bytes.
    /// - The errors of the socket.
    pub(crate) fn recv(
        &mut self,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Received, StreamError> {
        if self.session.has_plaintext() {
            let n = self.session.take_plaintext(into);
            return Ok(Received { n, drained: false });
        }
        let mut without_plaintext = 0;
        loop {
            self.check()?;
            if self.session.has_failed() {
                return self.drop_input(scratch);
            }
            if self.session.has_ended() {
                return Ok(Received {
                    n: 0,
                    drained: true,
                });
            }
            let (wire, received) = self.receive(into, scratch)?;
            if received.n > 0 {
                return Ok(received);
            }
            without_plaintext += wire;
            if without_plaintext > NO_PLAINTEXT_MAX {
                self.session
                    .fail(PeerMisbehaved::TooManyEmptyFragments.into());
            }
        }
    }

    /// Returns the protocol's error if there is a new one.
    fn check(&mut self) -> Result<(), StreamError> {
        match self.session.take_failure() {
            Some(error) => Err(invalid(error)),
            None => Ok(()),
        }
    }

    /// Reads the socket once and decrypts to `into`, as far as there is room. Returns the number of received bytes, and
    /// the plaintext.
    fn receive(
        &mut self,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(usize, Received), StreamError> {
        let partial = self.session.partial();
        let kept = partial.len();
        // Plaintext without room in `into` is copied once more, so the read is not much longer than `into`.
        let input = scratch.input();
        let end = input.len().min(kept + into.len() + WIRE_RECORD_MAX);
        let input = &mut input[..end];
        if kept >= end {
            self.session
                .fail(InvalidMessage::HandshakePayloadTooLarge.into());
            return Ok((
                0,
                Received {
                    n: 0,
                    drained: false,
                },
            ));
        }
        input[..kept].copy_from_slice(partial);
        let Received { n: wire, drained } = self.socket.receive(&mut input[kept..])?;
        if wire == 0 {
            return Err(StreamError::Truncated);
        }
        let n = self.session.decrypt(&mut input[..kept + wire], into);
        let drained = drained && !self.session.is_readable();
        Ok((wire, Received { n, drained }))
    }

    /// Reads and drops input. The kernel answers unread input with an RST on close, which can destroy the alert.
    fn drop_input(&mut self, scratch: &mut Scratch) -> Result<Received, StreamError> {
        let input = scratch.input();
        Ok(self.socket.receive(input)?)
    }

    /// Sends the tail, then encrypts and sends `plain`, until the kernel accepts no more. Returns the number of bytes
    /// accepted. The last of them may be in the tail afterwards. A session that has failed accepts them and never sends
    /// them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the kernel accepts nothing. [`StreamError::Tls`] if the session cannot send any more. The errors of the
    /// socket.
    pub(crate) fn send(
        &mut self,
        plain: &[u8],
        scratch: &mut Scratch,
    ) -> Result<usize, StreamError> {
        self.send_vectored(&[IoSlice::new(plain)], scratch)
    }

    /// Sends several slices as [`send`](Self::send) does.
    ///
    /// # Errors
    ///
    /// The same as for [`send`](Self::send).
    pub(crate) fn send_vectored(
        &mut self,
        slices: &[IoSlice<'_>],
        scratch: &mut Scratch,
    ) -> Result<usize, StreamError> {
        self.flush()?;
        if self.has_tail() {
            return Ok(0);
        }
        if self.session.has_failed() {
            let len = slices.iter().map(|slice| slice.len()).sum();
            self.lost += len;
            return Ok(len);
        }
        let (out, shared) = scratch.output();
        let (mut accepted, mut plain, mut made) = (0, 0, 0);
        let mut pieces = slices
            .iter()
            .flat_map(|slice| slice.chunks(RECORD_MAX))
            .peekable();
        while let Some(piece) = pieces.next() {
            let record = join(piece, &mut pieces, shared);
            if out.len() - made < record.len() + RECORD_OVERHEAD {
                self.send_records(&out[..made], plain)?;
                accepted += plain;
                (plain, made) = (0, 0);
                if self.has_tail() || accepted >= SEND_MAX {
                    break;
                }
            }
            match self.session.encrypt(record, &mut out[made..]) {
                Ok(n) => made += n,
                // Records that are already encrypted are still sent.
                Err(_) if accepted + plain > 0 => break,
                Err(error) => return Err(invalid(error)),
            }
            plain += record.len();
        }
        if made > 0 {
            self.send_records(&out[..made], plain)?;
        }
        Ok(accepted + plain)
    }

    /// Sends records made of `plain` bytes. The part that the kernel does not accept becomes the tail.
    fn send_records(&mut self, records: &[u8], plain: usize) -> Result<(), StreamError> {
        let tail = &mut self.session.tail;
        if !tail.is_empty() {
            // Encryption has queued records that must go first. All of it is left to the next flush, since an error
            // here would mean that nothing was accepted.
            tail.push_data(records, plain);
            return Ok(());
        }
        let sent = match self.socket.send(records) {
            Ok(n) => n,
            Err(error) if is_temporary(&error) => 0,
            Err(error) => return Err(error.into()),
        };
        self.taken += sent as u64;
        if sent < records.len() {
            tail.push_data(&records[sent..], plain);
        }
        Ok(())
    }

    /// Sends the tail, as far as the kernel accepts it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the kernel accepts none of it. The errors of the socket.
    pub(crate) fn flush(&mut self) -> Result<(), StreamError> {
        let mut progress = false;
        while self.has_tail() {
            match self.socket.send(self.session.tail.unsent()) {
                Ok(n) => {
                    self.session.tail.on_sent(n);
                    self.taken += n as u64;
                    progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A peer that accepts some bytes has not stalled.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends the tail. A part that remains is not an error.
    fn flush_some(&mut self) -> Result<(), StreamError> {
        match self.flush() {
            Err(StreamError::WouldBlock) => Ok(()),
            flushed => flushed,
        }
    }

    /// Returns true if there is input, encrypted or not, that was not returned yet.
    pub(crate) fn has_input(&self) -> bool {
        self.has_plaintext() || self.socket.has_input()
    }

    /// Returns true if there is decrypted input that was not returned yet.
    pub(crate) fn has_plaintext(&self) -> bool {
        self.session.has_plaintext()
    }

    /// Returns true if there is something to [`flush`](Self::flush).
    pub(crate) fn has_tail(&self) -> bool {
        !self.session.tail.is_empty()
    }

    /// Returns the number of bytes of records that the kernel has accepted.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the number of bytes of plaintext that this stream has accepted and the kernel has not.
    pub(crate) fn unsent(&self) -> usize {
        self.session.tail.unsent_plain() + self.lost
    }

    /// Sends close_notify after everything sent so far, and then FIN.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the kernel must accept the tail first: call it again then. The errors of the socket.
    pub(crate) fn shutdown_write(&mut self) -> Result<(), StreamError> {
        self.session.queue_close_notify();
        while self.has_tail() {
            self.flush()?;
        }
        Ok(self.socket.shutdown_write()?)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("handshaking", &self.is_handshaking())
            .finish_non_exhaustive()
    }
}

/// Returns a record's plaintext: the piece, or the short pieces that begin with it.
fn join<'r, 'a: 'r>(
    piece: &'a [u8],
    others: &mut Peekable<impl Iterator<Item = &'a [u8]>>,
    shared: &'r mut [u8],
) -> &'r [u8] {
    let fits =
        |len: usize, next: &&[u8]| next.len() < SHARED_RECORD && len + next.len() <= RECORD_MAX;
    if piece.len() >= SHARED_RECORD || others.peek().is_none_or(|next| !fits(piece.len(), next)) {
        return piece;
    }
    let mut len = piece.len();
    shared[..len].copy_from_slice(piece);
    while let Some(next) = others.next_if(|next| fits(len, next)) {
        shared[len..][..next.len()].copy_from_slice(next);
        len += next.len();
    }
    &shared[..len]
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn short_slices_share_a_record_and_long_ones_are_not_copied() {
        let lens = [
            10, 0, 600, 5_000, 7, 4_095, 4_095, 4_095, 4_095, 100, RECORD_MAX, 1,
        ];
        let slices: Vec<Vec<u8>> = lens.iter().map(|len| vec![*len as u8; *len]).collect();
        let mut pieces = slices.iter().map(Vec::as_slice).peekable();
        let mut shared = vec![0; RECORD_MAX];
        let mut joined = Vec::new();
        let mut records = Vec::new();
        while let Some(piece) = pieces.next() {
            let record = join(piece, &mut pieces, &mut shared);
            joined.extend_from_slice(record);
            records.push(record.len());
        }
        assert_eq!(joined, slices.concat());
        assert_eq!(records, [610, 5_000, 12_292, 4_195, RECORD_MAX, 1]);
    }
}

/// Wraps an error of the protocol.
fn invalid(error: rustls::Error) -> StreamError {
    StreamError::Tls(io::Error::new(
        io::ErrorKind::InvalidData,
        ConnectionError(error),
    ))
}
