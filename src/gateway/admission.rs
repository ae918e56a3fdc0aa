//! The rules by which a listener or a route takes requests, as reactors use them.

use std::net::IpAddr;

use super::settings::{Access, BasicAuth, ListenerSettings, RouteAuth, RouteSettings};

/// The rules by which a listener or a route takes requests. Those that take all have none.
#[derive(Debug)]
pub(super) struct Admission {
    access: Access,
    pub(super) auth: RouteAuth,
}

impl Admission {
    pub(super) fn of_listener(settings: &ListenerSettings) -> Option<Box<Self>> {
        let auth = settings.auth.clone();
        Self::new(
            &settings.access,
            auth.map_or(RouteAuth::Inherit, RouteAuth::Basic),
        )
    }

    pub(super) fn of_route(settings: &RouteSettings) -> Option<Box<Self>> {
        Self::new(&settings.access, settings.auth.clone())
    }

    fn new(access: &Access, auth: RouteAuth) -> Option<Box<Self>> {
        let is_open = access.is_open() && auth == RouteAuth::Inherit;
        (!is_open).then(|| {
            Box::new(Self {
                access: access.clone(),
                auth,
            })
        })
    }

    /// Returns true if the address of a client is allowed.
    pub(super) fn allows(&self, client: Option<IpAddr>) -> bool {
        let Access { allow, deny } = &self.access;
        let Some(client) = client.map(|client| client.to_canonical()) else {
            return allow.is_empty();
        };
        !deny.iter().any(|network| network.contains(&client))
            && (allow.is_empty() || allow.iter().any(|network| network.contains(&client)))
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
        Admission::new(&access, RouteAuth::Inherit)
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
