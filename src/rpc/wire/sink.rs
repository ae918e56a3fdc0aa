use bytes::BytesMut;

use crate::buf::outbox::Outbox;

/// Where a [`Protocol`](super::Protocol) writes an encoded message: a vector, or a connection's [`Outbox`].
pub trait Sink {
    /// Appends a copy of `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for Outbox<'_> {
    fn put(&mut self, bytes: &[u8]) {
        Outbox::put(self, bytes);
    }
}

/// The many small parts of a message, handed on in few pieces.
pub(super) struct Gather<'a> {
    sink: &'a mut dyn Sink,
    gathered: [u8; 192],
    len: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(sink: &'a mut dyn Sink) -> Self {
        Self {
            sink,
            gathered: [0; 192],
            len: 0,
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > self.gathered.len() {
            self.flush();
            if bytes.len() > self.gathered.len() / 2 {
                self.sink.put(bytes);
                return;
            }
        }
        self.gathered[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Hands on what is left. To be called last.
    pub(super) fn flush(&mut self) {
        if self.len > 0 {
            self.sink.put(&self.gathered[..self.len]);
            self.len = 0;
        }
    }
}
