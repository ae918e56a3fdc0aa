//! The fields that tell a node about the client, and `Via`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str;

use super::settings::{ForwardedFor, Forwarding};
use crate::http::lines::tokens;
use crate::http::{HeaderBlock, HeaderLine, Headers, SendError, Version};

/// The name in `Via`.
const NAME: &str = "epicycle";

/// The gateway in `Via`, by the version of the message that it has received.
const VIA_HTTP10: &str = "1.0 epicycle";
const VIA_HTTP11: &str = "1.1 epicycle";

/// The peer of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// `None` for that of a Unix socket.
    pub(super) ip: Option<IpAddr>,
    /// True if a proxy speaks for a client that its PROXY header does not name. The address is then the proxy's, and the fields are
    /// anybody's.
    pub(super) is_hidden: bool,
}

/// The facts about a client's connection that forwarding fields tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop<'a> {
    pub(super) peer: Peer,
    pub(super) is_tls: bool,
    /// The port that the client has connected to.
    pub(super) port: Option<u16>,
    pub(super) host: &'a str,
    pub(super) version: Version,
}

/// Returns true if what this peer sends in forwarding fields is believed.
pub(super) fn trusts(rules: &Forwarding, peer: Peer) -> bool {
    rules.trusted.is_empty() || is_trusted_peer(rules, peer)
}

fn is_trusted_peer(rules: &Forwarding, peer: Peer) -> bool {
    !peer.is_hidden && is_trusted(rules, peer.ip)
}

fn is_trusted(rules: &Forwarding, peer: Option<IpAddr>) -> bool {
    // Whoever reaches a Unix socket is on this host.
    peer.is_none_or(|peer| {
        let peer = peer.to_canonical();
        rules.trusted.iter().any(|network| network.contains(&peer))
    })
}

/// Returns true for a field in which a proxy tells about clients, also if it is spelt with underscores: many programs read
/// `X_Forwarded_For` as the same field.
pub(super) fn is_forwarding_field(line: &HeaderLine<'_>) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    const REAL_IP: &[u8] = b"x-real-ip";
    let name = line.name();
    let begins = name.get(..PREFIX.len());
    begins.is_some_and(|begin| is_spelling_of(begin, PREFIX))
        || is_spelling_of(name, REAL_IP)
        || line.is("forwarded")
}

fn is_spelling_of(name: &[u8], of: &[u8]) -> bool {
    let is_same =
        |(byte, of): (&u8, &u8)| byte.eq_ignore_ascii_case(of) || (*byte, *of) == (b'_', b'-');
    name.len() == of.len() && name.iter().zip(of).all(is_same)
}

/// Returns true if a request has been here more often than it may.
pub(super) fn loops(rules: &Forwarding, fields: Headers<'_>) -> bool {
    let ours = |via: &&[u8]| {
        let by = via.split(u8::is_ascii_whitespace).nth(1);
        by.is_some_and(|by| by.eq_ignore_ascii_case(NAME.as_bytes()))
    };
    let times = fields.get_all("via").flat_map(tokens).filter(ours).count();
    rules.via && times > rules.max_loops as usize
}

/// Returns the client: the last address that no trusted proxy has.
pub(super) fn client(rules: &Forwarding, peer: Peer, fields: Headers<'_>) -> Option<IpAddr> {
    if rules.trusted.is_empty() || !is_trusted_peer(rules, peer) {
        return peer.ip;
    }
    let told: Vec<&[u8]> = fields.get_all("x-forwarded-for").flat_map(tokens).collect();
    let mut client = peer.ip;
    for text in told.into_iter().rev() {
        let Some(address) = parse(text) else { break };
        client = Some(address);
        if !is_trusted(rules, client) {
            break;
        }
    }
    client
}

/// Parses an address, with or without a port.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let parsed = bare.parse().ok();
    parsed.or_else(|| text.parse().ok().map(|addr: SocketAddr| addr.ip()))
}

/// Sets the forwarding fields of a request.
pub(super) fn set(
    rules: &Forwarding,
    hop: &Hop<'_>,
    client: Option<IpAddr>,
    fields: &mut HeaderBlock,
) -> Result<(), SendError> {
    // Only then does a proxy in front of this one know more than this one.
    let believes = !rules.trusted.is_empty() && is_trusted_peer(rules, hop.peer);
    let scheme = if hop.is_tls { "https" } else { "http" };
    // Most clients send none of them, so nothing is searched for.
    let are_new = !fields
        .headers()
        .lines()
        .any(|line| is_forwarding_field(&line));
    let set = |fields: &mut HeaderBlock, begin: &'static str, value: &[u8]| {
        if !are_new {
            fields.remove(name_in(begin));
        }
        fields.push_known(begin, value)
    };
    let mut list = Vec::with_capacity(64);
    let last = match (rules.x_forwarded_for, hop.peer.ip) {
        (ForwardedFor::Append, Some(peer)) => {
            if !are_new {
                for told in fields.headers().get_all("x-forwarded-for") {
                    if !told.is_empty() {
                        list.extend_from_slice(told);
                        list.extend_from_slice(b", ");
                    }
                }
            }
            Some(peer)
        }
        (ForwardedFor::Replace, Some(peer)) => Some(client.unwrap_or(peer)),
        (ForwardedFor::Off, _) | (_, None) => None,
    };
    let begin = list.len();
    if let Some(last) = last {
        write_ip(last, &mut list);
        set(fields, "X-Forwarded-For: ", &list)?;
    }
    if rules.x_real_ip
        && let Some(client) = client
    {
        // Most clients are the peer.
        if last != Some(client) {
            list.truncate(begin);
            write_ip(client, &mut list);
        }
        set(fields, "X-Real-IP: ", &list[begin..])?;
    }
    if rules.x_forwarded {
        let mut tell = |begin: &'static str, value: &str| {
            let told = || fields.headers().get(name_in(begin)).is_some();
            match believes && !are_new && told() {
                true => Ok(()),
                false => set(fields, begin, value.as_bytes()),
            }
        };
        tell("X-Forwarded-Proto: ", scheme)?;
        if !hop.host.is_empty() {
            tell("X-Forwarded-Host: ", hop.host)?;
        }
        if let Some(port) = hop.port {
            tell("X-Forwarded-Port: ", itoa::Buffer::new().format(port))?;
        }
    }
    if rules.forwarded {
        let node = match hop.peer.ip.map(|peer| peer.to_canonical()) {
            Some(IpAddr::V4(ip)) => ip.to_string(),
            Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
            None => "unknown".to_owned(),
        };
        let host = hop.host;
        let element = match host.is_empty() {
            true => format!("for={node};proto={scheme}"),
            false => format!("for={node};host=\"{host}\";proto={scheme}"),
        };
        fields.push("Forwarded", element)?;
    }
    if rules.via {
        let value = match hop.version {
            Version::Http10 => VIA_HTTP10,
            Version::Http11 => VIA_HTTP11,
        };
        fields.push_known("Via: ", value.as_bytes())?;
    }
    Ok(())
}

/// Returns the name in the beginning of a line.
fn name_in(begin: &str) -> &str {
    begin.strip_suffix(": ").unwrap_or(begin)
}

/// Writes an address as text.
fn write_ip(ip: IpAddr, text: &mut Vec<u8>) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to a vector does not fail.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}
