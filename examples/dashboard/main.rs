//! A page that shows an echo server under load. Try `dashboard`, open http://127.0.0.1:8080/ and send bytes to port
//! 9000. Prometheus reads the counters of both engines at http://127.0.0.1:8080/metrics.
//!
//! Two engines run in this process. One is the echo server. The other serves the page, and sends the counters of the
//! first to it four times a second, over a WebSocket.

mod sample;
#[path = "../util/mod.rs"]
mod util;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use epicycle::http::{NoRoute, Router, ServerRequest, ServerResponse, StatusCode};
use epicycle::metrics::{self, Exposition};
use epicycle::ws::{self, Incoming, Prepared, ServerCodec};
use epicycle::{
    Action, Conn, ConnInfo, Engine, EventHandler, Reactor, Running, Server, Service, service,
};

/// An echo server, and a page that shows its counters
#[derive(Parser)]
struct Flags {
    /// The address of the page: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:8080")]
    page: String,
    /// The address of the echo server
    #[arg(long, value_name = "ADDR", default_value = "tcp://:9000")]
    echo: String,
    /// The number of the echo server's reactors [default: one per core]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
}

/// The whole page, with its script and style.
const PAGE: &str = include_str!("page.html");

/// Allows the page only its inline script and style, and connections to its own server.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'";

/// The time between two samples.
const EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy)]
enum Route {
    Page,
    Live,
    Metrics,
}

struct Dashboard {
    watched: Engine<Service>,
    since: Instant,
    routes: Router<Route>,
}

impl Dashboard {
    fn answer(
        &self,
        conn: &mut Conn<'_, Self>,
        is_live: &mut bool,
        request: &ServerRequest<'_>,
    ) -> Action {
        match self.routes.find(request.method(), request.path()) {
            Ok(found) => match found.value {
                Route::Page => {
                    let page = ServerResponse::ok()
                        .header("Content-Type", "text/html; charset=utf-8")
                        .header("Content-Security-Policy", POLICY)
                        .header("Cache-Control", "no-cache")
                        .body(PAGE);
                    conn.send(page).into()
                }
                Route::Live => open(conn, is_live, request),
                Route::Metrics => {
                    let mut exposition = Exposition::new();
                    exposition.add(&[("engine", "echo")], &self.watched.stats());
                    exposition.add(&[("engine", "page")], &conn.engine().stats());
                    let mut text = String::new();
                    exposition.write(&mut text);
                    let answer = ServerResponse::ok()
                        .header("Content-Type", metrics::CONTENT_TYPE)
                        .body(&text);
                    conn.send(answer).into()
                }
            },
            Err(NoRoute::MethodNotAllowed { allow }) => {
                let refusal =
                    ServerResponse::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n");
                conn.send(refusal.header("Allow", &allow)).into()
            }
            Err(_) => {
                let refusal = ServerResponse::text(StatusCode::NOT_FOUND, "the page is at /\n");
                conn.send(refusal).into()
            }
        }
    }
}

/// Opens a WebSocket for the page, and refuses pages of other servers.
fn open(conn: &mut Conn<'_, Dashboard>, is_live: &mut bool, request: &ServerRequest<'_>) -> Action {
    let host = request.host().unwrap_or_default();
    let own = ["http", "https"].map(|scheme| format!("{scheme}://{host}"));
    match ws::accept(request).and_then(|accept| accept.origins(own)) {
        Ok(accept) => {
            *is_live = true;
            conn.send(accept).into()
        }
        Err(refusal) => conn.send(refusal).into(),
    }
}

impl EventHandler for Dashboard {
    type Codec = ServerCodec;
    /// True if samples are sent to the connection.
    type Session = bool;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<bool> {
        Some(false)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        is_live: &mut bool,
        incoming: Incoming<'_>,
    ) -> Action {
        match incoming {
            Incoming::Request(request) => self.answer(conn, is_live, &request),
            // The page sends no messages.
            Incoming::Message(_) => Action::Continue,
            Incoming::Closed(_) => {
                *is_live = false;
                Action::Continue
            }
            Incoming::Pong(_) => Action::Continue,
        }
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        if reactor.connections() > 0 {
            let sample = sample::take(&self.watched, self.since);
            let sample = Prepared::new(sample.to_string());
            reactor.for_each(|conn, is_live| {
                // A page that has not read the last sample skips this one.
                if *is_live && conn.has_room() && conn.send(&sample).is_err() {
                    conn.close();
                }
            });
        }
        Some(EVERY)
    }
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(code) => code,
        Err(error) => util::fail("dashboard", error),
    }
}

fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let mut server = Server::bind(flags.echo).drain_deadline(Duration::from_secs(5));
    if let Some(reactors) = flags.reactors {
        server = server.reactors(reactors);
    }
    let echo: Running<Service> =
        util::stop_on_signals(server).start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
    for addr in echo.local_addrs() {
        println!("dashboard shows the echo server at {addr}");
    }
    let mut routes = Router::new();
    routes
        .add("GET", "/", Route::Page)?
        .add("GET", "/live", Route::Live)?
        .add("GET", "/metrics", Route::Metrics)?;
    let server = util::with_timeouts(Server::bind(flags.page))
        .reactors(1)
        .tick(EVERY)
        .high_water(64 << 10)
        .drain_deadline(Duration::from_secs(5));
    let (watched, since) = (echo.engine().clone(), Instant::now());
    let code = util::run("dashboard", server, move |_reactor| Dashboard {
        watched: watched.clone(),
        since,
        routes: routes.clone(),
    });
    echo.shutdown();
    Ok(code)
}
