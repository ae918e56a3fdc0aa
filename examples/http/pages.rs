//! The pages, and the routes that lead to them.

use std::fmt::Write;
use std::thread;
use std::time::Duration;

use epicycle::http::{
    Chunk, End, Event, NoRoute, Params, Request, Response, RouteError, Router, StatusCode,
};
use epicycle::{Action, Conn, WriteError, ws};
use sha2::{Digest, Sha256};

use super::Http;

/// Answers a request.
pub(crate) type Page =
    fn(&Http, &mut Conn<'_, Http>, &mut Session, &Request<'_>, &Params<'_, '_>) -> Action;

/// What is still to be sent on a connection.
#[derive(Debug, Default)]
pub(crate) enum Session {
    #[default]
    Nothing,
    /// Lines of a stream: the next one's number, and how many there are.
    Lines { next: u64, count: u64 },
    /// Events: the next one's number.
    Events { next: u64 },
}

/// The time between two events.
const TICK: Duration = Duration::from_secs(1);

/// The most work that can be asked for.
const MOST_WORK: Duration = Duration::from_secs(10);

/// Lines of a stream are sent in chunks of about this size.
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
        .add("GET", "/ws", web_socket)?;
    Ok(router)
}

/// Answers what no page is for.
#[cold]
pub(crate) fn nothing(conn: &mut Conn<'_, Http>, why: &NoRoute) -> Action {
    let text = format!("{why}\n");
    let answer = match why {
        NoRoute::MethodNotAllowed { allow } => {
            Response::text(StatusCode::METHOD_NOT_ALLOWED, &text).header("Allow", allow)
        }
        _ => Response::text(StatusCode::NOT_FOUND, &text),
    };
    conn.send(answer).into()
}

fn hello(
    http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    _request: &Request<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    http.hello(conn)
}

/// Shows the request.
fn headers(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &Request<'_>,
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
    conn.send(Response::text(StatusCode::OK, &text)).into()
}

/// Sends JSON back as it was understood.
fn json(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &Request<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    match serde_json::from_slice::<serde_json::Value>(request.body()) {
        Ok(value) => {
            let json = format!("{value}\n");
            conn.send(Response::json(StatusCode::OK, &json)).into()
        }
        Err(error) => {
            let why = format!("the body is not JSON: {error}\n");
            conn.send(Response::text(StatusCode::BAD_REQUEST, &why))
                .into()
        }
    }
}

/// Tells what has been received.
fn upload(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &Request<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    let body = request.body();
    let mut text = format!("{} bytes, SHA-256 ", body.len());
    for byte in Sha256::digest(body) {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    conn.send(Response::text(StatusCode::OK, &text)).into()
}

/// Answers after some milliseconds of work, on a thread of its own.
fn slow(
    http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    _request: &Request<'_>,
    params: &Params<'_, '_>,
) -> Action {
    let millis = params.get("millis").and_then(|millis| millis.parse().ok());
    let Some(work) = millis
        .map(Duration::from_millis)
        .filter(|work| *work <= MOST_WORK)
    else {
        let why = "how many milliseconds? /slow/500, for example; at most 10000\n";
        return conn
            .send(Response::text(StatusCode::BAD_REQUEST, why))
            .into();
    };
    let answer = conn.defer_answer();
    let job = move || {
        thread::sleep(work);
        let text = format!("that took {} ms\n", work.as_millis());
        // Fails when the client has gone meanwhile; then there is nobody to answer.
        let _ = answer.send(Response::text(StatusCode::OK, "").shared_body(text));
    };
    match http.pool.submit(job) {
        // A job that panics drops the answer, and the client is told 500.
        Ok(()) => Action::Continue,
        Err(rejected) => {
            let why = format!("{rejected}\n");
            let busy = Response::text(StatusCode::SERVICE_UNAVAILABLE, &why);
            conn.send(busy).into()
        }
    }
}

/// Sends as many lines as are asked for, as fast as the client reads them.
fn stream(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    session: &mut Session,
    request: &Request<'_>,
    params: &Params<'_, '_>,
) -> Action {
    let Some(count) = params.get("lines").and_then(|lines| lines.parse().ok()) else {
        let why = "how many lines? /stream/1000, for example\n";
        return conn
            .send(Response::text(StatusCode::BAD_REQUEST, why))
            .into();
    };
    let head = Response::ok()
        .header("Content-Type", "text/plain; charset=utf-8")
        .streamed();
    if let Err(error) = conn.send(head) {
        return Err(error).into();
    }
    // The answer to HEAD has no body.
    if request.method() == "HEAD" {
        return conn.send(End).into();
    }
    *session = Session::Lines { next: 1, count };
    go_on(conn, session).into()
}

/// Tells the time since the client asked, second by second.
fn events(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    session: &mut Session,
    request: &Request<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    if conn.send(Response::event_stream()).is_err() {
        return Action::Close;
    }
    if request.method() == "HEAD" {
        return conn.send(End).into();
    }
    // A client that has lost its connection says how far it was.
    let last = request.header("last-event-id");
    let last: u64 = last.and_then(|id| id.parse().ok()).unwrap_or(0);
    *session = Session::Events {
        next: last.saturating_add(1),
    };
    tick(conn, session).into()
}

/// Opens a WebSocket, or says why not.
fn web_socket(
    _http: &Http,
    conn: &mut Conn<'_, Http>,
    _session: &mut Session,
    request: &Request<'_>,
    _params: &Params<'_, '_>,
) -> Action {
    conn.send(ws::accept(request)).into()
}

/// Sends the next event, and sees to the one after it.
pub(crate) fn tick(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    let Session::Events { next } = session else {
        return Ok(());
    };
    // One who does not read the last events has no use for another.
    if conn.has_room() {
        let number = next.to_string();
        let data = format!("tick {number}");
        conn.send(Event::new(&data).event("tick").id(&number))?;
        *next += 1;
    }
    conn.set_timer(TICK, 0);
    Ok(())
}

/// Sends what there is to send and room for.
pub(crate) fn go_on(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    let Session::Lines { next, count } = session else {
        return Ok(());
    };
    let mut text = String::with_capacity(CHUNK + 32);
    while *next <= *count {
        if !conn.has_room() {
            // on_drain comes back to this.
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

/// Ends a stream, whichever it is.
pub(crate) fn finish(conn: &mut Conn<'_, Http>, session: &mut Session) -> Result<(), WriteError> {
    match std::mem::take(session) {
        Session::Nothing => Ok(()),
        Session::Lines { .. } | Session::Events { .. } => conn.send(End),
    }
}
