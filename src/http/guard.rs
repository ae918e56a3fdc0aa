//! Checks that tell if a request to an interface for operators comes from where it may: its `Host`, its origin, its token.

use std::net::{IpAddr, Ipv6Addr};

use super::ServerRequest;

/// Returns true for an IP address, `localhost` and these names. A page of another site, whose name was made to lead here, has that
/// site's name as its `Host`.
pub(crate) fn is_own_host(names: &[String], host: &str) -> bool {
    let name = without_port(host);
    let is_ip = match name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok(),
    };
    let mut names = names.iter().map(String::as_str).chain(["localhost"]);
    is_ip || names.any(|own| own.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns true unless a browser tells that another origin's page has sent the request.
pub(crate) fn is_own_origin(request: &ServerRequest<'_>, host: &str) -> bool {
    let headers = request.headers();
    let is_own = headers.get_all("origin").all(|origin| {
        let origin = origin.to_ascii_lowercase();
        let rest = origin.strip_prefix(b"http://");
        let rest = rest.or_else(|| origin.strip_prefix(b"https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_bytes()))
    });
    let mut sites = headers.get_all("sec-fetch-site");
    is_own && sites.all(|site| matches!(site, b"same-origin" | b"none"))
}

/// Returns the token of a request.
pub(crate) fn bearer<'a>(request: &ServerRequest<'a>) -> Option<&'a [u8]> {
    let mut fields = request.headers().get_all("authorization");
    let field = fields.next().filter(|_| fields.next().is_none())?;
    let (scheme, rest) = field.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| rest.trim_ascii())
}
