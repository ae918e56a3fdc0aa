//! Responses that are compressed on their way to the client.

use super::{Next, Proxy};
use crate::engine::handler::Conn;
use crate::gateway::compress;
use crate::gateway::exchange::Exchange;
use crate::gateway::hooks::Hooks;
use crate::http::client::ClientResponse;
use crate::http::{HeaderBlock, SendError};

impl<H: Hooks> Proxy<H> {
    /// Changes the fields of a response that is to be compressed. Returns true if its body is.
    pub(super) fn compress_head(
        &self,
        exchange: &mut Exchange<H::Exchange>,
        level: u8,
        response: &ClientResponse<'_>,
        block: &mut HeaderBlock,
    ) -> Result<bool, SendError> {
        if !compress::is_compressible(response) {
            return Ok(false);
        }
        // Also for a client that takes none, as a cache may give the response to others.
        compress::vary(block)?;
        let Some(extras) = exchange.extras.as_deref_mut() else {
            return Ok(false);
        };
        if !extras.takes_gzip || !response.has_body() {
            return Ok(false);
        }
        extras.gzip = self.compressing.begin(level);
        match extras.gzip {
            Some(_) => compress::recode(block).map(|()| true),
            None => Ok(false),
        }
    }

    /// Compresses a part of a response, and passes it on.
    pub(super) fn pass_compressed(
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        part: &[u8],
    ) -> Next {
        let extras = exchange.extras.as_deref_mut();
        let Some(gzip) = extras.and_then(|extras| extras.gzip.as_mut()) else {
            return Next::Abort;
        };
        let Ok(compressed) = gzip.add(part) else {
            conn.abort();
            return Next::Abort;
        };
        if let Some(route) = &exchange.route {
            let counters = &route.counters;
            counters.compress_bytes_in.add(part.len() as u64);
            counters.compress_bytes_out.add(compressed.len() as u64);
        }
        Self::pass_part(conn, exchange, &compressed)
    }

    /// Passes on the end of a compressed body.
    pub(super) fn end_compressed(conn: &mut Conn<'_, Self>, exchange: &mut Exchange<H::Exchange>) {
        let extras = exchange.extras.as_deref_mut();
        let Some(gzip) = extras.and_then(|extras| extras.gzip.take()) else {
            return;
        };
        match gzip.end() {
            Ok(rest) => {
                if let Some(route) = &exchange.route {
                    route.counters.compressed.add(1);
                    route.counters.compress_bytes_out.add(rest.len() as u64);
                }
                Self::pass_part(conn, exchange, &rest);
            }
            Err(_) => conn.abort(),
        }
    }
}
