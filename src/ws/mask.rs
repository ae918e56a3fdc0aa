//! Masking (RFC 6455, section 5.3).

/// A masking key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask(pub(super) [u8; 4]);

impl Mask {
    /// Returns an unpredictable key, as section 10.3 requires.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Masks or unmasks `bytes`. They must start at the start of the payload, or a multiple of 4 bytes after it.
    #[inline]
    pub(super) fn apply(self, bytes: &mut [u8]) {
        let [a, b, c, d] = self.0;
        // Compilers turn steps of eight bytes into vector instructions.
        let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
        }
        let (half, rest) = rest.as_chunks_mut::<4>();
        for word in half {
            *word = (u32::from_ne_bytes(*word) ^ key as u32).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip([a, b, c]) {
            *byte ^= key;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_byte_is_masked_by_its_place(mut bytes in prop::collection::vec(any::<u8>(), 0..200), key: [u8; 4]) {
            let expected: Vec<u8> = bytes.iter().enumerate().map(|(n, byte)| byte ^ key[n % 4]).collect();
            Mask(key).apply(&mut bytes);
            prop_assert_eq!(bytes, expected);
        }

        #[test]
        fn pieces_of_whole_words_are_masked_as_one(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..50usize, key: [u8; 4]) {
            let mut whole = bytes.clone();
            Mask(key).apply(&mut whole);
            let mut pieces = bytes;
            let (front, back) = pieces.split_at_mut((cut * 4).min(whole.len()));
            Mask(key).apply(front);
            Mask(key).apply(back);
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn masks_differ() {
        assert!((0..8).any(|_| Mask::random() != Mask::random()));
    }
}
