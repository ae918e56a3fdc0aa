use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use super::{Egress, Host, Refusal, Target, Way};
use crate::addr::Endpoint;
use crate::engine::connect::Connect;

/// A policy, and the gateway's own listeners, which nobody may reach through the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    policy: Egress,
    own: Vec<Own>,
}

/// A listener.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    /// `None` if it listens at several addresses, or at those of a name.
    ip: Option<IpAddr>,
    port: u16,
}

impl Guard {
    /// `listeners` are addresses in a form of [`Endpoint`].
    pub(crate) fn new<'a>(policy: Egress, listeners: impl IntoIterator<Item = &'a str>) -> Self {
        let own = listeners.into_iter().filter_map(|on| match on.parse() {
            Ok(Endpoint::Tcp { host, port, .. } | Endpoint::Udp { host, port, .. }) => {
                let ip = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
                let ip = ip.filter(|ip| !ip.is_unspecified());
                Some(Own { ip, port })
            }
            _ => None,
        });
        Self {
            policy,
            own: own.collect(),
        }
    }

    /// Returns the connect to a target. It dials no address that the policy refuses.
    pub(crate) fn connect(self: &Arc<Self>, target: &Target, way: Way) -> Connect {
        let (guard, checked) = (self.clone(), target.clone());
        Connect::to(format!("tcp://{target}"))
            .allow(move |ip| guard.check_addr(&checked, ip, way).is_ok())
    }

    /// Checks a target before anything is looked up or dialled, as [`Egress::check`] does.
    pub(crate) fn check(&self, target: &Target, way: Way) -> Result<(), Refusal> {
        match target.host {
            Host::Ip(ip) => self.check_addr(target, ip, way),
            Host::Name(_) => self.policy.check(target, way),
        }
    }

    /// Checks an address before it is dialled, as [`Egress::check_addr`] does.
    pub(crate) fn check_addr(&self, target: &Target, ip: IpAddr, way: Way) -> Result<(), Refusal> {
        self.policy.check_addr(target, ip, way)?;
        let ip = ip.to_canonical();
        let is_own = self.own.iter().any(|own| {
            own.port == target.port
                && match own.ip {
                    // The kernel connects the unspecified address to this host.
                    Some(own) => own == ip || ip.is_unspecified(),
                    None => is_of_this_host(ip),
                }
        });
        match is_own {
            true => Err(Refusal::Own),
            false => Ok(()),
        }
    }
}

/// Returns true for an address of this host: only such a one can be bound.
fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_reaches_the_gateways_own_listeners() {
        let policy = Egress {
            allow: ["127.0.0.0/8:*", "0.0.0.0/8:*"]
                .map(|rule| rule.parse().expect(rule))
                .into(),
            deny: Vec::new(),
        };
        let listeners = [
            "tcp://0.0.0.0:1080",
            "tcp://127.0.0.5:1081",
            "unix:///run/x.sock",
        ];
        let guard = Guard::new(policy, listeners);
        let check = |target: &str| guard.check(&target.parse().expect(target), Way::Socks);
        assert_eq!(check("127.0.0.1:1080"), Err(Refusal::Own));
        assert_eq!(check("127.0.0.9:1080"), Err(Refusal::Own));
        assert_eq!(check("127.0.0.5:1081"), Err(Refusal::Own));
        assert_eq!(check("0.0.0.0:1081"), Err(Refusal::Own));
        assert_eq!(check("0.0.0.0:1082"), Ok(()));
        assert_eq!(check("127.0.0.6:1081"), Ok(()));
        assert_eq!(check("127.0.0.1:1082"), Ok(()));
    }
}
