//! The head of a request on its way to a node: checks, and what must not go on.

use std::str;

use super::error::ProxyError;
use super::exchange::{Asked, Body};
use super::forwarding;

use super::route::Route;
#[cfg(feature = "tls")]
use super::route::without_port;
use super::settings::{FieldChanges, HostField, Underscores};
use crate::http::fields::is_token;
use crate::http::lines::tokens;
use crate::http::{
    HeaderBlock, HeaderLine, Headers, SendError, ServerRequest, StatusCode, Version,
};

/// The meaning of the client's `Max-Forwards`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaxForwards {
    /// Nothing.
    Unlimited,
    /// The gateway is the last recipient.
    Here,
    /// It may pass so many proxies after this one.
    Left(u64),
}

/// The fields of a request that ask for something, as one look at all of them finds. Most requests have none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    authorization: bool,
    te: bool,
    via: bool,
    upgrade: bool,
    /// Some that tell about clients, among those that go on.
    pub(super) forwarding: bool,
}

impl Seen {
    #[inline]
    fn note(&mut self, line: &HeaderLine<'_>) {
        match line.colon() {
            2 => self.te |= line.is("te"),
            3 => self.via |= line.is("via"),
            7 => self.upgrade |= line.is("upgrade"),
            13 => self.authorization |= line.is("authorization"),
            _ => {}
        }
    }
}

impl Asked {
    /// Fills an empty value.
    pub(super) fn fill(&mut self, request: &ServerRequest<'_>) {
        self.method.push_str(request.method());
        self.host.push_str(request.host().unwrap_or_default());
        self.target.push_str(request.target());
        self.is_http10 = request.version() == Version::Http10;
    }
}

impl Body {
    pub(super) fn of(request: &ServerRequest<'_>) -> Self {
        match request.content_length() {
            Some(len) => Body::Sized(len),
            None if request.has_body() => Body::Chunked,
            None => Body::None,
        }
    }
}

/// Refuses a method that is not for this kind of listener.
pub(super) fn check_method(method: &str, is_forward: bool) -> Result<(), ProxyError> {
    match method {
        "TRACE" => {}
        "CONNECT" if !is_forward => {}
        _ => return Ok(()),
    }
    let what = "this method is not served here";
    Err(ProxyError::request(StatusCode::METHOD_NOT_ALLOWED, what))
}

/// Returns true if a request proves who sends it for the whole connection, as NTLM and Negotiate do (RFC 4559, section 6).
pub(super) fn is_private(request: &ServerRequest<'_>, seen: Seen) -> bool {
    let binds = |value: &[u8]| {
        let scheme = value.split(|byte| *byte == b' ').next().unwrap_or(value);
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    seen.authorization && request.headers().get_all("authorization").any(binds)
}

/// Refuses requests that no node may get.
pub(super) fn check(
    request: &ServerRequest<'_>,
    seen: Seen,
    rules: &forwarding::Rules,
    underscores: Underscores,
) -> Result<(), ProxyError> {
    let headers = request.headers();
    let mut protocols = headers.get_all("upgrade").flat_map(tokens);
    if seen.upgrade && !protocols.all(|protocol| protocol.split(|byte| *byte == b'/').all(is_token))
    {
        let what = "an Upgrade that is no protocol";
        return Err(ProxyError::request(StatusCode::BAD_REQUEST, what));
    }
    let is_unclear = |line: HeaderLine<'_>| line.name().contains(&b'_');
    if underscores == Underscores::Refuse && headers.lines().any(is_unclear) {
        let what = "a field with an underscore in its name";
        return Err(ProxyError::request(StatusCode::BAD_REQUEST, what));
    }
    if seen.via && forwarding::loops(rules, headers) {
        let what = "the request has been here before";
        return Err(ProxyError::request(StatusCode::LOOP_DETECTED, what));
    }
    Ok(())
}

/// Returns what the client's `Max-Forwards` asks for (RFC 9110, section 7.6.2).
pub(super) fn max_forwards(method: &str, fields: Headers<'_>) -> MaxForwards {
    if method != "OPTIONS" {
        return MaxForwards::Unlimited;
    }
    let told = fields.get("max-forwards").map(str::from_utf8);
    match told.and_then(|text| text.ok()?.parse().ok()) {
        Some(0) => MaxForwards::Here,
        Some(left) => MaxForwards::Left(left - 1),
        None => MaxForwards::Unlimited,
    }
}

/// Returns the target in origin form. `asked` is the target as the client sent it.
pub(super) fn target<'a>(request: &ServerRequest<'a>, asked: &'a str) -> &'a str {
    if asked.starts_with('/') {
        return asked;
    }
    match (request.method(), request.path_and_query()) {
        // The last proxy asks the server as a whole (RFC 9112, section 3.2.4).
        ("OPTIONS", "/") if request.scheme().is_some() && !request.target().ends_with('/') => "*",
        (_, target) => target,
    }
}

/// Returns the names that the `Connection` fields of a message nominate, without the usual options.
pub(super) fn nominated(headers: Headers<'_>) -> Vec<Box<[u8]>> {
    const USUAL: [&[u8]; 5] = [b"close", b"keep-alive", b"upgrade", b"te", b"trailer"];
    if !headers.nominates() {
        return Vec::new();
    }
    let options = headers.get_all("connection").flat_map(tokens);
    let is_usual = |option: &&[u8]| USUAL.iter().any(|usual| usual.eq_ignore_ascii_case(option));
    options
        .filter(|option| !is_usual(option))
        .map(Into::into)
        .collect()
}

/// Gathers the fields that go on to a node. Returns what the request asks for.
pub(super) fn gather(
    request: &ServerRequest<'_>,
    underscores: Underscores,
    believes_peer: bool,
    fields: &mut HeaderBlock,
) -> Result<Seen, SendError> {
    let is_http10 = request.version() == Version::Http10;
    let mut seen = Seen::default();
    let passes = |line: &HeaderLine<'_>| {
        seen.note(line);
        let tells = forwarding::is_forwarding_field(line);
        let passes = (underscores == Underscores::Pass || !line.name().contains(&b'_'))
            && (believes_peer || !tells)
            // HTTP/1.0 has no 100 (RFC 9110, section 10.1.1).
            && !(is_http10 && line.is("expect"));
        seen.forwarding |= tells && passes;
        passes
    };
    let headers = request.headers();
    fields.fill_end_to_end(headers, passes);
    if seen.te && request.accepts_trailers() {
        fields.push("TE", "trailers")?;
    }
    if Body::of(request) == Body::Chunked {
        announce_trailers(headers, fields)?;
    }
    Ok(seen)
}

/// Announces the trailers of a chunked body anew.
pub(super) fn announce_trailers(
    headers: Headers<'_>,
    fields: &mut HeaderBlock,
) -> Result<(), SendError> {
    for line in headers.lines().filter(|line| line.is("trailer")) {
        fields.push_line(line)?;
    }
    Ok(())
}

/// Gathers the trailers that go on. What a recipient must not take from trailers is left out.
pub(super) fn gather_trailers(
    trailers: Headers<'_>,
    nominated: &[Box<[u8]>],
    fields: &mut HeaderBlock,
) {
    let is_nominated = |line: &HeaderLine<'_>| {
        let mut names = nominated.iter();
        names.any(|name| name.eq_ignore_ascii_case(line.name()))
    };
    fields.fill_end_to_end(trailers, |line| {
        !is_forbidden_trailer(line) && !line.name().contains(&b'_') && !is_nominated(line)
    });
}

/// Returns true for a field that is read before the body, about routing, framing, access or the content (RFC 9110, section
/// 6.5.1).
fn is_forbidden_trailer(line: &HeaderLine<'_>) -> bool {
    const FORBIDDEN: [&str; 21] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "range",
        "set-cookie",
        "via",
        "www-authenticate",
    ];
    forwarding::is_forwarding_field(line) || FORBIDDEN.iter().any(|name| line.is(name))
}

/// Makes the changes that the settings ask for.
pub(super) fn change(fields: &mut HeaderBlock, changes: &FieldChanges) -> Result<(), SendError> {
    for name in &changes.remove {
        fields.remove(name);
    }
    for (name, value) in &changes.set {
        fields.set(name, value)?;
    }
    for (name, value) in &changes.add {
        fields.push(name, value)?;
    }
    Ok(())
}

/// Returns the protocol that the client asks to change to, if the route allows it.
pub(super) fn upgrade(request: &ServerRequest<'_>, seen: Seen, route: &Route) -> Option<Box<str>> {
    if !seen.upgrade || Body::of(request) != Body::None || request.method() == "HEAD" {
        return None;
    }
    let mut allowed = route.settings.upgrade.iter();
    let wanted = allowed.find(|protocol| request.wants_upgrade(protocol))?;
    Some(wanted.as_str().into())
}

/// Returns the host for the node. It is empty if that is the node's own, or if an HTTP/1.0 client has named none.
pub(super) fn host<'a>(field: &'a HostField, asked: &'a str) -> &'a str {
    match field {
        HostField::Keep => asked,
        HostField::Node => "",
        HostField::Name(name) => name,
    }
}

/// Returns true if a TLS name covers a host.
#[cfg(feature = "tls")]
pub(super) fn covers(name: &str, host: &str) -> bool {
    without_port(host).eq_ignore_ascii_case(name)
}
