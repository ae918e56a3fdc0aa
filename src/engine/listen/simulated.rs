//! Stream listeners of a simulated network. They have no sockets: the network brings each connection to its engine.

use std::io;
use std::net::IpAddr;

use super::listeners::AllListening;
use super::{Place, StreamPlace};
use crate::addr::{Addr, Endpoint, Family};
use crate::error::Error;
use crate::sys::simulated::SimulatedHost;

/// Listens on a place, and adds it to those that listen. Returns its address.
pub(crate) fn listen(
    host: &SimulatedHost,
    place: StreamPlace,
    all: &mut AllListening,
) -> Result<Addr, Error> {
    let addr = addr_of(host, &place.place);
    let bound = addr.and_then(|addr| host.listen(place.number, &addr));
    let addr = bound.map_err(|source| Error::Bind {
        addr: place.place.to_string(),
        source,
    })?;
    all.add_simulated(place.number, place.handshakes);
    Ok(addr)
}

fn addr_of(host: &SimulatedHost, place: &Place) -> io::Result<Addr> {
    let unsupported = |what: &str| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    let addr = match place {
        Place::Path(_, options) if options.has_records => {
            return unsupported("Unix sockets of records are not simulated");
        }
        Place::Path(path, _) => Addr::Unix(Some(path.as_path().into())),
        Place::Addr(Endpoint::UnixAbstract(name)) => Addr::UnixAbstract(name.as_slice().into()),
        Place::Addr(Endpoint::Tcp {
            host: name,
            port,
            family,
        }) => match (name.as_str(), family) {
            ("", _) => Addr::Ip((host.ip, *port).into()),
            ("localhost", Family::V6) => Addr::Ip(([0, 0, 0, 0, 0, 0, 0, 1], *port).into()),
            ("localhost", _) => Addr::Ip(([127, 0, 0, 1], *port).into()),
            (name, _) => match name.parse::<IpAddr>() {
                Ok(ip) if ip.is_unspecified() => Addr::Ip((host.ip, *port).into()),
                Ok(ip) => Addr::Ip((ip, *port).into()),
                Err(_) => {
                    return unsupported("a simulated engine listens on IP addresses, not on names");
                }
            },
        },
        Place::Addr(_) => return unsupported("it is not simulated"),
        Place::Socket(_) => return unsupported("a socket of the kernel cannot be simulated"),
    };
    Ok(addr)
}
