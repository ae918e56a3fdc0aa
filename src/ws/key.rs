//! The keys of the opening handshake (RFC 6455, sections 4.1 and 4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`: 28 characters of base64.
pub(super) type AcceptKey = [u8; 28];

/// Returns the answer to a key, which must be valid.
pub(super) fn answer(key: &[u8]) -> AcceptKey {
    let hash = Sha1::new().chain_update(key).chain_update(MAGIC).finalize();
    let mut answer = [0; 28];
    // 20 bytes make 28 characters.
    let _ = STANDARD.encode_slice(hash, &mut answer);
    answer
}

/// The constant that is hashed with the key, so that a server of another protocol does not give the right answer by
/// chance.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns true if a key is 16 bytes in base64.
pub(super) fn is_valid(key: &[u8]) -> bool {
    let mut bytes = [0; 18];
    key.len() == 24 && STANDARD.decode_slice(key, &mut bytes) == Ok(16)
}

/// Returns a random key: 24 characters of base64.
pub(super) fn random() -> [u8; 24] {
    let mut key = [0; 24];
    let _ = STANDARD.encode_slice(rand::random::<[u8; 16]>(), &mut key);
    key
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_answered_as_there() {
        assert_eq!(
            &answer(b"dGhlIHNhbXBsZSBub25jZQ=="),
            b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_key_has_sixteen_bytes() {
        assert!(is_valid(b"dGhlIHNhbXBsZSBub25jZQ=="));
        let wrong: [&[u8]; 6] = [
            b"",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZWE=",
            b"dGhlIHNhbXBsZSBub25jZWFi",
            b"dGhlIHNhbXBsZSBub25jZR==",
            b"dGhl IHNhbXBsZSBub25jZQ==",
        ];
        for key in wrong {
            assert!(!is_valid(key), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn keys_are_valid_and_differ() {
        let (one, other) = (random(), random());
        assert!(is_valid(&one) && is_valid(&other));
        assert_ne!(one, other);
    }
}
