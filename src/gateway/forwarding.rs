//! The fields that tell a node about the client, and `Via`.

use std::net::IpAddr;

use super::ip_text::IpText;
use super::networks::Networks;
use super::settings::{ForwardedFor, Forwarding};
use crate::http::lines::{is_named, tokens};
use crate::http::{
    HeaderBlock, HeaderLine, Headers, SendError, ServerRequest, Version, forwarded_for,
};

/// The name in `Via`.
const NAME: &str = "epicycle";

/// The gateway in `Via`, by the version of the message that it has received.
const VIA_HTTP10: &str = "1.0 epicycle";
const VIA_HTTP11: &str = "1.1 epicycle";

/// The forwarding fields of a listener, with what is worked out once.
#[derive(Debug)]
pub(super) struct Rules {
    settings: Forwarding,
    /// The networks of proxies in front of the gateway.
    trusted: Networks,
}

impl Rules {
    pub(super) fn new(settings: &Forwarding) -> Self {
        Self {
            trusted: Networks::new(&settings.trusted),
            settings: settings.clone(),
        }
    }
}

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
pub(super) fn trusts(rules: &Rules, peer: Peer) -> bool {
    rules.trusted.is_empty() || is_trusted_peer(rules, peer)
}

fn is_trusted_peer(rules: &Rules, peer: Peer) -> bool {
    !peer.is_hidden && is_trusted(rules, peer.ip)
}

fn is_trusted(rules: &Rules, peer: Option<IpAddr>) -> bool {
    // Whoever reaches a Unix socket is on this host.
    peer.is_none_or(|peer| rules.trusted.contains(peer))
}

/// Returns true for a field in which a proxy tells about clients, also if it is spelt with underscores: many programs read
/// `X_Forwarded_For` as the same field.
#[inline]
pub(super) fn is_forwarding_field(line: &HeaderLine<'_>) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    let name = line.name();
    match name.first() {
        Some(b'x' | b'X') => {
            let begin = name.get(..PREFIX.len());
            begin.is_some_and(|begin| is_spelling_of(begin, PREFIX))
                || is_spelling_of(name, b"x-real-ip")
        }
        Some(b'f' | b'F') => is_named(name, b"forwarded"),
        _ => false,
    }
}

fn is_spelling_of(name: &[u8], of: &[u8]) -> bool {
    let is_same =
        |(byte, of): (&u8, &u8)| byte.eq_ignore_ascii_case(of) || (*byte, *of) == (b'_', b'-');
    name.len() == of.len() && name.iter().zip(of).all(is_same)
}

/// Returns true if a request has been here more often than it may.
pub(super) fn loops(rules: &Rules, fields: Headers<'_>) -> bool {
    let ours = |via: &&[u8]| {
        let by = via.split(u8::is_ascii_whitespace).nth(1);
        by.is_some_and(|by| by.eq_ignore_ascii_case(NAME.as_bytes()))
    };
    let times = fields.get_all("via").flat_map(tokens).filter(ours).count();
    rules.settings.via && times > rules.settings.max_loops as usize
}

/// Returns the client: the last address that no trusted proxy has.
pub(super) fn client(rules: &Rules, peer: Peer, fields: Headers<'_>) -> Option<IpAddr> {
    if rules.trusted.is_empty() || !is_trusted_peer(rules, peer) {
        return peer.ip;
    }
    forwarded_for(fields, |ip| rules.trusted.contains(ip)).or(peer.ip)
}

/// Tells the client anew if a trusted proxy's `Connection` names the list in which it was told. Else the node would take the proxy for
/// the client. Returns true if it does.
pub(super) fn restore_client(
    rules: &Rules,
    peer: Peer,
    client: Option<IpAddr>,
    request: &ServerRequest<'_>,
    fields: &mut HeaderBlock,
) -> Result<bool, SendError> {
    let Some(client) = client.filter(|_| request.headers().nominates()) else {
        return Ok(false);
    };
    let is_lost = Some(client) != peer.ip && fields.headers().get("x-forwarded-for").is_none();
    if !is_lost || rules.settings.x_forwarded_for != ForwardedFor::Append {
        return Ok(false);
    }
    fields.push("X-Forwarded-For", IpText::of(client).as_bytes())?;
    Ok(true)
}

/// Returns true if there are such fields.
pub(super) fn are_in(fields: &HeaderBlock) -> bool {
    fields
        .headers()
        .lines()
        .any(|line| is_forwarding_field(&line))
}

/// Sets the forwarding fields of a request. `are_new` is true if it has none of them. Then nothing is searched for.
pub(super) fn set(
    rules: &Rules,
    hop: &Hop<'_>,
    client: Option<IpAddr>,
    are_new: bool,
    fields: &mut HeaderBlock,
) -> Result<(), SendError> {
    // Only then does a proxy in front of this one know more than this one.
    let believes = !rules.trusted.is_empty() && is_trusted_peer(rules, hop.peer);
    let scheme = if hop.is_tls { "https" } else { "http" };
    let last = match (rules.settings.x_forwarded_for, hop.peer.ip) {
        (ForwardedFor::Append, Some(peer)) => Some(peer),
        (ForwardedFor::Replace, Some(peer)) => Some(client.unwrap_or(peer)),
        (ForwardedFor::Off, _) | (_, None) => None,
    };
    let last_text = last.map(IpText::of);
    if let Some(last) = &last_text {
        let told = match rules.settings.x_forwarded_for {
            ForwardedFor::Append if !are_new => list_behind_told(fields, last.as_bytes()),
            _ => None,
        };
        let list = told.as_deref().unwrap_or(last.as_bytes());
        set_one(fields, are_new, b"X-Forwarded-For: ", list);
    }
    if rules.settings.x_real_ip
        && let Some(client) = client
    {
        // Most clients are the peer.
        let text = last_text.filter(|_| last == Some(client));
        let text = text.unwrap_or_else(|| IpText::of(client));
        set_one(fields, are_new, b"X-Real-IP: ", text.as_bytes());
    }
    if rules.settings.x_forwarded {
        // What a proxy in front of this one told stays.
        let keeps = |fields: &HeaderBlock, name: &str| {
            believes && !are_new && fields.headers().get(name).is_some()
        };
        if !keeps(fields, "X-Forwarded-Proto") {
            set_one(fields, are_new, b"X-Forwarded-Proto: ", scheme.as_bytes());
        }
        if !hop.host.is_empty() && !keeps(fields, "X-Forwarded-Host") {
            set_one(fields, are_new, b"X-Forwarded-Host: ", hop.host.as_bytes());
        }
        if let Some(port) = hop.port
            && !keeps(fields, "X-Forwarded-Port")
        {
            let mut text = itoa::Buffer::new();
            let text = text.format(port).as_bytes();
            set_one(fields, are_new, b"X-Forwarded-Port: ", text);
        }
    }
    if rules.settings.forwarded {
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
    if rules.settings.via {
        let value = match hop.version {
            Version::Http10 => VIA_HTTP10,
            Version::Http11 => VIA_HTTP11,
        };
        fields.push_known(b"Via: ", value.as_bytes());
    }
    Ok(())
}

/// Sets a field. `begin` is its name with a colon and a space.
#[inline(always)]
fn set_one<const N: usize>(
    fields: &mut HeaderBlock,
    is_new: bool,
    begin: &'static [u8; N],
    value: &[u8],
) {
    if !is_new {
        let name = begin.strip_suffix(b": ").unwrap_or_default();
        fields.remove(str::from_utf8(name).unwrap_or_default());
    }
    fields.push_known(begin, value);
}

/// Returns the list of `X-Forwarded-For` with another address at its end, if there is a list.
#[cold]
fn list_behind_told(fields: &HeaderBlock, last: &[u8]) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for told in fields.headers().get_all("x-forwarded-for") {
        if !told.is_empty() {
            list.extend_from_slice(told);
            list.extend_from_slice(b", ");
        }
    }
    list.extend_from_slice(last);
    Some(list)
}
