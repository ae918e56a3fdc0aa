//! A web server whose pages are of any length, echo, hesitate, or end too early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epicycle::http::{
    Chunk, Continue, End, HeaderBlock, HttpStreamCodec, RequestPart, ServerResponse, StatusCode,
    Trailers,
};
use epicycle::{Action, Conn, ConnInfo, EventHandler, WriteError};

/// The time for which `/late` does not read, at least.
const LATE: Duration = Duration::from_millis(20);

/// Returns bytes of a page: those from `at` on.
pub(crate) fn page(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|at| (at % 251) as u8).collect()
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    /// While it is true, `/late` does not read.
    pub(crate) waits: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub(crate) struct Exchange {
    answer: Answer,
    /// Its bytes so far, in or out.
    at: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    #[default]
    Echo,
    Count,
    /// So many bytes, in chunks or not.
    Page(usize, bool),
    None,
}

impl EventHandler for Site {
    type Codec = HttpStreamCodec;
    type Session = Exchange;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        HttpStreamCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Exchange> {
        Some(Exchange::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        part: RequestPart<'_>,
    ) -> Action {
        match (part, exchange.answer) {
            (RequestPart::Head(request), _) => {
                let (path, len) = request.path().rsplit_once('/').unwrap_or_default();
                let len = len.parse().unwrap_or(0);
                exchange.at = 0;
                exchange.answer = match path {
                    "/page" => Answer::Page(len, false),
                    "/chunks" => Answer::Page(len, true),
                    "/late" | "/count" => Answer::Count,
                    "/echo" | "/hints" => Answer::Echo,
                    _ => Answer::None,
                };
                let sent = match path {
                    "/page" => conn.send(ServerResponse::ok().sized(len as u64)),
                    "/chunks" => conn.send(ServerResponse::ok().streamed()),
                    "/echo" => {
                        let _ = conn.send(Continue);
                        conn.send(ServerResponse::ok().streamed())
                    }
                    "/hints" => {
                        let hints =
                            ServerResponse::new(StatusCode::EARLY_HINTS).header("Link", "</a.css>");
                        let _ = conn.send(hints);
                        conn.send(ServerResponse::ok().streamed())
                    }
                    // The beginning of a page, and then the end of the stream.
                    "/cut" | "/cut-chunks" => {
                        let response = match path {
                            "/cut" => ServerResponse::ok().sized(2 * len as u64),
                            _ => ServerResponse::ok().streamed(),
                        };
                        let _ = conn.send(response);
                        let _ = conn.send(Chunk(&page(0, len)));
                        return Action::Close;
                    }
                    "/gone" => {
                        conn.abort();
                        return Action::Continue;
                    }
                    "/refuse" => conn.send(ServerResponse::text(StatusCode::FORBIDDEN, "no")),
                    "/late" => {
                        conn.pause_reads();
                        conn.set_timer(LATE, 0);
                        return Action::Continue;
                    }
                    // "/never" and "/count"
                    _ => return Action::Continue,
                };
                if sent.is_err() {
                    return sent.into();
                }
                exchange.pump(conn).into()
            }
            (RequestPart::Body(bytes), Answer::Echo) => conn.send(Chunk(bytes)).into(),
            (RequestPart::Body(bytes), _) => {
                exchange.at += bytes.len();
                Action::Continue
            }
            (RequestPart::End(trailers), Answer::Echo) => {
                let mut block = HeaderBlock::new();
                if block.fill(trailers.lines()).is_err() {
                    return Action::Close;
                }
                conn.send(Trailers(&block)).into()
            }
            (RequestPart::End(_), Answer::Count) => {
                let count = exchange.at.to_string();
                conn.send(ServerResponse::ok().body(&count)).into()
            }
            _ => Action::Continue,
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange) -> Action {
        exchange.pump(conn).into()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, _: &mut Exchange, _: u64) -> Action {
        if self.waits.load(Ordering::Relaxed) {
            conn.set_timer(LATE, 0);
        } else {
            conn.resume_reads();
        }
        Action::Continue
    }
}

impl Exchange {
    /// Sends as much of a page as there is room for.
    fn pump(&mut self, conn: &mut Conn<'_, Site>) -> Result<(), WriteError> {
        let Answer::Page(len, is_chunked) = self.answer else {
            return Ok(());
        };
        while conn.has_room() {
            let now = (len - self.at).min(64 << 10);
            if now == 0 {
                self.answer = Answer::None;
                return match is_chunked {
                    true => conn.send(End),
                    false => Ok(()),
                };
            }
            conn.send(Chunk(&page(self.at, now)))?;
            self.at += now;
        }
        Ok(())
    }
}
