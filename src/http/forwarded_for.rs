use std::net::{IpAddr, SocketAddr};
use std::str;

use super::Headers;
use super::lines::tokens;

/// Returns the client that trusted proxies tell in `X-Forwarded-For`: the last address that is not trusted, or the first if all are.
/// Returns `None` if they tell none.
pub(crate) fn forwarded_for(
    fields: Headers<'_>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    // As long as the head of a request may be.
    let told: Vec<&[u8]> = fields.get_all("x-forwarded-for").flat_map(tokens).collect();
    let mut client = None;
    for text in told.into_iter().rev() {
        let Some(address) = parse(text) else { break };
        client = Some(address);
        if !is_trusted(address) {
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
