use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str;

use crate::authority::{Authority, Flaw};
use crate::error::error_messages;

/// The host and the port that a client of a forward proxy asks for.
///
/// An address has one spelling: four decimal numbers without leading zeros, or an IPv6 address. C libraries also take
/// `2130706433`, `0177.0.0.1`, `0x7f000001` and `127.1` for 127.0.0.1. These are refused, so that nobody down the line reads
/// them otherwise than the policy does.
///
/// ```
/// use epicycle::gateway::egress::Target;
///
/// let target: Target = "Example.ORG:443".parse()?;
/// assert_eq!(target.to_string(), "example.org:443");
/// assert!("127.1:443".parse::<Target>().is_err());
/// # Ok::<(), epicycle::gateway::egress::TargetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, which is not 0.
    pub port: u16,
}

/// A host: an address, or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address. An IPv4 address that is mapped into IPv6 is an IPv4 address here.
    Ip(IpAddr),
    /// A name of the DNS, in lower case and without a dot at its end.
    Name(Box<str>),
}

/// The reason why a text is no target.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no host.
    NoHost,
    /// The port is missing, 0, or no number up to 65535.
    Port,
    /// The host is neither an address nor a name of the DNS.
    Host,
    /// The host is a number in a form that only some programs take for an address.
    NumericHost,
}

error_messages! {
    TargetError {
        TargetError::NoHost => "there is no host; write HOST:PORT",
        TargetError::Port => "the port is missing or no number from 1 to 65535; write HOST:PORT",
        TargetError::Host => "the host is neither an IP address nor a name of the DNS",
        TargetError::NumericHost => "the host is a number, but no IP address of four decimal numbers",
    }
}

impl Target {
    /// Returns a target.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn new(host: impl AsRef<[u8]>, port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        let host = Host::parse(host.as_ref())?;
        Ok(Self { host, port })
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self {
            host: Host::Ip(addr.ip().to_canonical()),
            port: addr.port(),
        }
    }
}

impl str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let authority = Authority::parse(text.as_bytes()).map_err(|flaw| match flaw {
            Flaw::Port => TargetError::Port,
            Flaw::Host | Flaw::Literal => TargetError::Host,
        })?;
        let port = authority.port.ok_or(TargetError::Port)?;
        let target = Self::new(authority.host, port)?;
        // Of literals, only addresses of IPv6 are known.
        match target.host {
            Host::Name(_) if authority.is_literal => Err(TargetError::Host),
            _ => Ok(target),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Host {
    /// Parses an address without brackets, or a name.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TargetError> {
        let text = str::from_utf8(bytes).map_err(|_| TargetError::Host)?;
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Host::Ip(ip.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(TargetError::NoHost);
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(TargetError::Host);
        }
        if ends_in_number(name) {
            // With a dot at its end it may be an address that is fine otherwise.
            return Err(match name.parse::<Ipv4Addr>() {
                Ok(_) => TargetError::Host,
                Err(_) => TargetError::NumericHost,
            });
        }
        Ok(Host::Name(name.to_ascii_lowercase().into()))
    }
}

/// Returns true if C libraries may take the name for an IPv4 address, which they do if its last label is a number (WHATWG
/// URL, "ends in a number checker"). No such top-level domain exists.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_name_with_a_port() {
        for (text, shown) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:443", "[::1]:443"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
            ("Example.org:443", "example.org:443"),
            ("example.org.:443", "example.org:443"),
            ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
            ("_service.example:443", "_service.example:443"),
            ("1.2.3.4.example:443", "1.2.3.4.example:443"),
            ("localhost:1", "localhost:1"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn a_text_that_two_programs_may_read_in_two_ways_is_no_target() {
        use TargetError::{Host, NoHost, NumericHost, Port};

        for (text, error) in [
            ("2130706433:80", NumericHost),
            ("0177.0.0.1:80", NumericHost),
            ("0x7f000001:80", NumericHost),
            ("0x7f.1:80", NumericHost),
            ("127.1:80", NumericHost),
            ("127.0.0.1.5:80", NumericHost),
            ("127.0.0.01:80", NumericHost),
            ("256.0.0.1:80", NumericHost),
            ("example.0X:80", NumericHost),
            ("127.0.0.1.:80", Host),
            ("127.0.0.1", Port),
            ("example.org", Port),
            ("example.org:", Port),
            ("example.org:0", Port),
            ("127.0.0.1:99999", Port),
            (":80", NoHost),
            (".:80", NoHost),
            ("a..b:80", Host),
            ("a b:80", Host),
            ("a%2eb:80", Host),
            ("b\u{fc}cher.example:80", Host),
            ("a@b:80", Host),
            ("[fe80::1%eth0]:80", Host),
            ("[v1.a]:80", Host),
            ("::1:80", Port),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
        assert_eq!(Target::new(b"127.0.0.1\0", 80), Err(Host));
        assert_eq!(
            Target::new(format!("{}.org", "a".repeat(64)), 80),
            Err(Host)
        );
        assert_eq!(Target::new("a.".repeat(127) + "org", 80), Err(Host));
    }

    proptest! {
        #[test]
        fn a_target_as_it_is_shown_is_the_same_target(text in "[a-c0-9.:x\\[\\]_-]{0,16}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
