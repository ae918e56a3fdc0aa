//! Sets of bytes, for the character classes of grammars.

/// A set of bytes.
pub(crate) struct Charset([bool; 256]);

impl Charset {
    /// Creates a set of the letters and digits of ASCII, and `others`.
    pub(crate) const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            set[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut n = 0;
        while n < others.len() {
            set[others[n] as usize] = true;
            n += 1;
        }
        Self(set)
    }

    /// Creates a set of all bytes except the control characters of ASCII, and adds `others`.
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only HTTP needs it"))]
    pub(crate) const fn printable_and(others: &[u8]) -> Self {
        let mut set = [true; 256];
        let mut byte = 0;
        while byte < 128 {
            set[byte] = !(byte as u8).is_ascii_control();
            byte += 1;
        }
        let mut n = 0;
        while n < others.len() {
            set[others[n] as usize] = true;
            n += 1;
        }
        Self(set)
    }

    #[cfg_attr(
        not(feature = "ws"),
        allow(dead_code, reason = "only WebSocket needs it")
    )]
    #[inline]
    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    /// Returns true if all of `bytes` are in the set.
    ///
    /// It checks eight bytes without a branch. This takes half as long as a loop that stops at the first byte outside the
    /// set. The last eight overlap those before them.
    #[inline]
    pub(crate) fn has_all(&self, bytes: &[u8]) -> bool {
        let mut all = true;
        let Some(last) = bytes.last_chunk::<8>() else {
            for byte in bytes {
                all &= self.0[usize::from(*byte)];
            }
            return all;
        };
        for chunk in bytes.as_chunks::<8>().0 {
            all &= self.has_each(chunk);
        }
        all & self.has_each(last)
    }

    #[inline(always)]
    fn has_each(&self, chunk: &[u8; 8]) -> bool {
        chunk
            .iter()
            .fold(true, |all, byte| all & self.0[usize::from(*byte)])
    }
}
