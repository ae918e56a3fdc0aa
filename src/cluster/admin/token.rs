use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A token that requests must have. A comparison with it takes the same time whatever is given.
#[derive(Clone)]
pub(super) struct Token {
    key: Hmac<Sha256>,
    wanted: [u8; 32],
}

impl Token {
    pub(super) fn new(token: &str) -> Self {
        let mut key = [0; 64];
        key[..32].copy_from_slice(&rand::random::<[u8; 32]>());
        let key = Hmac::<Sha256>::new(&key.into());
        let wanted = of(&key, token.as_bytes()).finalize();
        Self {
            wanted: wanted.into_bytes().into(),
            key,
        }
    }

    pub(super) fn is(&self, text: &[u8]) -> bool {
        of(&self.key, text).verify(&self.wanted.into()).is_ok()
    }
}

fn of(key: &Hmac<Sha256>, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_right() {
        let token = Token::new("0123456789abcdef");
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
        ] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
