//! Reading and writing of bodies.

use super::frame::{HEAD, MAX_FRAME};
use super::targets::Targets;
use crate::cluster::Error;
use crate::rpc::wire::Sink;

/// The fields of a body, from the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Error> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Error::InvalidMessage {
            what: "a body that is longer than its operation has",
        })
    }
}

const TOO_SHORT: Error = Error::InvalidMessage {
    what: "a body that is shorter than its operation has",
};

pub(super) fn text(bytes: &[u8]) -> Result<&str, Error> {
    str::from_utf8(bytes).map_err(|_| Error::InvalidMessage {
        what: "a name that is not UTF-8",
    })
}

/// A frame to send: its head and its body's fields of fixed length, then what has no fixed length.
pub(super) struct Parts<'a> {
    fixed: [u8; ROOM],
    len: usize,
    pub(super) targets: Targets<'a>,
    pub(super) text: &'a [u8],
    pub(super) packet: &'a [u8],
}

/// The head and the longest fixed part, that of an answer to Hello.
const ROOM: usize = HEAD + 2 + 1 + 4 + super::NONCE + super::MAC;

impl<'a> Parts<'a> {
    #[inline]
    pub(super) fn new(header: u8, op: u8, seq: u64) -> Self {
        let mut fixed = [0; ROOM];
        fixed[4] = header;
        fixed[5] = op;
        fixed[6..HEAD].copy_from_slice(&seq.to_be_bytes());
        Self {
            fixed,
            len: HEAD,
            targets: Targets::from(&[]),
            text: b"",
            packet: b"",
        }
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.fixed[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends the frame to `dst`, unless it is too long.
    #[inline]
    pub(super) fn write(&mut self, dst: &mut impl Sink) -> Result<(), Error> {
        let len = self.len + 8 * self.targets.len() + self.text.len() + self.packet.len();
        if len > MAX_FRAME {
            return Err(Error::TooLarge {
                what: "frame between servers",
                len,
                max: MAX_FRAME,
            });
        }
        let size = (len - 4) as u32;
        self.fixed[..4].copy_from_slice(&size.to_be_bytes());
        dst.put(&self.fixed[..self.len]);
        // Most frames have none, and the iterator over both kinds of lists costs more than this look.
        if !self.targets.is_empty() {
            for target in self.targets.iter() {
                dst.put(&target.to_be_bytes());
            }
        }
        if !self.text.is_empty() {
            dst.put(self.text);
        }
        if !self.packet.is_empty() {
            dst.put(self.packet);
        }
        Ok(())
    }
}
