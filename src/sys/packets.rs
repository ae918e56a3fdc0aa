//! A Unix socket of records (`SOCK_SEQPACKET`) as a stream of bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags};

use super::socket::{Received, StreamSocket};

/// A connected Unix socket of records. Records that are received are joined, and output is cut into records.
#[derive(Debug)]
pub(crate) struct PacketStream {
    socket: StreamSocket,
    /// A record for which the reader had no room, and the number of its bytes that it has taken.
    rest: Vec<u8>,
    taken: usize,
}

/// The longest record that is sent. Many peers read into a buffer of that size, Go's `bufio` for example, and the kernel
/// drops the part of a record that has no room.
const SENT_MAX: usize = 4096;

/// The longest record that is received.
const RECEIVED_MAX: usize = 64 << 10;

impl PacketStream {
    pub(crate) fn new(socket: StreamSocket) -> Self {
        Self {
            socket,
            rest: Vec::new(),
            taken: 0,
        }
    }

    pub(crate) fn socket(&self) -> &StreamSocket {
        &self.socket
    }

    /// Receives bytes of one record. Returns 0 bytes at the end of the stream, and for an empty record.
    ///
    /// # Errors
    ///
    /// `InvalidData` for a record that is too long. The errors of `recvmsg(2)`.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> io::Result<Received> {
        let n = if self.taken < self.rest.len() {
            self.take_rest(into)
        } else if let Some(into) = into.get_mut(..RECEIVED_MAX) {
            self.receive_record(into)?
        } else {
            let mut record = vec![0; RECEIVED_MAX];
            let len = self.receive_record(&mut record)?;
            record.truncate(len);
            record.shrink_to_fit();
            self.rest = record;
            self.take_rest(into)
        };
        // Only the kernel knows if another record follows.
        Ok(Received { n, drained: false })
    }

    fn take_rest(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.rest[self.taken..];
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        if self.taken == self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
        n
    }

    fn receive_record(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut control = RecvAncillaryBuffer::default();
        let slices = &mut [IoSliceMut::new(into)];
        let socket = self.socket.as_fd();
        let record = rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::empty())?;
        if record.flags.contains(ReturnFlags::TRUNC) {
            let problem = format!(
                "the peer has sent a record that is too long; at most {RECEIVED_MAX} bytes are taken"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(record.bytes)
    }

    /// Sends bytes in records, until the kernel takes no more. Returns the number of bytes that it took.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        for record in bytes.chunks(SENT_MAX) {
            match self.socket.send(record) {
                // The kernel takes a record as a whole.
                Ok(n) => sent += n,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Sends several slices as one. Short ones share a record.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut offered, mut sent) = (0, 0);
        let mut slices = slices.iter().filter(|slice| !slice.is_empty()).peekable();
        while let Some(slice) = slices.next() {
            let shares = |next: &&IoSlice<'_>, len| len + next.len() <= SENT_MAX;
            let (mut record, mut len) = ([0; SENT_MAX], slice.len());
            let bytes = match slices.peek() {
                Some(next) if shares(next, len) => {
                    record[..len].copy_from_slice(slice);
                    while let Some(next) = slices.next_if(|next| shares(next, len)) {
                        record[len..][..next.len()].copy_from_slice(next);
                        len += next.len();
                    }
                    &record[..len]
                }
                _ => slice,
            };
            match self.send(bytes) {
                Ok(n) => sent += n,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
            offered += len;
            if sent < offered {
                break;
            }
        }
        Ok(sent)
    }

    /// Returns true if there is input that has not been returned yet.
    pub(crate) fn has_input(&self) -> bool {
        self.taken < self.rest.len() || self.socket.has_input()
    }
}
