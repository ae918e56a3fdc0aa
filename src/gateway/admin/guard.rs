//! The checks of a request before anything is done for it.

use crate::gateway::metrics::AdminRefusal;
use crate::gateway::settings::AdminSettings;
use crate::http::guard::{bearer, is_own_host, is_own_origin};
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
    if !is_own_host(&settings.hosts, host) {
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
