//! Parts of a response that wait for others, so that the client gets them together.

use super::{FLUSH, Next, Proxy};
use crate::engine::handler::Conn;
use crate::gateway::exchange::{Exchange, Gathered};
use crate::gateway::hooks::Hooks;
use crate::gateway::route::Route;
use crate::http::client::ClientResponse;

/// The bytes of a response that wait at most.
const MAX_GATHERED: usize = 32 << 10;

/// Returns the place for the parts of a response, if they are to be gathered.
pub(super) fn gathered(route: &Route, response: &ClientResponse<'_>) -> Option<Box<Gathered>> {
    let interval = route.settings.flush_interval;
    if interval.is_zero() {
        return None;
    }
    let is_sized = response.has_body() && response.content_length().is_some();
    if !is_sized || is_event_stream(response) {
        return None;
    }
    Some(Box::new(Gathered {
        interval,
        bytes: Vec::new(),
        timer: None,
    }))
}

fn is_event_stream(response: &ClientResponse<'_>) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = response.headers().get("content-type").unwrap_or_default();
    let name = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(EVENTS)
}

impl<H: Hooks> Proxy<H> {
    /// Lets a part of a response wait for others, or sends all of them.
    pub(super) fn gather(
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        part: &[u8],
    ) -> Next {
        let Some(gathered) = &mut exchange.gathered else {
            return Next::Continue;
        };
        if gathered.bytes.len() + part.len() < MAX_GATHERED {
            gathered.bytes.extend_from_slice(part);
            let interval = gathered.interval;
            gathered
                .timer
                .get_or_insert_with(|| conn.set_timer(interval, FLUSH));
            return Next::Continue;
        }
        Self::flush(conn, exchange);
        Self::pass_part(conn, exchange, part)
    }

    /// Sends the parts that were gathered.
    pub(super) fn flush(conn: &mut Conn<'_, Self>, exchange: &mut Exchange<H::Exchange>) {
        let Some(gathered) = &mut exchange.gathered else {
            return;
        };
        if let Some(timer) = gathered.timer.take() {
            conn.cancel_timer(timer);
        }
        let bytes = std::mem::take(&mut gathered.bytes);
        if !bytes.is_empty() {
            // The client's `on_drain` has the node read on, as after any part.
            Self::pass_part(conn, exchange, &bytes);
        }
    }
}
