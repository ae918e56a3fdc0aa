//! The server with one page: it parses and checks each request, and gives all of them the same answer.

use epicycle::http::{HttpCodec, Prepared, ServerRequest};
use epicycle::{Action, Conn, ConnInfo, EventHandler};

#[derive(Clone)]
pub(crate) struct Hello {
    pub(crate) answer: Prepared,
}

impl EventHandler for Hello {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: ServerRequest<'_>) -> Action {
        conn.send(&self.answer).into()
    }
}
