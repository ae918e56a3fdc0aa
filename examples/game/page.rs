//! The web page, by which people play.

use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, StatusCode};
use epicycle::{Action, Conn, ConnInfo, EventHandler};

/// Allows the page only its own script and style, and connections to gates.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src ws: wss:";

pub(crate) struct Page {
    html: String,
}

impl Page {
    /// Returns the page, which plays at a port of its own host.
    pub(crate) fn new(port: Option<u16>) -> Self {
        let port = port.map_or_else(|| "null".to_owned(), |port| port.to_string());
        Self {
            html: include_str!("page.html").replace("GATE_PORT", &port),
        }
    }
}

impl EventHandler for Page {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        request: ServerRequest<'_>,
    ) -> Action {
        let response = match request.path() {
            "/" => ServerResponse::ok()
                .header("Content-Type", "text/html; charset=utf-8")
                .header("Content-Security-Policy", POLICY)
                .body(self.html.as_bytes()),
            _ => ServerResponse::text(StatusCode::NOT_FOUND, "there is one page: /\n"),
        };
        conn.send(response).into()
    }
}
