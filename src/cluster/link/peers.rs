//! The addresses of links: those that a server listens on, and those that it dials.

use std::sync::Arc;

use super::Identity;
use crate::addr::Addr;
use crate::authority::Authority;
use crate::cluster::registry::{Instance, LinkEndpoint};
use crate::cluster::{Error, State};

/// Returns the address that others dial. It is registered.
pub(in crate::cluster) fn endpoint(
    listening: &Addr,
    exposed: Option<&str>,
) -> Result<LinkEndpoint, Error> {
    let Some(listening) = listening.as_socket_addr() else {
        let problem = "links are for tcp:// addresses";
        return Err(Error::argument("link", problem));
    };
    let address = match exposed {
        Some(host) if has_port(host) => host.to_owned(),
        Some(host) => format!("{host}:{}", listening.port()),
        None if listening.ip().is_unspecified() => {
            let problem = "the link listens on every interface, so that others do not know where to dial; give the host";
            return Err(Error::argument("expose", problem));
        }
        None => listening.to_string(),
    };
    LinkEndpoint::new(address, false)
}

/// Returns true for `HOST:PORT`. An IPv6 address without brackets has no port.
fn has_port(host: &str) -> bool {
    Authority::parse_socket(host.as_bytes()).is_ok_and(|authority| authority.port.is_some())
}

/// Warns that links without a secret can be dialled from other machines.
pub(in crate::cluster) fn warn_if_open(listening: &Addr, has_secret: bool) {
    let is_loopback = listening.ip().is_none_or(|ip| ip.is_loopback());
    if !has_secret && !is_loopback {
        log::warn!(
            target: "epicycle::cluster",
            "whoever reaches {listening} can act for every user; set a secret"
        );
    }
}

/// Returns the instances to dial: all that are not `shut`.
pub(in crate::cluster) fn peers<'i>(
    instances: impl IntoIterator<Item = &'i Instance>,
) -> Arc<[(Identity, LinkEndpoint)]> {
    let instances = instances.into_iter();
    registered(instances.filter(|instance| instance.state != State::Shut))
}

/// Returns all instances as peers, also those that are `shut`.
pub(in crate::cluster) fn registered<'i>(
    instances: impl IntoIterator<Item = &'i Instance>,
) -> Arc<[(Identity, LinkEndpoint)]> {
    instances.into_iter().filter_map(peer).collect()
}

fn peer(instance: &Instance) -> Option<(Identity, LinkEndpoint)> {
    match instance.endpoint.parse() {
        Ok(endpoint) => Some((Identity::new(instance.kind, &*instance.id), endpoint)),
        Err(error) => {
            log::warn!(target: "epicycle::cluster", "no link to {}: {error}", instance.id);
            None
        }
    }
}
