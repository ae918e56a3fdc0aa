//! The server without HTTP: it gives the same answer to all input that ends with an empty line. It shows how much of the
//! work is parsing. It is correct only for requests without a body.

use epicycle::codec::Delimited;
use epicycle::{Action, Bytes, Conn, ConnInfo, Error, EventHandler};

#[derive(Clone)]
pub(crate) struct NoParse {
    codec: Delimited,
    answer: Bytes,
}

impl NoParse {
    pub(crate) fn new(body: &[u8]) -> Result<Self, Error> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: epicycle\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Ok(Self {
            codec: Delimited::new("\r\n\r\n")?,
            answer: [head.as_bytes(), body].concat().into(),
        })
    }
}

impl EventHandler for NoParse {
    type Codec = Delimited;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Delimited {
        self.codec.clone()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _head: &[u8]) -> Action {
        conn.write(&self.answer).into()
    }
}
