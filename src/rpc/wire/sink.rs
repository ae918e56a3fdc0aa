use bytes::BytesMut;

use crate::buf::outbox::Outbox;

/// The destination of an encoded message: a vector, or a connection's [`Outbox`]. Used by
/// [`Protocol`](super::Protocol).
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

/// The bytes in front of a body: small parts, collected on the stack as long as they fit.
pub(super) struct Head {
    short: [u8; 128],
    len: usize,
    /// All parts, once they no longer fit on the stack.
    long: Vec<u8>,
}

impl Head {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            short: [0; 128],
            len: 0,
            long: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.short.get_mut(self.len..self.len + bytes.len()) {
            Some(room) if self.long.is_empty() => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            _ => self.put_long(bytes),
        }
    }

    /// Appends an array, whose length is known at compile time.
    #[inline]
    pub(super) fn put_array<const N: usize>(&mut self, bytes: [u8; N]) {
        match self.short.get_mut(self.len..self.len + N) {
            Some(room) if self.long.is_empty() => {
                room.copy_from_slice(&bytes);
                self.len += N;
            }
            _ => self.put_long(&bytes),
        }
    }

    #[cold]
    fn put_long(&mut self, bytes: &[u8]) {
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.short[..self.len]);
        }
        self.long.extend_from_slice(bytes);
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        if self.long.is_empty() {
            &self.short[..self.len]
        } else {
            &self.long
        }
    }
}
