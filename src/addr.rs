//! Addresses: to listen on or to connect to, and of the two ends of a connection.
//!
//! ```
//! use epicycle::Endpoint;
//!
//! let addr: Endpoint = "tcp4://127.0.0.1:9000".parse()?;
//! assert_eq!(addr.to_string(), "tcp4://127.0.0.1:9000");
//! assert!("tcp://127.0.0.1".parse::<Endpoint>().unwrap_err().to_string().contains("no port"));
//! # Ok::<(), epicycle::Error>(())
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::authority::{Authority, Flaw};
use crate::error::Error;

/// An address to listen on or to connect to, parsed from `scheme://rest`.
///
/// | Form | Stands for |
/// |---|---|
/// | `tcp://HOST:PORT`, or plain `HOST:PORT` | TCP. A listener takes the first address of HOST that can be bound; an empty HOST is every interface, IPv6 and IPv4. A connect [tries all addresses](crate::Connect::to) of HOST, which must not be empty. |
/// | `tcp4://HOST:PORT` | the same, IPv4 only |
/// | `tcp6://HOST:PORT` | the same, IPv6 only |
/// | `udp://HOST:PORT`, `udp4://HOST:PORT`, `udp6://HOST:PORT` | the same for datagrams |
/// | `unix://PATH` | a Unix stream socket at PATH |
/// | `unix://@NAME` | a Unix stream socket in Linux's abstract namespace, which has no file (`unix(7)`); a file of that name is `unix://./@NAME` |
/// | `unixpacket://PATH`, `unixpacket://@NAME` | the same for a Unix socket of records (`SOCK_SEQPACKET`) |
///
/// A PORT of 0 lets the kernel choose one for a listener. [`Running::local_addrs`](crate::Running::local_addrs) returns it.
/// It cannot be connected to.
///
/// # Records
///
/// A `unixpacket://` connection is a stream of bytes like any other. The records in which they travel are no frames: received
/// records are joined, and output is sent in records of at most 4,096 bytes, so that a peer with a buffer of that size
/// receives each whole. A received record may have up to 64 KiB. A longer one closes the connection with
/// [`CloseReason::Io`](crate::CloseReason). The peer's stream ends with its FIN or with an empty record. Files and pipes are
/// copied, not moved by the kernel. There is no TLS and no PROXY protocol on accepted connections, and `Conn::detach` is
/// refused. Apple's systems have no such sockets: listening and connecting fail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP listener.
    Tcp {
        /// A host name, an IP address (IPv6 without its brackets), or empty for every interface.
        host: String,
        /// The port; 0 lets the kernel choose.
        port: u16,
        /// The IP versions that may be used.
        family: Family,
    },
    /// A UDP socket.
    Udp {
        /// A host name, an IP address (IPv6 without its brackets), or empty for every interface.
        host: String,
        /// The port; 0 lets the kernel choose.
        port: u16,
        /// The IP versions that may be used.
        family: Family,
    },
    /// A Unix stream socket at a path.
    Unix(PathBuf),
    /// A Unix stream socket with an abstract name, without its leading NUL byte. Any process in the host's network
    /// namespace can connect to it, whatever its user. In text, bytes that cannot be printed are escaped: `unix://@app\x00`.
    UnixAbstract(Vec<u8>),
    /// A Unix socket of records (`SOCK_SEQPACKET`) at a path.
    UnixPacket(PathBuf),
    /// A Unix socket of records with an abstract name, as [`UnixAbstract`](Self::UnixAbstract) has.
    UnixPacketAbstract(Vec<u8>),
}

/// The IP versions that an address allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 or IPv6, whichever the host has.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Endpoint {
    /// Returns the socket addresses of a TCP or UDP endpoint. Returns none for a Unix socket.
    ///
    /// Looks up a host name with the system's resolver, which blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the name does not resolve, or has no address of the family.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let (host, port, family) = match self {
            Endpoint::Tcp { host, port, family } | Endpoint::Udp { host, port, family } => {
                (host, *port, family)
            }
            _ => return Ok(Vec::new()),
        };
        if host.is_empty() {
            let any: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 | Family::Any => Ipv6Addr::UNSPECIFIED.into(),
            };
            return Ok(vec![SocketAddr::new(any, port)]);
        }
        let found = (host.as_str(), port).to_socket_addrs();
        let found = found.map_err(|error| self.unresolved(error))?;
        self.wanted(found)
    }

    /// Filters the addresses that a lookup found: keeps those of the family, and gives them this endpoint's port.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if none is of the family.
    pub(crate) fn wanted(
        &self,
        found: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Error> {
        let (scheme, host, port, family) = match self {
            Endpoint::Tcp { host, port, family } => ("tcp", host, *port, family),
            Endpoint::Udp { host, port, family } => ("udp", host, *port, family),
            _ => return Ok(Vec::new()),
        };
        let fits = |addr: &SocketAddr| match family {
            Family::Any => true,
            Family::V4 => addr.is_ipv4(),
            Family::V6 => addr.is_ipv6(),
        };
        let mut wanted: Vec<SocketAddr> = found.into_iter().filter(fits).collect();
        if wanted.is_empty() {
            return Err(self.problem(format!(
                "the host {host:?} has no address of that IP version; use {scheme}:// to allow both"
            )));
        }
        for addr in &mut wanted {
            addr.set_port(port);
        }
        Ok(wanted)
    }

    /// Returns the error for a host that does not resolve.
    pub(crate) fn unresolved(&self, why: impl fmt::Display) -> Error {
        let host = match self {
            Endpoint::Tcp { host, .. } | Endpoint::Udp { host, .. } => host.as_str(),
            _ => "",
        };
        self.problem(format!("the host {host:?} does not resolve ({why})"))
    }

    /// Returns true for a Unix socket of records.
    pub(crate) fn is_unix_packet(&self) -> bool {
        matches!(
            self,
            Endpoint::UnixPacket(_) | Endpoint::UnixPacketAbstract(_)
        )
    }

    fn problem(&self, problem: String) -> Error {
        Error::Address {
            input: self.to_string(),
            problem,
        }
    }
}

/// The schemes before the `://`.
const SCHEMES: [&str; 8] = [
    "tcp",
    "tcp4",
    "tcp6",
    "udp",
    "udp4",
    "udp6",
    "unix",
    "unixpacket",
];

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self, Error> {
        let problem = |problem: &str| Error::Address {
            input: input.to_owned(),
            problem: problem.to_owned(),
        };
        let (scheme, rest) = input.split_once("://").unwrap_or(("tcp", input));
        if let Some((scheme, rest)) = input.split_once(':')
            && SCHEMES.contains(&scheme)
            && !rest.starts_with("//")
            // A host may have such a name.
            && rest.parse::<u16>().is_err()
        {
            return Err(problem(&format!(
                "a scheme is followed by two slashes; write {scheme}://{rest}"
            )));
        }
        if let "unix" | "unixpacket" = scheme {
            if rest.is_empty() {
                return Err(problem(&format!(
                    "the path is missing; write {scheme}:///run/app.sock, say"
                )));
            }
            let has_records = scheme == "unixpacket";
            return match rest.strip_prefix('@') {
                Some("") => Err(problem(&format!(
                    "the name is missing; write {scheme}://@app, say"
                ))),
                Some(name) => match unescape(name) {
                    Some(name) if has_records => Ok(Endpoint::UnixPacketAbstract(name)),
                    Some(name) => Ok(Endpoint::UnixAbstract(name)),
                    None => Err(problem(
                        "a backslash begins an escape in a name: \\\\ for itself, or \\x and two digits for any byte",
                    )),
                },
                None if has_records => Ok(Endpoint::UnixPacket(PathBuf::from(rest))),
                None => Ok(Endpoint::Unix(PathBuf::from(rest))),
            };
        }
        let (transport, family) = match scheme.strip_suffix(['4', '6']) {
            Some(transport) if scheme.ends_with('4') => (transport, Family::V4),
            Some(transport) => (transport, Family::V6),
            None => (scheme, Family::Any),
        };
        if !matches!(transport, "tcp" | "udp") {
            return Err(problem(
                "the scheme is unknown; use tcp://, udp:// (also with 4 or 6: tcp4://), unix:// or unixpacket://",
            ));
        }
        let (host, port) = host_and_port(rest, transport, family).map_err(|text| problem(&text))?;
        Ok(match transport {
            "udp" => Endpoint::Udp { host, port, family },
            _ => Endpoint::Tcp { host, port, family },
        })
    }
}

/// Splits `HOST:PORT`. The error is the problem and its remedy.
fn host_and_port(rest: &str, transport: &str, family: Family) -> Result<(String, u16), String> {
    let needs_port = || format!("there is no port; write {transport}://127.0.0.1:9000, say");
    let needs_brackets =
        || format!("an IPv6 address needs brackets; write {transport}://[::1]:9000, say");
    let authority = Authority::parse_socket(rest.as_bytes()).map_err(|flaw| match flaw {
        Flaw::Port if !rest.starts_with('[') && rest.matches(':').count() > 1 => needs_brackets(),
        Flaw::Port => "the port is not a number from 0 to 65535".to_owned(),
        Flaw::Literal => needs_brackets(),
        Flaw::Host => format!(
            "the host is neither a name nor an IP address; write {transport}://127.0.0.1:9000, say"
        ),
    })?;
    let port = authority.port.ok_or_else(needs_port)?;
    // The parser accepts only ASCII.
    let host = String::from_utf8_lossy(authority.host).into_owned();
    match family {
        Family::V4 if authority.is_literal => Err(format!(
            "{transport}4:// takes an IPv4 address; use {transport}6:// or {transport}://"
        )),
        Family::V6 if host.parse::<Ipv4Addr>().is_ok() => Err(format!(
            "{transport}6:// takes an IPv6 address; use {transport}4:// or {transport}://"
        )),
        _ => Ok((host, port)),
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = Error;

    fn try_from(input: &str) -> Result<Self, Error> {
        input.parse()
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = Error;

    fn try_from(input: &String) -> Result<Self, Error> {
        input.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;

    fn try_from(input: String) -> Result<Self, Error> {
        input.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port, family) = match self {
            Endpoint::Tcp { host, port, family } => ("tcp", host, port, family),
            Endpoint::Udp { host, port, family } => ("udp", host, port, family),
            Endpoint::Unix(path) => return write!(f, "unix://{}", path.display()),
            Endpoint::UnixAbstract(name) => return write_abstract(f, "unix", name),
            Endpoint::UnixPacket(path) => return write!(f, "unixpacket://{}", path.display()),
            Endpoint::UnixPacketAbstract(name) => return write_abstract(f, "unixpacket", name),
        };
        let version = match family {
            Family::Any => "",
            Family::V4 => "4",
            Family::V6 => "6",
        };
        if host.contains(':') {
            write!(f, "{scheme}{version}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}{version}://{host}:{port}")
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Endpoint::Tcp {
            host: match addr {
                SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                    format!("{}%{}", v6.ip(), v6.scope_id())
                }
                _ => addr.ip().to_string(),
            },
            port: addr.port(),
            family: if addr.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            },
        }
    }
}

/// The listener at an address, as [`Running::local_addrs`](crate::Running::local_addrs) returns it: TCP for an IP address,
/// and a stream socket for a Unix address.
impl TryFrom<&Addr> for Endpoint {
    type Error = Error;

    fn try_from(addr: &Addr) -> Result<Self, Error> {
        match addr {
            Addr::Ip(addr) => Ok((*addr).into()),
            Addr::Unix(Some(path)) => Ok(Endpoint::Unix(path.to_path_buf())),
            Addr::UnixAbstract(name) => Ok(Endpoint::UnixAbstract(name.to_vec())),
            Addr::Unix(None) => Err(Error::Address {
                input: addr.to_string(),
                problem: "a Unix socket without a name cannot be connected to".to_owned(),
            }),
        }
    }
}

/// The address of one end of a connection. A Unix socket of records has the same kinds of address as a Unix stream socket, and
/// is shown in the same way: [`ConnInfo::transport`](crate::ConnInfo::transport) tells the two apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An IP address and a port. The IPv4 peer of a dual-stack listener has an IPv4 address here.
    Ip(SocketAddr),
    /// The path of a Unix socket. The sockets of most clients have none.
    Unix(Option<Box<Path>>),
    /// The abstract name of a Unix socket, without its leading NUL byte.
    UnixAbstract(Box<[u8]>),
}

impl Addr {
    /// Returns the IP address and port, or `None` for a Unix socket.
    pub fn as_socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Addr::Ip(addr) => Some(*addr),
            Addr::Unix(_) | Addr::UnixAbstract(_) => None,
        }
    }

    /// Returns the IP address, or `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.as_socket_addr().map(|addr| addr.ip())
    }

    /// Returns it with its scheme, for messages.
    pub(crate) fn with_scheme(&self, is_udp: bool) -> String {
        match self {
            Addr::Ip(addr) if is_udp => format!("udp://{addr}"),
            Addr::Ip(addr) => format!("tcp://{addr}"),
            unix => unix.to_string(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Ip(addr) => addr.fmt(f),
            Addr::Unix(Some(path)) => write!(f, "unix://{}", path.display()),
            Addr::Unix(None) => f.write_str("unix://(unnamed)"),
            Addr::UnixAbstract(name) => write_abstract(f, "unix", name),
        }
    }
}

/// Reads a name as [`write_abstract`] writes it. Returns `None` for an escape that is unknown.
fn unescape(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            quoted @ (b'\\' | b'\'' | b'"') => quoted,
            b'x' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(rest.next()?)? << 4 | digit(rest.next()?)?) as u8
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// Escapes the name, which may contain any bytes.
fn write_abstract(f: &mut fmt::Formatter<'_>, scheme: &str, name: &[u8]) -> fmt::Result {
    write!(f, "{scheme}://@{}", name.escape_ascii())
}

/// Parses a network such as `10.0.0.0/8`, or one address.
#[cfg(any(feature = "cluster", feature = "gateway", feature = "proxy-protocol"))]
pub(crate) fn network(text: &str) -> Option<ipnet::IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(Into::into);
    text.parse().ok().or_else(single)
}
