//! A socket with a TLS session on it, to be used as a plain one is.

use std::fmt;
use std::io::{self, IoSlice};
use std::iter::Peekable;

use rustls::{InvalidMessage, PeerMisbehaved};

use super::client::TlsClient;
use super::error::{ConnectionError, TlsError};
use super::info::TlsInfo;
use super::server::TlsServer;
use super::session::{RECORD_MAX, RECORD_OVERHEAD, Session};
use crate::sys::socket::{Received, StreamSocket};

/// A connected socket whose bytes are TLS records.
///
/// The plaintext goes in and out as on a plain socket. What the session itself has to say, and records
/// that the kernel refused, form the *tail*, which is sent before anything else.
pub(crate) struct TlsStream {
    socket: StreamSocket,
    session: Session,
    /// Whether the socket is connected, as far as is known.
    connected: bool,
    /// Bytes taken after the session failed: they cannot be sent any more.
    lost: usize,
    /// Bytes of records that the kernel has taken since the handshake began.
    taken: u64,
}

/// Where the records of all connections of a reactor are received, and encrypted to.
///
/// 82 and 80 KiB, set aside when the first TLS connection needs them.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    input: Box<[u8]>,
    output: Box<[u8]>,
}

/// How many full records go into one system call.
const BATCH: usize = 4;

/// Slices shorter than this share records: a copy is cheaper than a record.
const SHARED_RECORD: usize = 4 << 10;

/// The most plaintext accepted by one call.
const SEND_MAX: usize = 1 << 20;

/// The longest record, with header, padding and tag.
const WIRE_RECORD_MAX: usize = RECORD_MAX + 2048;

/// What a peer may send without any plaintext coming of it, before it is taken for an attack.
const FRUITLESS_MAX: usize = 1 << 20;

impl Scratch {
    fn input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; BATCH * RECORD_MAX + WIRE_RECORD_MAX].into_boxed_slice();
        }
        &mut self.input
    }

    /// Where records are encrypted to, and where the plaintext of one is put together.
    fn output(&mut self) -> (&mut [u8], &mut [u8]) {
        const RECORDS: usize = BATCH * (RECORD_MAX + RECORD_OVERHEAD);
        if self.output.is_empty() {
            self.output = vec![0; RECORDS + RECORD_MAX].into_boxed_slice();
        }
        self.output.split_at_mut(RECORDS)
    }
}

impl TlsStream {
    /// A connected socket, whose peer begins the handshake.
    pub(crate) fn server(socket: StreamSocket, tls: &TlsServer) -> Result<Self, rustls::Error> {
        let session = Session::server(tls.config().clone())?;
        Ok(Self {
            socket,
            session,
            connected: true,
            lost: 0,
            taken: 0,
        })
    }

    /// A socket that connects, or is connected, to `host`, which the peer has to prove to be.
    pub(crate) fn client(
        socket: StreamSocket,
        tls: &TlsClient,
        host: &str,
    ) -> Result<Self, TlsError> {
        let name = tls.name_for(host)?;
        let session = Session::client(tls.config().clone(), name).map_err(TlsError::Setup)?;
        Ok(Self {
            socket,
            session,
            connected: false,
            lost: 0,
            taken: 0,
        })
    }

    pub(crate) fn socket(&self) -> &StreamSocket {
        &self.socket
    }

    /// What was negotiated, once the handshake is done.
    pub(crate) fn info(&self) -> Option<TlsInfo<'_>> {
        (!self.is_handshaking()).then(|| TlsInfo::new(&self.session))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whether the peer had the chance to begin the handshake, or to answer to it.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Connects, and goes on with the handshake as far as the socket allows; returns whether it is done.
    ///
    /// There may be a tail afterwards, also after an error: the alert that tells the peer.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv), but for `WouldBlock`.
    pub(crate) fn open(&mut self, writable: bool, scratch: &mut Scratch) -> io::Result<bool> {
        if !self.connected {
            self.connected = writable && self.socket.is_connected()?;
            if !self.connected {
                return Ok(false);
            }
            self.session.start();
        }
        while self.is_handshaking() {
            // The peer may be waiting for what is in the tail.
            self.flush_some()?;
            match self.receive(&mut [], scratch) {
                Ok(_) => self.check()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Receives plaintext: how much, or 0 once the peer has ended its stream with close_notify.
    ///
    /// # Errors
    ///
    /// - `WouldBlock` when there is none now.
    /// - `UnexpectedEof` when the stream ended without close_notify: it may have been cut short.
    /// - `InvalidData` when the peer broke the protocol or refused this
    ///   side. From then on what arrives is received and dropped, `n` being how much that was.
    /// - The socket's own.
    pub(crate) fn recv(&mut self, into: &mut [u8], scratch: &mut Scratch) -> io::Result<Received> {
        if self.session.has_plaintext() {
            let n = self.session.take_plaintext(into);
            return Ok(Received { n, drained: false });
        }
        let mut fruitless = 0;
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
            fruitless += wire;
            if fruitless > FRUITLESS_MAX {
                self.session
                    .fail(PeerMisbehaved::TooManyEmptyFragments.into());
            }
        }
    }

    /// Tells the protocol's failure, if there is a new one.
    fn check(&mut self) -> io::Result<()> {
        match self.session.take_failure() {
            Some(error) => Err(invalid(error)),
            None => Ok(()),
        }
    }

    /// One read of the socket, decrypted `into` the buffer as far as it has room: how many bytes came, and
    /// how much plaintext.
    fn receive(&mut self, into: &mut [u8], scratch: &mut Scratch) -> io::Result<(usize, Received)> {
        let partial = self.session.partial();
        let kept = partial.len();
        // What has no room in `into` must be copied once more, so little more is asked for.
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
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = self.session.decrypt(&mut input[..kept + wire], into);
        let drained = drained && !self.session.has_news();
        Ok((wire, Received { n, drained }))
    }

    /// Reads to drop: unread input would make the kernel answer with RST, which can destroy the alert.
    fn drop_input(&mut self, scratch: &mut Scratch) -> io::Result<Received> {
        let input = scratch.input();
        self.socket.receive(input)
    }

    /// Sends the tail, then encrypts and sends `plain`, until the kernel refuses; returns how much that was.
    /// The last of it may be in the tail afterwards. When the session has failed it is taken and never sent.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes no more; the socket's own; `InvalidData` when the session cannot
    /// send any more.
    pub(crate) fn send(&mut self, plain: &[u8], scratch: &mut Scratch) -> io::Result<usize> {
        self.send_vectored(&[IoSlice::new(plain)], scratch)
    }

    /// The same for several slices.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub(crate) fn send_vectored(
        &mut self,
        slices: &[IoSlice<'_>],
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
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
                // What is encrypted already is sent all the same.
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

    /// Sends records made of `plain` bytes; what the kernel refuses becomes the tail.
    fn send_records(&mut self, records: &[u8], plain: usize) -> io::Result<()> {
        let tail = &mut self.session.tail;
        if !tail.is_empty() {
            // Encrypting has brought forth something that goes first. All of it is for the next flush: an error now
            // would say that nothing was taken.
            tail.push_data(records, plain);
            return Ok(());
        }
        let sent = match self.socket.send(records) {
            Ok(n) => n,
            Err(error) if is_temporary(&error) => 0,
            Err(error) => return Err(error),
        };
        self.taken += sent as u64;
        if sent < records.len() {
            tail.push_data(&records[sent..], plain);
        }
        Ok(())
    }

    /// Sends the tail, or as much of it as the kernel takes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes nothing of it now; the socket's own.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut progress = false;
        while self.has_tail() {
            match self.socket.send(self.session.tail.unsent()) {
                Ok(n) => {
                    self.session.tail.on_sent(n);
                    self.taken += n as u64;
                    progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A peer that takes something has not stalled.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same, and it is no error that some of it remains.
    fn flush_some(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Whether there is input, decrypted or not, that has not been received.
    pub(crate) fn has_input(&self) -> bool {
        self.has_plaintext() || self.socket.has_input()
    }

    /// Whether there is decrypted input that has not been received.
    pub(crate) fn has_plaintext(&self) -> bool {
        self.session.has_plaintext()
    }

    /// Whether there is something to [`flush`](Self::flush).
    pub(crate) fn has_tail(&self) -> bool {
        !self.session.tail.is_empty()
    }

    /// How many bytes of records the kernel has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// How many bytes of plaintext it has taken and the kernel has not.
    pub(crate) fn unsent(&self) -> usize {
        self.session.tail.unsent_plain() + self.lost
    }

    /// Sends close_notify behind everything sent so far, and FIN behind that.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel must take the tail first: to be called again then. The socket's own.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        self.session.queue_close_notify();
        while self.has_tail() {
            self.flush()?;
        }
        self.socket.shutdown_write()
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

/// A record's plaintext: the piece, or the short pieces that begin with it.
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

/// An error of the protocol.
fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, ConnectionError(error))
}
