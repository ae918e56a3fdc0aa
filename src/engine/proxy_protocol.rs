//! The PROXY protocol, versions 1 and 2: a header at the start of a connection, by which a proxy tells the address of its
//! client.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use ppp::{v1, v2};

use crate::addr::{Addr, network};
use crate::error::{Error, error_messages};

/// The proxies that a listener trusts, for [`Listen::proxy_protocol`](crate::Listen::proxy_protocol).
///
/// ```
/// use epicycle::{Listen, ProxyProtocol};
///
/// let balancers = ProxyProtocol::trust(["10.0.0.0/8", "fd00::/8", "192.0.2.7"]);
/// let listen = Listen::on("tcp://:8080").proxy_protocol(balancers);
/// ```
#[derive(Clone, Debug)]
#[must_use = "it has no effect until it is given to a listener"]
pub struct ProxyProtocol {
    trusted: Vec<IpNet>,
    /// The first text that is no network.
    bad: Option<String>,
    accepts_others: bool,
    timeout: Duration,
}

/// A header of the PROXY protocol, for [`Connect::proxy_protocol`](crate::Connect::proxy_protocol), or as the first bytes that
/// a program of its own sends.
///
/// ```
/// use epicycle::ProxyHeader;
///
/// let (client, server) = ("192.0.2.1:4000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
/// let header = ProxyHeader::v1(client, server);
/// assert_eq!(header.as_bytes(), b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader(Vec<u8>);

/// A received header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its length in bytes.
    pub(crate) len: usize,
    /// The client's address. None if the proxy speaks for itself, or does not know the client.
    pub(crate) client: Option<SocketAddr>,
}

/// The reason why the start of a connection is no header.
#[derive(PartialEq, Eq)]
pub(crate) enum HeaderError {
    NoHeader,
    TooLong,
    Malformed(String),
}

/// The longest header in bytes. Version 2 allows 64 KiB of extensions; those in use take a few hundred bytes.
pub(crate) const MAX_HEADER: usize = 4096;

/// The longest header of version 1, with its line end.
const MAX_LINE: usize = 107;

/// The length of the fixed part of version 2.
const FIXED: usize = 16;

const TIMEOUT: Duration = Duration::from_secs(10);

impl ProxyProtocol {
    /// Trusts the headers of proxies in these networks: `10.0.0.0/8`, `fd00::/8`, or single addresses. The peers of a Unix
    /// socket are always trusted. A text that is no network makes the start of the server fail.
    pub fn trust<N: AsRef<str>>(networks: impl IntoIterator<Item = N>) -> Self {
        let mut this = Self {
            trusted: Vec::new(),
            bad: None,
            accepts_others: false,
            timeout: TIMEOUT,
        };
        for text in networks {
            let text = text.as_ref();
            match network(text) {
                Some(network) => this.trusted.push(network),
                None => drop(this.bad.get_or_insert_with(|| text.to_owned())),
            }
        }
        this
    }

    /// Serves connections from other addresses as they are, without a header. A header that they send is input for the codec.
    /// Default: off, such connections are closed and counted as [`refused`](crate::metrics::ReactorStats::refused).
    pub fn accept_others(mut self, on: bool) -> Self {
        self.accepts_others = on;
        self
    }

    /// Sets the time within which the header must arrive. On a listener with TLS, the timeout of the TLS handshake applies
    /// to both together. Default: 10 s. `Duration::MAX` means never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |problem| {
            let name = "proxy_protocol";
            Err(Error::Option { name, problem })
        };
        if let Some(text) = &self.bad {
            return bad(format!(
                "{text:?} is no network; write 10.0.0.0/8 or 192.0.2.7, for example"
            ));
        }
        if self.timeout.is_zero() {
            return bad(
                "a timeout of zero would end every connection at once; use Duration::MAX for never"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(crate) fn limit(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn trusts(&self, peer: &Addr) -> bool {
        let Some(ip) = peer.ip() else {
            return true;
        };
        let ip = ip.to_canonical();
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    pub(crate) fn refuses(&self, peer: &Addr) -> bool {
        !self.accepts_others && !self.trusts(peer)
    }
}

impl ProxyHeader {
    /// Makes a header of version 1, which is a line of text. If the two addresses differ in their IP version, both are written
    /// as IPv6.
    pub fn v1(client: SocketAddr, server: SocketAddr) -> Self {
        let addresses = match same_version(client, server) {
            (SocketAddr::V4(client), SocketAddr::V4(server)) => {
                v1::Addresses::new_tcp4(*client.ip(), *server.ip(), client.port(), server.port())
            }
            (client, server) => v1::Addresses::new_tcp6(
                v6(client.ip()),
                v6(server.ip()),
                client.port(),
                server.port(),
            ),
        };
        Self(addresses.to_string().into_bytes())
    }

    /// Makes a header of version 2, which is binary. If the two addresses differ in their IP version, both are written as IPv6.
    pub fn v2(client: SocketAddr, server: SocketAddr) -> Self {
        let addresses = v2::Addresses::from(same_version(client, server));
        Self::binary(v2::Command::Proxy, v2::Protocol::Stream, addresses)
    }

    /// Makes a header of version 2 for a connection of the proxy's own, such as a health check.
    pub fn local() -> Self {
        let addresses = v2::Addresses::Unspecified;
        Self::binary(v2::Command::Local, v2::Protocol::Unspecified, addresses)
    }

    fn binary(command: v2::Command, protocol: v2::Protocol, addresses: v2::Addresses) -> Self {
        let version = v2::Version::Two | command;
        let built = v2::Builder::with_addresses(version, protocol, addresses).build();
        // Only extensions could make it too long.
        Self(built.unwrap_or_default())
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns two addresses of one IP version.
fn same_version(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    if client.is_ipv4() == server.is_ipv4() {
        return (client, server);
    }
    let map = |addr: SocketAddr| SocketAddr::new(v6(addr.ip()).into(), addr.port());
    (map(client), map(server))
}

fn v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Parses the start of a connection. Returns `None` if more bytes are needed.
pub(crate) fn parse(input: &[u8]) -> Result<Option<Received>, HeaderError> {
    let begins_with = |start: &[u8]| {
        let n = start.len().min(input.len());
        input[..n] == start[..n]
    };
    if begins_with(v2::PROTOCOL_PREFIX) {
        parse_binary(input)
    } else if begins_with(b"PROXY ") {
        parse_line(input)
    } else {
        Err(HeaderError::NoHeader)
    }
}

/// Returns the length of the header with which the input begins, and the client's address. Returns `None` if more bytes are
/// needed.
///
/// # Errors
///
/// The reason why it is none.
#[cfg(feature = "internals")]
pub fn proxy_header(input: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, String> {
    match parse(input) {
        Ok(received) => Ok(received.map(|header| (header.len, header.client))),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn parse_binary(input: &[u8]) -> Result<Option<Received>, HeaderError> {
    if let Some([high, low]) = input.get(FIXED - 2..FIXED)
        && FIXED + usize::from(u16::from_be_bytes([*high, *low])) > MAX_HEADER
    {
        return Err(HeaderError::TooLong);
    }
    match v2::Header::try_from(input) {
        Ok(header) => Ok(Some(Received {
            len: header.len(),
            client: match (header.command, header.protocol, header.addresses) {
                (v2::Command::Local, ..) => None,
                (_, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
                    Some((ip.source_address, ip.source_port).into())
                }
                (_, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
                    Some((ip.source_address, ip.source_port).into())
                }
                _ => None,
            },
        })),
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => Ok(None),
        Err(error) => Err(HeaderError::Malformed(error.to_string())),
    }
}

fn parse_line(input: &[u8]) -> Result<Option<Received>, HeaderError> {
    let line = &input[..input.len().min(MAX_LINE)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return match line.len() {
            MAX_LINE => Err(HeaderError::TooLong),
            _ => Ok(None),
        };
    };
    let len = end + 2;
    match v1::Header::try_from(&line[..len]) {
        Ok(header) => Ok(Some(Received {
            len,
            client: match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
                v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            },
        })),
        // The line is complete, so nothing that follows can mend it.
        Err(error) => Err(HeaderError::Malformed(error.to_string())),
    }
}

error_messages! {
    HeaderError {
        HeaderError::NoHeader => "the connection does not begin with a PROXY header",
        HeaderError::TooLong => "the PROXY header is too long",
        HeaderError::Malformed(problem) => "the PROXY header is malformed: {problem}",
    }
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(client: &str, server: &str) -> (SocketAddr, SocketAddr) {
        let addr = |text: &str| text.parse().expect("an address");
        (addr(client), addr(server))
    }

    /// Headers with the client that each of them tells.
    fn samples() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let mut samples = Vec::new();
        for (client, server) in [
            addrs("192.0.2.1:4000", "192.0.2.2:80"),
            addrs("[2001:db8::1]:65535", "[2001:db8::2]:1"),
            addrs("[2001:db8::1]:1", "192.0.2.2:80"),
        ] {
            for header in [
                ProxyHeader::v1(client, server),
                ProxyHeader::v2(client, server),
            ] {
                samples.push((header.0, Some(client)));
            }
        }
        samples.push((ProxyHeader::local().0, None));
        samples.push((b"PROXY UNKNOWN\r\n".to_vec(), None));
        samples.push((b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None));
        let (client, server) = addrs("192.0.2.1:4000", "192.0.2.2:80");
        let extended = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (client, server),
        );
        let authority = extended.write_tlv(v2::Type::Authority, b"example.com");
        let built = authority.and_then(v2::Builder::build).expect("is short");
        samples.push((built, Some(client)));
        samples
    }

    #[test]
    fn a_header_is_found_at_its_last_byte_and_not_before() {
        for (header, client) in samples() {
            for n in 0..header.len() {
                assert_eq!(parse(&header[..n]), Ok(None), "{n} of {header:?}");
            }
            let len = header.len();
            let received = Received { len, client };
            assert_eq!(parse(&header).as_ref(), Ok(&Some(received)));
            // The bytes behind it are not looked at.
            for behind in ["\r\n", "PROXY ", "\0"] {
                let followed = [&header, behind.as_bytes()].concat();
                let received = Received { len, client };
                assert_eq!(parse(&followed), Ok(Some(received)));
            }
        }
    }

    #[test]
    fn a_byte_that_no_header_can_have_is_refused_at_once() {
        for input in [
            "GET",
            "PROXZ",
            "\r\n\r\n\0\r\nQUIX",
            "proxy ",
            "PROXY\t",
            "\0",
        ] {
            assert_eq!(
                parse(input.as_bytes()),
                Err(HeaderError::NoHeader),
                "{input:?}"
            );
        }
    }

    #[test]
    fn a_header_that_is_malformed_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 4000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4000 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 04000 80\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
        ] {
            let result = parse(line.as_bytes());
            assert!(
                matches!(result, Err(HeaderError::Malformed(_))),
                "{line:?}: {result:?}"
            );
        }
        let good = ProxyHeader::v2(
            "192.0.2.1:1".parse().expect("an address"),
            "192.0.2.2:2".parse().expect("an address"),
        );
        for (at, byte) in [(12, 0x11), (12, 0x22), (13, 0x41), (13, 0x13), (15, 11)] {
            let mut header = good.0.clone();
            header[at] = byte;
            let result = parse(&header);
            assert!(
                matches!(result, Err(HeaderError::Malformed(_))),
                "{at}: {result:?}"
            );
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_refused_before_it_is_there() {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(MAX_LINE - 1, b'x');
        assert_eq!(parse(&line), Ok(None));
        line.push(b'x');
        assert_eq!(parse(&line), Err(HeaderError::TooLong));
        let mut header = ProxyHeader::local().0;
        let most = (MAX_HEADER - FIXED) as u16;
        header[14..16].copy_from_slice(&most.to_be_bytes());
        assert_eq!(parse(&header), Ok(None));
        header[14..16].copy_from_slice(&(most + 1).to_be_bytes());
        assert_eq!(parse(&header), Err(HeaderError::TooLong));
    }

    #[test]
    fn no_input_panics_and_a_header_is_never_longer_than_the_input() {
        let mut rng = fastrand::Rng::with_seed(1);
        let samples = samples();
        for _ in 0..100_000 {
            let mut input = samples[rng.usize(..samples.len())].0.clone();
            for _ in 0..rng.usize(..4) {
                let at = rng.usize(..input.len());
                input[at] = rng.u8(..);
            }
            input.truncate(rng.usize(..=input.len()));
            if let Ok(Some(header)) = parse(&input) {
                assert!(header.len <= input.len(), "{input:?}");
            }
        }
    }

    #[test]
    fn networks_are_trusted_whatever_way_an_address_is_written() {
        let proxies = ProxyProtocol::trust(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]);
        assert!(proxies.check().is_ok());
        let trusts = |ip: &str| {
            let ip: IpAddr = ip.parse().expect("an address");
            proxies.trusts(&Addr::Ip((ip, 1).into()))
        };
        for ip in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5", "192.0.2.7"] {
            assert!(trusts(ip), "{ip}");
        }
        for ip in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::ffff:192.0.2.8"] {
            assert!(!trusts(ip), "{ip}");
        }
        assert!(proxies.trusts(&Addr::Unix(None)));
        for text in ["10.0.0.0/33", "host.example", ""] {
            let error = ProxyProtocol::trust([text])
                .check()
                .expect_err("is refused");
            assert!(error.to_string().contains("is no network"), "{error}");
        }
    }
}
