//! The checks of a request before anything is done for it.

use std::net::{IpAddr, Ipv6Addr};

use crate::gateway::metrics::AdminRefusal;
use crate::gateway::settings::AdminSettings;
use crate::http::{ServerRequest, StatusCode};

/// A request that is not let in.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: AdminRefusal,
    pub(super) status: StatusCode,
    pub(super) problem: &'static str,
    /// True if it is a guess, whose answer comes late.
    pub(super) is_guess: bool,
}

/// Checks a request. The page itself has nothing secret, so a browser gets it without a token, by whichever link.
pub(super) fn check(
    settings: &AdminSettings,
    request: &ServerRequest<'_>,
    is_page: bool,
) -> Result<(), Refused> {
    let refused = |reason, status, problem| Refused {
        reason,
        status,
        problem,
        is_guess: false,
    };
    // The name of another site may have been made to lead here, so that its pages count as of this origin.
    let host = request.host().unwrap_or_default();
    if !is_own_host(settings, host) {
        return Err(refused(
            AdminRefusal::Host,
            StatusCode::MISDIRECTED_REQUEST,
            "the Host is unknown here; use an IP address or localhost, or add the name to admin.hosts",
        ));
    }
    if is_page {
        return Ok(());
    }
    if !is_own_origin(request, host) {
        return Err(refused(
            AdminRefusal::Origin,
            StatusCode::FORBIDDEN,
            "a page of another origin has sent this; use the page at / here",
        ));
    }
    let Some(token) = &settings.token else {
        return Ok(());
    };
    let status = StatusCode::UNAUTHORIZED;
    let Some(given) = bearer(request) else {
        let problem =
            "a token is needed; send `Authorization: Bearer TOKEN` with that of admin.token";
        return Err(refused(AdminRefusal::Token, status, problem));
    };
    match token.is(given) {
        true => Ok(()),
        false => Err(Refused {
            is_guess: true,
            ..refused(AdminRefusal::Token, status, "the token is wrong")
        }),
    }
}

fn is_own_host(settings: &AdminSettings, host: &str) -> bool {
    let name = without_port(host);
    let is_ip = match name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok(),
    };
    let mut names = settings
        .hosts
        .iter()
        .map(String::as_str)
        .chain(["localhost"]);
    is_ip || names.any(|own| own.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns true unless a browser tells that another origin's page has sent the request.
fn is_own_origin(request: &ServerRequest<'_>, host: &str) -> bool {
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
fn bearer<'a>(request: &ServerRequest<'a>) -> Option<&'a [u8]> {
    let mut fields = request.headers().get_all("authorization");
    let field = fields.next().filter(|_| fields.next().is_none())?;
    let (scheme, rest) = field.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| rest.trim_ascii())
}
