//! A socket with a TLS session on it, to be used as a plain one is.

use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, InvalidMessage, PeerMisbehaved, ServerConfig};

use super::info::TlsInfo;
use super::session::{RECORD_MAX, RECORD_OVERHEAD, Session};
use crate::sys::socket::Stream as StreamSocket;

/// A connected socket whose bytes are TLS records.
///
/// The plaintext goes in and out as on a plain socket. What the session itself has to say, and records
/// that the kernel refused, form the *tail*, which is sent before anything else.
pub(crate) struct TlsStream {
    socket: StreamSocket,
    session: Session,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(crate) n: usize,
    /// Whether another read would find nothing: the kernel gave less than it was asked for.
    pub(crate) drained: bool,
}

/// Where the records of all connections of a reactor are received, and encrypted to.
///
/// 82 KiB and 66 KiB, set aside when the first TLS connection needs them.
#[derive(Debug, Default)]
pub(crate) struct Records {
    input: Box<[u8]>,
    output: Box<[u8]>,
}

/// The most plaintext encrypted for one system call.
const BATCH: usize = 4 * RECORD_MAX;

/// The longest record, with header, padding and tag.
const WIRE_RECORD_MAX: usize = RECORD_MAX + 2048;

/// Small enough pieces each become a record of their own, so few of them go into a batch.
const PIECES_MAX: usize = 16;

/// What a peer may send without any plaintext coming of it, before it is taken for an attack.
const FRUITLESS_MAX: usize = 1 << 20;

impl Records {
    fn input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; BATCH + WIRE_RECORD_MAX].into_boxed_slice();
        }
        &mut self.input
    }

    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            let records = BATCH / RECORD_MAX + PIECES_MAX + 2;
            self.output = vec![0; BATCH + records * RECORD_OVERHEAD].into_boxed_slice();
        }
        &mut self.output
    }
}

impl TlsStream {
    pub(crate) fn server(
        socket: StreamSocket,
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        let session = Session::server(config)?;
        Ok(Self { socket, session })
    }

    pub(crate) fn client(
        socket: StreamSocket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let session = Session::client(config, name)?;
        Ok(Self { socket, session })
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

    /// Goes on with the handshake as far as the socket allows; says whether it is done.
    ///
    /// There may be a tail afterwards, also after an error: the alert that tells the peer.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv), but for `WouldBlock`.
    pub(crate) fn shake_hands(&mut self, records: &mut Records) -> io::Result<bool> {
        self.session.start();
        while self.is_handshaking() {
            // The peer may be waiting for what is in the tail.
            self.flush_some()?;
            match self.receive(&mut [], records) {
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
    /// - `InvalidData`, with a [`rustls::Error`] inside, when the peer broke the protocol or refused this
    ///   side. From then on what arrives is received and dropped, `n` being how much that was.
    /// - The socket's own.
    pub(crate) fn recv(&mut self, into: &mut [u8], records: &mut Records) -> io::Result<Received> {
        if self.session.has_plaintext() {
            let n = self.session.take_plaintext(into);
            return Ok(Received { n, drained: false });
        }
        let mut fruitless = 0;
        loop {
            self.check()?;
            if self.session.has_failed() {
                return self.drop_input(records);
            }
            if self.session.has_ended() {
                return Ok(Received {
                    n: 0,
                    drained: true,
                });
            }
            let (wire, received) = self.receive(into, records)?;
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
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            None => Ok(()),
        }
    }

    /// One read of the socket, decrypted `into` the buffer as far as it has room: how many bytes came, and
    /// how much plaintext.
    fn receive(&mut self, into: &mut [u8], records: &mut Records) -> io::Result<(usize, Received)> {
        let partial = self.session.partial();
        let kept = partial.len();
        // What has no room in `into` must be copied once more, so little more is asked for.
        let input = records.input();
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
        let asked = end - kept;
        let wire = self.socket.recv(&mut input[kept..])?;
        if wire == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = self.session.decrypt(&mut input[..kept + wire], into);
        let drained = wire < asked && !self.session.has_news();
        Ok((wire, Received { n, drained }))
    }

    /// Reads to drop: unread input would make the kernel answer with RST, which can destroy the alert.
    fn drop_input(&mut self, records: &mut Records) -> io::Result<Received> {
        let input = records.input();
        let n = self.socket.recv(input)?;
        let drained = n < input.len();
        Ok(Received { n, drained })
    }

    /// Sends the tail, then encrypts and sends as much of `plain` as fits in a batch; says how much that was.
    /// It may be in the tail afterwards.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes no more; the socket's own; `InvalidData` when the session cannot
    /// send any more.
    pub(crate) fn send(&mut self, plain: &[u8], records: &mut Records) -> io::Result<usize> {
        self.send_vectored(&[IoSlice::new(plain)], records)
    }

    /// The same for several slices.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub(crate) fn send_vectored(
        &mut self,
        slices: &[IoSlice<'_>],
        records: &mut Records,
    ) -> io::Result<usize> {
        self.flush()?;
        let out = records.output();
        let mut accepted = 0;
        let mut made = 0;
        for slice in slices.iter().take(PIECES_MAX) {
            let piece = &slice[..slice.len().min(BATCH - accepted)];
            if piece.is_empty() {
                continue;
            }
            match self.session.encrypt(piece, &mut out[made..]) {
                Ok(n) => made += n,
                // What is encrypted already must be sent all the same.
                Err(_) if accepted > 0 => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            accepted += piece.len();
        }
        let out = &out[..made];
        if self.has_tail() {
            self.session.tail.push_data(out, accepted);
            self.flush_some()?;
            return Ok(accepted);
        }
        let sent = match self.socket.send(out) {
            Ok(n) => n,
            Err(error) if is_temporary(&error) => 0,
            Err(error) => return Err(error),
        };
        if sent < made {
            self.session.tail.push_data(&out[sent..], accepted);
        }
        Ok(accepted)
    }

    /// Sends the tail.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel does not take all of it now; the socket's own.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.has_tail() {
            match self.socket.send(self.session.tail.unsent()) {
                Ok(n) => self.session.tail.on_sent(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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

    /// Whether there is something to [`flush`](Self::flush).
    pub(crate) fn has_tail(&self) -> bool {
        !self.session.tail.is_empty()
    }

    /// How many bytes of plaintext it has taken and the kernel has not.
    pub(crate) fn unsent(&self) -> usize {
        self.session.tail.unsent_plain()
    }

    /// Queues close_notify behind everything sent so far; nothing can be sent afterwards.
    pub(crate) fn send_close_notify(&mut self) {
        self.session.queue_close_notify();
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
