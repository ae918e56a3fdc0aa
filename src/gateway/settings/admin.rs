use std::fmt;
use std::net::IpAddr;

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};

use crate::addr::Endpoint;

/// The admin interface: JSON and a page over HTTP, by which operators look at the gateway and change it.
///
/// Whoever may use it controls the gateway: it can send its requests anywhere, and let it read and write the files that the
/// process can. So it listens on a Unix socket or on loopback, or asks for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminSettings {
    /// The address, in a form of [`Endpoint`]: `unix:///run/gateway.sock`, `tcp://127.0.0.1:9901`. The path of a Unix socket is
    /// for the user of the process alone (mode 0600).
    pub listen: String,
    /// The token that each request must have. Default: none. An address that others than this host's users can reach needs one.
    pub token: Option<Token>,
    /// The names, besides `localhost` and IP addresses, that may stand in `Host`. A browser that was led to this address by another
    /// site's name is refused. Default: none.
    pub hosts: Vec<String>,
}

/// A secret text that requests must have. Its `Debug` does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The fewest characters of a token.
const MIN_TOKEN: usize = 16;

impl AdminSettings {
    /// Returns an interface at this address, without a token.
    pub fn new(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            token: None,
            hosts: Vec::new(),
        }
    }

    /// Sets the token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token(token.into()));
        self
    }

    /// Adds a name that may stand in `Host`.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Returns true if others than the users of this host, or than the user of the process, can reach it.
    pub(super) fn is_exposed(&self) -> bool {
        match self.listen.parse() {
            Ok(Endpoint::Tcp { host, .. }) => match host.parse::<IpAddr>() {
                Ok(ip) => !ip.to_canonical().is_loopback(),
                Err(_) => host != "localhost",
            },
            Ok(Endpoint::Unix(_)) => false,
            // An abstract name has no permissions.
            _ => true,
        }
    }
}

impl Token {
    /// Returns true if a text is the token. The time it takes tells nothing of the token.
    pub(crate) fn is(&self, text: &[u8]) -> bool {
        let key: [u8; 32] = rand::random();
        let digest = |text: &[u8]| {
            let mut mac = Blake2sMac256::new(&key.into());
            mac.update(text);
            mac
        };
        let wanted = digest(self.0.as_bytes()).finalize();
        digest(text).verify(&wanted.into_bytes()).is_ok()
    }

    /// Returns the problem with it, if there is one.
    pub(super) fn problem(&self) -> Option<&'static str> {
        if self.0.len() < MIN_TOKEN {
            return Some("it is shorter than 16 characters; take one from `openssl rand -hex 32`");
        }
        let is_graphic = self.0.bytes().all(|byte| byte.is_ascii_graphic());
        (!is_graphic).then_some("use printable ASCII characters without spaces")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_right() {
        let token = Token("0123456789abcdef".to_owned());
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
        ] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("0123"));
    }
}
