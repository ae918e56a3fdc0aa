//! Answers every HTTP request with the same page. Try `curl -i http://127.0.0.1:8080/`.

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::http::{HeaderBlock, HttpCodec, Request, Response};
use epicycle::{Action, Conn, EventHandler};

/// An HTTP server that says hello.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<8080>,
    /// Answers with 1 KiB of the letter a
    #[arg(long)]
    aaaa: bool,
}

struct Hello {
    headers: HeaderBlock,
    body: &'static [u8],
}

impl EventHandler for Hello {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _request: Request<'_>) -> Action {
        let answer = Response::ok().block(&self.headers).body(self.body);
        conn.send(answer).into()
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let server = flags.listen.server();
    let server = server
        .idle_timeout(Duration::from_secs(75))
        .read_timeout(Duration::from_secs(30));
    let body: &[u8] = if flags.aaaa {
        &[b'a'; 1024]
    } else {
        b"Hello World!"
    };
    util::run("http", server, move |_reactor| Hello {
        headers: HeaderBlock::new()
            .with("Server", "epicycle")
            .expect("valid")
            .with("Content-Type", "text/plain")
            .expect("valid"),
        body,
    })
}
