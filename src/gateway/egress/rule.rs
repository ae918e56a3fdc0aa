use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::target::{Host, Target};

/// A rule of an egress policy: hosts, and ports of them.
///
/// | Text | Hosts |
/// |---|---|
/// | `10.0.0.0/8`, `2001:db8::/32` | the addresses of a network |
/// | `192.0.2.1`, `[2001:db8::1]` | one address |
/// | `example.org` | one name |
/// | `*.example.org` | the names below it, of any depth |
/// | `*` | all |
///
/// A port may follow: `:443`, `:8000-8099`, or `:*` for all. A network of IPv6 then is in brackets: `[2001:db8::/32]:443`.
///
/// ```
/// use epicycle::gateway::egress::EgressRule;
///
/// let rule: EgressRule = "*.example.org:443".parse()?;
/// assert_eq!(rule.to_string(), "*.example.org:443");
/// assert!("*.example.*".parse::<EgressRule>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    pub(super) hosts: Hosts,
    /// `None` if the rule names no port.
    pub(super) ports: Option<RangeInclusive<u16>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    All,
    Network(IpNet),
    Name(Box<str>),
    /// The names below this one.
    Below(Box<str>),
}

impl EgressRule {
    /// Returns true if the rule names the host by its name.
    pub(super) fn names(&self, target: &Target) -> bool {
        match (&self.hosts, &target.host) {
            (Hosts::All, _) => true,
            (Hosts::Name(name), Host::Name(host)) => name == host,
            (Hosts::Below(name), Host::Name(host)) => host
                .strip_suffix(&**name)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            _ => false,
        }
    }

    /// Returns true unless the rule names other ports.
    pub(super) fn may_mean(&self, port: u16) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&port))
    }

    /// Returns true if the rule names the address.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match &self.hosts {
            Hosts::Network(network) => network.contains(&ip),
            _ => false,
        }
    }
}

impl FromStr for EgressRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "\"{text}\": {what}; write a network, an address, a name, `*.NAME` or `*`, and `:PORT` if only that is meant"
            )
        };
        let (host, ports) = split(text);
        let ports = match ports {
            None => None,
            Some("*") => Some(1..=u16::MAX),
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
                match (port(first), port(last)) {
                    (Some(first), Some(last)) if first <= last => Some(first..=last),
                    _ => {
                        return Err(wrong(
                            "the port is no number from 1 to 65535, no range of them, and no `*`",
                        ));
                    }
                }
            }
        };
        let hosts = hosts(host).ok_or_else(|| wrong("the host is none"))?;
        Ok(Self { hosts, ports })
    }
}

/// Splits off the text behind the last colon, if that is no part of an IPv6 address.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // Behind the bracket only a colon may follow. What else there is fails as a port.
        let ports = (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or("?"));
        return (host, ports);
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => (text, None),
        Some((host, ports)) => (host, Some(ports)),
        None => (text, None),
    }
}

fn hosts(text: &str) -> Option<Hosts> {
    if text == "*" {
        return Some(Hosts::All);
    }
    if text.contains('/') {
        return text
            .parse()
            .ok()
            .map(|network: IpNet| Hosts::Network(canonical(network)));
    }
    let (text, is_below) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    match (Host::parse(text.as_bytes()).ok()?, is_below) {
        (Host::Ip(ip), false) => Some(Hosts::Network(ip.into())),
        (Host::Name(name), false) => Some(Hosts::Name(name)),
        (Host::Name(name), true) => Some(Hosts::Below(name)),
        (Host::Ip(_), true) => None,
    }
}

/// Returns a network of mapped IPv4 addresses as one of IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len()) {
        (IpAddr::V4(ip), len @ 96..) if network.addr().is_ipv6() => {
            IpNet::new(ip.into(), len - 96).unwrap_or(network)
        }
        _ => network,
    }
    .trunc()
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::All => f.write_str("*")?,
            Hosts::Network(network) => {
                let is_host = network.prefix_len() == network.max_prefix_len();
                let text = match is_host {
                    true => network.addr().to_string(),
                    false => network.to_string(),
                };
                match network.addr().is_ipv6() && self.ports.is_some() {
                    true => write!(f, "[{text}]")?,
                    false => f.write_str(&text)?,
                }
            }
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
        }
        match &self.ports {
            None => Ok(()),
            Some(ports) if (*ports.start(), *ports.end()) == (1, u16::MAX) => f.write_str(":*"),
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start()),
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_hosts_and_ports() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:26081", "127.0.0.1:26081"),
            ("10.0.0.0/8:8000-8099", "10.0.0.0/8:8000-8099"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::1]:80", "[::1]:80"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("Example.org", "example.org"),
            ("*.example.org:443", "*.example.org:443"),
            ("*", "*"),
            ("*:25", "*:25"),
            ("example.org:*", "example.org:*"),
        ] {
            let rule: EgressRule = text.parse().expect(text);
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rule));
        }
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused() {
        for text in [
            "",
            ":80",
            "a:0",
            "a:x",
            "a:2-1",
            "a:70000",
            "*.*",
            "a.*",
            "*example.org",
            "*.10.0.0.1",
            "10.0.0.0/33",
            "127.1",
            "[::1",
            "[::1]80",
            "a b",
            "*.",
            "http://a",
        ] {
            assert!(text.parse::<EgressRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_one_label_or_more() {
        let rule: EgressRule = "*.example.org".parse().expect("is a rule");
        let names = |name: &str| rule.names(&Target::new(name, 1).expect(name));
        assert!(names("a.example.org"));
        assert!(names("a.b.example.org"));
        assert!(!names("example.org"));
        assert!(!names("badexample.org"));
    }
}
