//! The tokens with which clients take their users back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::drpc::{MAC, NONCE, Secret};

/// Makes and reads tokens: base64 of
///
/// ```text
/// version u8 | uid i64 | expiry u64, in seconds since 1970 | nonce 16 bytes | the gate's id | HMAC-SHA256 over all of it
/// ```
///
/// The key is of the cluster's secret, so that every gate can refuse a forged token. Without a secret it is the gate's own: then the
/// others have to ask.
pub(super) struct Tokens {
    mac: Hmac<Sha256>,
    is_shared: bool,
}

/// The content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) gid: String,
    pub(super) uid: i64,
    /// In seconds since 1970, by the clock of the gate that has issued it.
    pub(super) expires: u64,
    pub(super) nonce: Nonce,
}

pub(super) type Nonce = [u8; NONCE];

const VERSION: u8 = 1;

/// The length of a token without the gate's id, in bytes.
const FIXED: usize = 1 + 8 + 8 + NONCE + MAC;

/// The maximum length of a token. Gates may have ids of 255 bytes.
const MAX_TEXT: usize = (FIXED + 255).div_ceil(3) * 4;

impl Tokens {
    pub(super) fn new(secret: Option<&Secret>, chance: &Chance) -> Result<Self, Error> {
        let key = match secret {
            Some(secret) => secret.derive(b"epicycle resume"),
            None => chance.bytes(),
        };
        let mac = Hmac::new_from_slice(&key);
        Ok(Self {
            mac: mac.map_err(|error| Error::argument("secret", error.to_string()))?,
            is_shared: secret.is_some(),
        })
    }

    pub(super) fn issue(&self, token: &Token) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(token.uid.to_be_bytes());
        bytes.extend(token.expires.to_be_bytes());
        bytes.extend(token.nonce);
        bytes.extend(token.gid.as_bytes());
        let mac = self.over(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token. Returns `None` if it is none, or if this gate knows that it is forged.
    pub(super) fn read(&self, text: &str, ours: &str) -> Option<Token> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        let (version, rest) = signed.split_first()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (nonce, gid) = rest.split_first_chunk()?;
        let token = Token {
            gid: str::from_utf8(gid).ok()?.to_owned(),
            uid: i64::from_be_bytes(*uid),
            expires: u64::from_be_bytes(*expires),
            nonce: *nonce,
        };
        let can_check = self.is_shared || token.gid == ours;
        let is_genuine =
            *version == VERSION && (!can_check || self.over(signed).verify_slice(mac).is_ok());
        is_genuine.then_some(token)
    }

    fn over(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(bytes);
        mac
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(secret: Option<&[u8]>) -> Tokens {
        let secret = secret.map(|secret| Secret::new(secret).expect("is long enough"));
        Tokens::new(secret.as_ref(), &Chance::default()).expect("any key will do")
    }

    fn token(gid: &str) -> Token {
        Token {
            gid: gid.to_owned(),
            uid: 7,
            expires: 1_800_000_000,
            nonce: [3; NONCE],
        }
    }

    #[test]
    fn a_gate_reads_its_own_tokens_and_with_a_secret_those_of_others() {
        let of_one = token("gate-1");
        let (alone, other) = (tokens(None), tokens(None));
        let text = alone.issue(&of_one);
        assert_eq!(alone.read(&text, "gate-1"), Some(of_one.clone()));
        assert_eq!(other.read(&text, "gate-1"), None, "it has another key");
        assert_eq!(
            other.read(&text, "gate-2"),
            Some(of_one.clone()),
            "it has to ask"
        );
        let secret = &b"0123456789abcdef"[..];
        let (one, two) = (tokens(Some(secret)), tokens(Some(secret)));
        assert_eq!(
            two.read(&one.issue(&of_one), "gate-2"),
            Some(of_one.clone())
        );
        assert_eq!(two.read(&text, "gate-2"), None);
        let stranger = tokens(Some(b"another secret!!"));
        assert_eq!(two.read(&stranger.issue(&of_one), "gate-2"), None);
        assert_eq!(alone.read(&"A".repeat(MAX_TEXT + 1), "gate-1"), None);
    }

    proptest! {
        #[test]
        fn no_changed_token_is_genuine(at in any::<prop::sample::Index>(), bit in 0..8_u8, gid in "[a-z0-9-]{0,40}") {
            let tokens = tokens(None);
            let text = tokens.issue(&token(&gid));
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).expect("is base64");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let changed = tokens.read(&URL_SAFE_NO_PAD.encode(&bytes), &gid);
            // Another gate's id makes it another gate's business.
            prop_assert!(changed.is_none_or(|changed| changed.gid != gid));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let tokens = tokens(None);
            prop_assert_eq!(tokens.read(&text, "gate-1").filter(|token| token.gid == "gate-1"), None);
            let text = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(tokens.read(&text, "gate-1").filter(|token| token.gid == "gate-1"), None);
        }
    }
}
