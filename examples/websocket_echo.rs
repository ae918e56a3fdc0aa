//! Sends back every WebSocket message. Try `websocket_echo --port 9001`, and in a browser's console:
//!
//! ```text
//! let peer = new WebSocket("ws://127.0.0.1:9001/");
//! peer.onmessage = (message) => console.log(message.data);
//! peer.onopen = () => peer.send("hello");
//! ```

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::ws::{self, DeflateOptions, Incoming, ServerCodec};
use epicycle::{Action, Conn, ConnInfo, EventHandler};

/// A WebSocket echo server
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<9001>,
    /// Compresses messages for clients that support it (permessage-deflate)
    #[arg(long)]
    deflate: bool,
    #[command(flatten)]
    tls: util::Tls,
}

struct Echo {
    deflate: bool,
}

impl EventHandler for Echo {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), incoming: Incoming<'_>) -> Action {
        match incoming {
            Incoming::Message(message) => conn.send(message).into(),
            Incoming::Request(request) => {
                let mut answer = ws::accept(&request);
                if self.deflate {
                    answer = answer.map(|accept| accept.deflate(DeflateOptions::default()));
                }
                conn.send(answer).into()
            }
            Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
        }
    }
}

fn main() -> ExitCode {
    let Flags {
        listen,
        deflate,
        tls,
    } = Flags::parse();
    match listen.server_over(&tls, "websocket_echo") {
        Ok(server) => {
            // An open WebSocket may be silent for longer than an HTTP connection between two requests.
            let server = util::with_timeouts(server).idle_timeout(Duration::from_secs(600));
            util::run("websocket_echo", server, move |_reactor| Echo { deflate })
        }
        Err(error) => util::fail("websocket_echo", error),
    }
}
