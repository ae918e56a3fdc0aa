use ipnet::IpNet;

use crate::gateway::Users;

/// The clients that may come, by their addresses.
///
/// The client is the peer, or the address that a [trusted](super::Forwarding::trusted) proxy tells. Others are answered with
/// 403. A client without an address, on a Unix socket, passes unless there are rules in `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The networks whose clients may come. Default: none, which is all.
    pub allow: Vec<IpNet>,
    /// The networks whose clients may not come, also if `allow` has them. Default: none.
    pub deny: Vec<IpNet>,
}

/// The authentication of clients by a name and a password (RFC 7617, Basic). Whoever has none, or wrong ones, gets 401.
///
/// The password crosses the network with each request, so use TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BasicAuth {
    /// The users.
    pub users: Users,
    /// The name of what is protected, which browsers show. Default: `epicycle`.
    pub realm: String,
    /// True if nodes get the `Authorization` too. Default: off.
    pub pass: bool,
}

impl BasicAuth {
    /// Asks for one of these users.
    pub fn new(users: Users) -> Self {
        Self {
            users,
            realm: "epicycle".to_owned(),
            pass: false,
        }
    }
}

/// The authentication of the clients of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteAuth {
    /// That of the listener, if it has one.
    #[default]
    Inherit,
    /// None, whatever the listener has.
    Off,
    /// This one, in place of the listener's.
    Basic(BasicAuth),
}

impl Access {
    /// Returns true if all clients may come.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}
