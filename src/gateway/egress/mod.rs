//! The egress policy of a forward proxy: the targets that its clients may reach.
//!
//! A forward proxy stands in a network that its clients are not part of. Without a policy they would reach what only that
//! network should: administration on loopback, private hosts, the metadata service of a cloud.
//!
//! ```
//! use epicycle::gateway::egress::{Egress, Refusal, Target, Way};
//!
//! let policy = Egress::default();
//! let public: Target = "93.184.215.14:443".parse()?;
//! let metadata: Target = "169.254.169.254:80".parse()?;
//! assert_eq!(policy.check(&public, Way::Connect), Ok(()));
//! assert_eq!(policy.check(&metadata, Way::Http), Err(Refusal::Special("link-local")));
//! # Ok::<(), epicycle::gateway::egress::TargetError>(())
//! ```
//!
//! # Order
//!
//! 1. What a rule of `deny` names is refused, also if an IPv6 address contains the IPv4 address that it names (6to4, NAT64).
//! 2. If there are rules of `allow`, what none of them names is refused.
//! 3. `CONNECT` reaches port 443 only, and other ports if a rule of `allow` names them.
//! 4. Addresses that are not public are refused, unless a rule of `allow` names a network around the address that is itself
//!    within the special one: `10.1.0.0/16` opens a part of `10.0.0.0/8`, and `0.0.0.0/0` and names open nothing.
//!
//! A name is checked twice: by itself, and by each address that is about to be dialled. A name that changes its address
//! between the check and the connect gains nothing.

mod guard;
mod rule;
mod special;
mod target;

use std::net::IpAddr;

pub(crate) use self::guard::Guard;
pub use self::rule::EgressRule;
use self::rule::Hosts;
pub use self::target::{Host, Target, TargetError};
use crate::error::error_messages;

/// The targets that clients of a forward proxy may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Egress {
    /// The rules for allowed targets. Default: none, and then all public addresses are allowed.
    pub allow: Vec<EgressRule>,
    /// The rules for refused targets. They win over those for allowed ones. Default: none.
    pub deny: Vec<EgressRule>,
}

/// The way in which a client reaches a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// A `CONNECT` request.
    Connect,
    /// A request in absolute form.
    Http,
    /// SOCKS5.
    Socks,
}

/// The reason why a target is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A rule of `deny` names it.
    Denied,
    /// No rule of `allow` names it.
    NotAllowed,
    /// `CONNECT` may not reach this port.
    Port(u16),
    /// The address is of this kind and not public.
    Special(&'static str),
    /// It is a listener of the gateway itself.
    Own,
}

error_messages! {
    Refusal {
        Refusal::Denied => "a rule of `deny` names the target",
        Refusal::NotAllowed => "no rule of `allow` names the target",
        Refusal::Port(port) => "CONNECT may not reach port {port}; a rule of `allow` may name it",
        Refusal::Special(kind) => "the address is {kind}; a rule of `allow` may name its network",
        Refusal::Own => "the target is a listener of this gateway",
    }
}

impl Egress {
    /// Checks a target before anything is looked up or dialled. If it is a name, its addresses need a [check](Self::check_addr)
    /// of their own.
    ///
    /// # Errors
    ///
    /// The reason why the target is refused, whichever address it has.
    pub fn check(&self, target: &Target, way: Way) -> Result<(), Refusal> {
        match target.host {
            Host::Ip(ip) => self.check_addr(target, ip, way),
            Host::Name(_) => self.decide(target, None, way),
        }
    }

    /// Checks an address of a target before it is dialled.
    ///
    /// # Errors
    ///
    /// The reason why the address is refused.
    pub fn check_addr(&self, target: &Target, ip: IpAddr, way: Way) -> Result<(), Refusal> {
        self.decide(target, Some(ip.to_canonical()), way)
    }

    fn decide(&self, target: &Target, ip: Option<IpAddr>, way: Way) -> Result<(), Refusal> {
        let names =
            |rule: &EgressRule| rule.names(target) || ip.is_some_and(|ip| rule.contains(ip));
        let port = target.port;
        // A gateway of the network on the way would bring the connection there.
        let within = ip.and_then(special::within);
        let is_denied = |rule: &EgressRule| {
            (names(rule) || within.is_some_and(|ip| rule.contains(ip))) && rule.may_mean(port)
        };
        if self.deny.iter().any(is_denied) {
            return Err(Refusal::Denied);
        }
        let is_usual = way != Way::Connect || port == 443;
        if self.allow.is_empty() {
            if !is_usual {
                return Err(Refusal::Port(port));
            }
        } else {
            // A rule for networks may yet name the address of a name.
            let may_name = |rule: &&EgressRule| {
                names(rule) || ip.is_none() && matches!(rule.hosts, Hosts::Network(_))
            };
            let mut rules = self.allow.iter().filter(may_name).peekable();
            if rules.peek().is_none() {
                return Err(Refusal::NotAllowed);
            }
            let allows_port = |rule: &EgressRule| match &rule.ports {
                Some(ports) => ports.contains(&port),
                None => is_usual,
            };
            let mut named_ports = false;
            if !rules.any(|rule| {
                named_ports |= rule.ports.is_some();
                allows_port(rule)
            }) {
                return Err(match named_ports {
                    true => Refusal::NotAllowed,
                    false => Refusal::Port(port),
                });
            }
        }
        match ip.and_then(|ip| Some((ip, special::kind(ip)?))) {
            Some((ip, kind)) if !self.opens(ip, port) => Err(Refusal::Special(kind)),
            _ => Ok(()),
        }
    }

    /// Returns true if a rule allows a part of a network that is not public, and the address is in it.
    fn opens(&self, ip: IpAddr, port: u16) -> bool {
        let special = special::network(ip);
        self.allow.iter().any(|rule| match &rule.hosts {
            Hosts::Network(network) => {
                let is_within = match special {
                    Some(special) => special.contains(network),
                    // It is special by an IPv4 address within it, or as a part of what is not assigned.
                    None => network.prefix_len() >= 16,
                };
                is_within && network.contains(&ip) && rule.may_mean(port)
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> Egress {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
        Egress {
            allow: rules(allow),
            deny: rules(deny),
        }
    }

    fn check(policy: &Egress, target: &str, way: Way) -> Result<(), Refusal> {
        policy.check(&target.parse().expect(target), way)
    }

    fn check_addr(policy: &Egress, target: &str, ip: &str) -> Result<(), Refusal> {
        let target = target.parse().expect(target);
        policy.check_addr(&target, ip.parse().expect(ip), Way::Socks)
    }

    #[test]
    fn public_addresses_are_allowed_by_default_and_connect_reaches_443_only() {
        let policy = Egress::default();
        assert_eq!(check(&policy, "1.1.1.1:443", Way::Connect), Ok(()));
        assert_eq!(check(&policy, "example.org:443", Way::Connect), Ok(()));
        assert_eq!(
            check(&policy, "1.1.1.1:25", Way::Connect),
            Err(Refusal::Port(25))
        );
        assert_eq!(
            check(&policy, "example.org:25", Way::Connect),
            Err(Refusal::Port(25))
        );
        assert_eq!(check(&policy, "1.1.1.1:8080", Way::Http), Ok(()));
        assert_eq!(check(&policy, "1.1.1.1:25", Way::Socks), Ok(()));
    }

    #[test]
    fn a_name_that_has_a_private_address_is_refused_once_that_is_known() {
        let policy = policy(&["*"], &[]);
        assert_eq!(check(&policy, "rebind.example:443", Way::Connect), Ok(()));
        for ip in [
            "127.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "fe80::1",
        ] {
            let refused = check_addr(&policy, "rebind.example:443", ip);
            assert!(matches!(refused, Err(Refusal::Special(_))), "{ip}");
        }
        assert_eq!(check_addr(&policy, "rebind.example:443", "1.1.1.1"), Ok(()));
    }

    #[test]
    fn only_what_a_rule_names_is_allowed_once_there_are_rules() {
        let policy = policy(&["*.example.org:443", "10.1.0.0/16", "plain.example"], &[]);
        assert_eq!(check(&policy, "a.example.org:443", Way::Socks), Ok(()));
        assert_eq!(
            check(&policy, "a.example.org:80", Way::Connect),
            Err(Refusal::NotAllowed)
        );
        assert_eq!(
            check_addr(&policy, "a.example.org:80", "1.1.1.1"),
            Err(Refusal::NotAllowed)
        );
        assert_eq!(
            check(&policy, "1.1.1.1:443", Way::Socks),
            Err(Refusal::NotAllowed)
        );
        assert_eq!(check(&policy, "10.1.2.3:5432", Way::Socks), Ok(()));
        assert_eq!(
            check(&policy, "10.1.2.3:5432", Way::Connect),
            Err(Refusal::Port(5432))
        );
        assert_eq!(
            check(&policy, "10.2.0.1:443", Way::Socks),
            Err(Refusal::NotAllowed)
        );
        assert_eq!(check_addr(&policy, "other.example:443", "10.1.2.3"), Ok(()));
        assert_eq!(
            check_addr(&policy, "plain.example:443", "10.9.9.9"),
            Err(Refusal::Special("private"))
        );
    }

    #[test]
    fn an_allowed_network_opens_only_the_part_of_a_special_one_that_it_is() {
        for (allow, is_open) in [
            ("127.0.0.1:26081", true),
            ("127.0.0.0/8", true),
            ("0.0.0.0/0", false),
            ("112.0.0.0/4", false),
            ("*", false),
        ] {
            let policy = policy(&[allow], &[]);
            assert_eq!(
                check(&policy, "127.0.0.1:26081", Way::Http).is_ok(),
                is_open,
                "{allow}"
            );
        }
        let policy = policy(&["127.0.0.1:26081"], &[]);
        assert_eq!(
            check(&policy, "127.0.0.1:26082", Way::Http),
            Err(Refusal::NotAllowed)
        );
        assert_eq!(check(&policy, "127.0.0.1:26081", Way::Connect), Ok(()));
    }

    #[test]
    fn a_rule_of_deny_holds_for_addresses_that_contain_those_it_names() {
        let policy = policy(
            &["2002::/16", "64:ff9b::/96", "*"],
            &["1.2.3.0/24", "10.0.0.0/8"],
        );
        for ip in [
            "1.2.3.4",
            "::ffff:1.2.3.4",
            "2002:102:304::1",
            "64:ff9b::1.2.3.4",
            "64:ff9b::10.1.1.1",
        ] {
            let refused = check_addr(&policy, "a.example:443", ip);
            assert_eq!(refused, Err(Refusal::Denied), "{ip}");
        }
        for ip in ["1.2.4.4", "2002:102:404::1", "64:ff9b::1.2.4.4"] {
            assert_eq!(check_addr(&policy, "a.example:443", ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn a_rule_of_deny_wins() {
        let policy = policy(&["*:*"], &["bad.example", "1.2.3.0/24", "*:25"]);
        assert_eq!(check(&policy, "good.example:22", Way::Connect), Ok(()));
        assert_eq!(
            check(&policy, "bad.example:22", Way::Connect),
            Err(Refusal::Denied)
        );
        assert_eq!(
            check_addr(&policy, "good.example:22", "1.2.3.4"),
            Err(Refusal::Denied)
        );
        assert_eq!(
            check(&policy, "good.example:25", Way::Socks),
            Err(Refusal::Denied)
        );
    }
}
