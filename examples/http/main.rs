//! A small HTTP server with a page for each feature of HTTP. Try `http --port 8080` and:
//!
//! ```text
//! curl -i http://127.0.0.1:8080/
//! curl -d '{"a": [1, 2]}' http://127.0.0.1:8080/json
//! curl -T README.md http://127.0.0.1:8080/upload
//! curl http://127.0.0.1:8080/stream/1000000 | tail
//! curl -N http://127.0.0.1:8080/events
//! curl http://127.0.0.1:8080/headers
//! curl http://127.0.0.1:8080/slow/500
//! curl http://127.0.0.1:8080/metrics
//! ```
//!
//! With `--tls` it uses https. At `/ws` a WebSocket sends back all messages.

mod hello;
mod noparse;
mod pages;
#[path = "../util/mod.rs"]
mod util;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use epicycle::http::{Limits, Prepared, Router, ServerRequest, ServerResponse};
use epicycle::ws::{Incoming, ServerCodec};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Reactor, WorkerPool};

use self::hello::Hello;
use self::noparse::NoParse;
use self::pages::{Page, Session};

/// An HTTP server: / /json /upload /stream/N /events /headers /slow/MS /metrics /ws
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<8080>,
    /// Answers with 1 KiB of the letter a
    #[arg(long)]
    aaaa: bool,
    /// Gives all requests the same answer, as servers in comparisons do
    #[arg(long)]
    hello: bool,
    /// Answers without parsing requests; only for measurements
    #[arg(long)]
    noparse: bool,
    #[command(flatten)]
    tls: util::Tls,
}

/// The largest upload, in bytes.
const MAX_BODY: usize = 16 << 20;

struct Http {
    hello: Prepared,
    routes: Arc<Router<Page>>,
    pool: WorkerPool,
}

impl Http {
    #[inline]
    fn answer(
        &self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        request: &ServerRequest<'_>,
    ) -> Action {
        // The most frequent request needs no lookup.
        if request.target() == "/" && request.method() == "GET" {
            return self.hello(conn);
        }
        match self.routes.find(request.method(), request.path()) {
            Ok(found) => (found.value)(self, conn, session, request, &found.params),
            Err(why) => pages::nothing(conn, &why),
        }
    }

    #[inline]
    fn hello(&self, conn: &mut Conn<'_, Self>) -> Action {
        conn.send(&self.hello).into()
    }
}

impl EventHandler for Http {
    type Codec = ServerCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default().http_limits(Limits::default().max_body(MAX_BODY as u64))
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<Session> {
        Some(Session::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        incoming: Incoming<'_>,
    ) -> Action {
        match incoming {
            Incoming::Request(request) => self.answer(conn, session, &request),
            // Only connections that were upgraded at /ws get here.
            Incoming::Message(message) => conn.send(message).into(),
            Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        pages::go_on(conn, session).into()
    }

    fn on_timer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        _token: u64,
    ) -> Action {
        pages::tick(conn, session).into()
    }

    /// Ends the streams of events, which would never end by themselves.
    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.for_each(|conn, session| {
            if matches!(session, Session::Events { .. }) && pages::finish(conn, session).is_err() {
                conn.abort();
            }
        });
    }
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(code) => code,
        Err(error) => util::fail("http", error),
    }
}

fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let server = flags.listen.server_over(&flags.tls, "http")?;
    let server = util::with_timeouts(server)
        .max_frame(MAX_BODY + (1 << 20))
        .high_water(256 << 10);
    let body: &[u8] = if flags.aaaa {
        &[b'a'; 1024]
    } else {
        b"Hello World!"
    };
    if flags.noparse {
        let handler = NoParse::new(body)?;
        return Ok(util::run("http", server, move |_reactor| handler.clone()));
    }
    let hello = ServerResponse::ok()
        .header("Server", "epicycle")
        .header("Content-Type", "text/plain")
        .body(body);
    let hello = Prepared::new(hello)?;
    if flags.hello {
        let handler = Hello { answer: hello };
        return Ok(util::run("http", server, move |_reactor| handler.clone()));
    }
    let routes = Arc::new(pages::routes()?);
    let pool = WorkerPool::builder().build()?;
    let make = move |_reactor| Http {
        hello: hello.clone(),
        routes: routes.clone(),
        pool: pool.clone(),
    };
    Ok(util::run("http", server, make))
}
