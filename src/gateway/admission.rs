//! The rules by which a listener or a route takes requests, as reactors use them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limiter::{Limiter, Limiters};
use super::networks::Networks;
use super::settings::{Access, BasicAuth, ListenerSettings, RouteAuth, RouteSettings};
use crate::http::Headers;

/// The rules by which a listener or a route takes requests. Those that take all have none.
#[derive(Debug)]
pub(super) struct Admission {
    /// Those whose clients may come, unless there are none.
    allow: Networks,
    deny: Networks,
    pub(super) auth: RouteAuth,
    limits: Box<[Arc<Limiter>]>,
}

impl Admission {
    pub(super) fn of_listener(
        settings: &ListenerSettings,
        limiters: &Limiters,
    ) -> Option<Box<Self>> {
        let owner = format!("listener {}", settings.on);
        let auth = settings.auth.clone();
        let auth = auth.map_or(RouteAuth::Inherit, RouteAuth::Basic);
        let limits = limiters.of(&owner, &settings.rate_limits);
        Self::unless_open(&settings.access, auth, limits)
    }

    pub(super) fn of_route(
        settings: &RouteSettings,
        name: &str,
        limiters: &Limiters,
    ) -> Option<Box<Self>> {
        let limits = limiters.of(&format!("route {name}"), &settings.rate_limits);
        Self::unless_open(&settings.access, settings.auth.clone(), limits)
    }

    fn unless_open(
        access: &Access,
        auth: RouteAuth,
        limits: Box<[Arc<Limiter>]>,
    ) -> Option<Box<Self>> {
        let is_open = access.is_open() && auth == RouteAuth::Inherit && limits.is_empty();
        (!is_open).then(|| {
            Box::new(Self {
                allow: Networks::new(&access.allow),
                deny: Networks::new(&access.deny),
                auth,
                limits,
            })
        })
    }

    /// Takes a token of each limit for a request. If one has none, takes none, and returns the time after which to ask again.
    pub(super) fn take_tokens(
        &self,
        client: Option<IpAddr>,
        fields: Headers<'_>,
        now: Instant,
    ) -> Result<(), Duration> {
        for (n, limit) in self.limits.iter().enumerate() {
            if let Err(wait) = limit.take(limit.key(client, fields), now) {
                for taken in &self.limits[..n] {
                    taken.give_back(taken.key(client, fields));
                }
                return Err(wait);
            }
        }
        Ok(())
    }

    /// Returns true if the address of a client is allowed.
    pub(super) fn allows(&self, client: Option<IpAddr>) -> bool {
        let Some(client) = client else {
            return self.allow.is_empty();
        };
        !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
    }
}

/// Returns the authentication for a request: that of the route, or else of the listener.
pub(super) fn auth<'a>(
    listener: Option<&'a Admission>,
    route: Option<&'a Admission>,
) -> Option<&'a BasicAuth> {
    let own = route.map_or(&RouteAuth::Inherit, |route| &route.auth);
    match (own, listener.map(|listener| &listener.auth)) {
        (RouteAuth::Basic(auth), _) | (RouteAuth::Inherit, Some(RouteAuth::Basic(auth))) => {
            Some(auth)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(allow: &[&str], deny: &[&str]) -> Option<Box<Admission>> {
        let networks = |texts: &[&str]| {
            let networks = texts.iter().map(|text| text.parse().expect("a network"));
            networks.collect()
        };
        let access = Access {
            allow: networks(allow),
            deny: networks(deny),
        };
        Admission::unless_open(&access, RouteAuth::Inherit, Box::default())
    }

    #[test]
    fn a_client_may_come_if_it_is_allowed_and_not_denied() {
        assert!(admission(&[], &[]).is_none());
        for (allow, deny, client, wanted) in [
            (&["10.0.0.0/8"][..], &[][..], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "11.1.2.3", false),
            (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "::ffff:11.1.2.3", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", true),
            (&[], &["2001:db8::/32"], "2001:db8::1", false),
            (&[], &["2001:db8::/32"], "2001:db9::1", true),
            (&[], &["2001:db8::/32"], "10.0.0.1", true),
            (&["::/0"], &[], "10.0.0.1", false),
        ] {
            let admission = admission(allow, deny).expect("there are rules");
            let client = client.parse().expect("an address");
            assert_eq!(
                admission.allows(Some(client)),
                wanted,
                "{client} {allow:?} {deny:?}"
            );
        }
    }

    #[test]
    fn a_client_without_an_address_is_in_no_network() {
        let admission = |allow: &[&str], deny: &[&str]| admission(allow, deny).expect("has rules");
        assert!(admission(&[], &["0.0.0.0/0"]).allows(None));
        assert!(!admission(&["0.0.0.0/0"], &[]).allows(None));
    }
}
