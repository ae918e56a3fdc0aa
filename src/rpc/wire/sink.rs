use bytes::BytesMut;

use crate::buf::outbox::Outbox;

/// The destination of an encoded message: a vector, or a connection's [`Outbox`]. Used by
/// [`Protocol`](super::Protocol).
pub trait Sink {
    /// Appends a copy of `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Appends `len` bytes, which `fill` writes. It gets a slice of that length with arbitrary content, and is called once.
    fn put_with(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        self.put(&bytes);
    }
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

    fn put_with(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        Outbox::put_with(self, len, |room| {
            fill(room);
            len
        });
    }
}

/// Room of a known length, which is filled from its beginning.
pub(super) struct Room<'a>(&'a mut [u8]);

impl<'a> Room<'a> {
    #[inline]
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self(room)
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.0 = rest;
    }
}
