//! The pages and their routes.

use std::fmt::Write;
use std::thread;
use std::time::Duration;

use epicycle::http::{
    Chunk, End, NoRoute, Params, RouteError, Router, ServerRequest, ServerResponse, SseEvent,
    StatusCode,
};
use epicycle::{Action, Conn, WriteError, metrics, ws};
use sha2::{Digest, Sha256};

use super::Http;

/// Answers a request.
pub(crate) type Page =
    fn(&Http, &mut Conn<'_, Http>, &mut Session, &ServerRequest<'_>, &Params<'_, '_>) -> Action;

/// The output that a connection still has to send.
#[derive(Debug, Default)]
pub(crate) enum Session {
    #[default]
    Nothing,
    /// Lines of a stream: the number of the next one, and the number of all lines.
    Lines { next: u64, count: u64 },
    /// Events: the number of the next one.
    Events { next: u64 },
}

/// The time between two events.
const TICK: Duration = Duration::from_secs(1);

/// The longest work that a client may ask for.
const MOST_WORK: Duration = Duration::from_secs(10);

/// The size of a stream's chunks in bytes, approximately.
const CHUNK: usize = 4 << 10;

pub(crate) fn routes() -> Result<Router<Page>, RouteError> {
    let mut router = Router::<Page>::new();
    router
        .add("GET", "/", hello)?
        .add("POST", "/", hello)?
        .add("GET", "/x", hello)?
        .add("GET", "/headers", headers)?
        .add("POST", "/json", json)?
        .add("PUT", "/upload", upload)?
        .add("POST", "/upload", upload)?
        .add("GET", "/stream/{lines}", stream)?
        .add("GET", "/events", events)?
        .add("GET", "/slow/{millis}", slow)?
        .add("GET", "/metrics", show_metrics)?
        .add("GET", "/ws", web_socket)?;
    Ok(router)
}

/// Answers a request without a route.
#[cold]
pub(crate) fn nothing(conn: &mut Conn<'_, Http>, why: &NoRoute) -> Action {
    let text = format!("{why}\n");
    let answer = match why {
        NoRoute::MethodNotAllowed { allow } => {
            ServerResponse::text(StatusCode::METHOD_NOT_ALLOWED, &text).header("Allow", allow)
        }
        _ => ServerResponse::text(StatusCode::NOT_FOUND, &text),
    };
    conn.send(answer).into()
}

fn hello(
    http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    _request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    http.hello(conn)
}

/// Shows the request.
fn headers(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    let mut text = String::new();
    let (method, target, version) = (request.method(), request.target(), request.version());
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{method} {target} {version} from {}",
        conn.peer_addr()
    );
    for (name, value) in request.headers() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(value));
    }
    conn.send(ServerResponse::text(StatusCode::OK, &text))
        .into()
}

/// Shows the counters of the engine, for Prometheus.
fn show_metrics(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    _request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    let mut text = String::new();
    metrics::prometheus(&conn.engine().stats(), &mut text);
    let answer = ServerResponse::ok()
        .header("Content-Type", metrics::CONTENT_TYPE)
        .body(&text);
    conn.send(answer).into()
}

/// Parses JSON and sends it back.
fn json(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    match serde_json::from_slice::<serde_json::Value>(request.body()) {
        Ok(value) => {
            let json = format!("{value}\n");
            conn.send(ServerResponse::json(StatusCode::OK, &json))
                .into()
        }
        Err(error) => {
            let why = format!("the body is not JSON: {error}\n");
            conn.send(ServerResponse::text(StatusCode::BAD_REQUEST, &why))
                .into()
        }
    }
}

/// Sends the length and the hash of the body.
fn upload(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    let body = request.body();
    let mut text = format!("{} bytes, SHA-256 ", body.len());
    for byte in Sha256::digest(body) {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    conn.send(ServerResponse::text(StatusCode::OK, &text))
        .into()
}

/// Answers after some milliseconds of work on a worker thread.
fn slow(
    http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    _request: &ServerRequest<'_>,
    params: &Params<'_, '_>,
) -> Action {
    let millis = params.get("millis").and_then(|millis| millis.parse().ok());
    let Some(work) = millis
        .map(Duration::from_millis)
        .filter(|work| *work <= MOST_WORK)
    else {
        let why = "how many milliseconds? /slow/500, for example; at most 10000\n";
        return conn
            .send(ServerResponse::text(StatusCode::BAD_REQUEST, why))
            .into();
    };
    let answer = conn.defer_answer();
    let job = move || {
        thread::sleep(work);
        let text = format!("that took {} ms\n", work.as_millis());
        // Fails if the client has disconnected, and then no answer is needed.
        let _ = answer.send(ServerResponse::text(StatusCode::OK, "").shared_body(text));
    };
    match http.pool.submit(job) {
        // If the job panics, its answer is dropped, and the client receives status 500.
        Ok(()) => Action::Continue,
        Err(rejected) => {
            let why = format!("{rejected}\n");
            let busy = ServerResponse::text(StatusCode::SERVICE_UNAVAILABLE, &why);
            conn.send(busy).into()
        }
    }
}

/// Sends the requested number of lines, as fast as the client reads them.
fn stream(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    session: &mut Session,
    request: &ServerRequest<'_>,
    params: &Params<'_, '_>,
) -> Action {
    let Some(count) = params.get("lines").and_then(|lines| lines.parse().ok()) else {
        let why = "how many lines? /stream/1000, for example\n";
        return conn
            .send(ServerResponse::text(StatusCode::BAD_REQUEST, why))
            .into();
    };
    let head = ServerResponse::ok()
        .header("Content-Type", "text/plain; charset=utf-8")
        .streamed();
    if let Err(error) = conn.send(head) {
        return error.into();
    }
    // The answer to HEAD has no body.
    if request.method() == "HEAD" {
        return conn.send(End).into();
    }
    *session = Session::Lines { next: 1, count };
    go_on(conn, session).into()
}

/// Sends an event each second.
fn events(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    session: &mut Session,
    request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    if conn.send(ServerResponse::event_stream()).is_err() {
        return Action::Close;
    }
    if request.method() == "HEAD" {
        return conn.send(End).into();
    }
    // A client that reconnects sends the number of the last event it received.
    let last = request.header("last-event-id");
    let last: u64 = last.and_then(|id| id.parse().ok()).unwrap_or(0);
    *session = Session::Events {
        next: last.saturating_add(1),
    };
    tick(conn, session).into()
}

/// Opens a WebSocket, or answers with the reason for the refusal.
fn web_socket(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &ServerRequest<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    conn.send(ws::accept(request)).into()
}

/// Sends the next event, and sets the timer for the one after it.
pub(crate) fn tick(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    let Session::Events { next } = session else {
        return Ok(());
    };
    // A client that has not read the last events gets no more.
    if conn.has_room() {
        let number = next.to_string();
        let data = format!("tick {number}");
        conn.send(SseEvent::new(&data).event("tick").id(&number))?;
        *next += 1;
    }
    conn.set_timer(TICK, 0);
    Ok(())
}

/// Sends lines while the connection has room.
pub(crate) fn go_on(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    let Session::Lines { next, count } = session else {
        return Ok(());
    };
    let mut text = String::with_capacity(CHUNK + 32);
    while *next <= *count {
        if !conn.has_room() {
            // `on_drain` continues.
            return Ok(());
        }
        while text.len() < CHUNK && *next <= *count {
            let _ = writeln!(text, "line {next} of {count}");
            *next += 1;
        }
        conn.send(Chunk(text.as_bytes()))?;
        text.clear();
    }
    finish(conn, session)
}

/// Ends the stream of lines or events.
pub(crate) fn finish(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    match std::mem::take(session) {
        Session::Nothing => Ok(()),
        Session::Lines { .. } | Session::Events { .. } => conn.send(End),
    }
}
