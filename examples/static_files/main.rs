//! Serves the files of a directory over HTTP, with `Conn::send_file`. Try
//! `static_files --root target/doc --port 8080` and `curl -i http://127.0.0.1:8080/epicycle/`.
//!
//! It supports GET and HEAD, a single `Range`, conditional requests by `ETag` and by date, and `index.html`. It serves
//! nothing outside of the directory, wherever `..` or symbolic links point. A worker pool opens the files, because that
//! may block on the disk. Meanwhile the codec holds the next request back.

mod conditions;
mod files;
#[path = "../util/mod.rs"]
mod util;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use epicycle::http::{End, HttpCodec, Limits, ServerRequest, ServerResponse, StatusCode};
use epicycle::{Action, Conn, ConnInfo, EventHandler, WorkerPool, WriteError};

use self::conditions::{Conditions, Verdict};
use self::files::{Found, Opened, Part, Root};

/// A server of static files
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<8080>,
    /// The directory to serve
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// The number of threads that open files
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
}

struct Files {
    root: Arc<Root>,
    pool: WorkerPool,
}

/// A request whose file is being opened.
struct Asked {
    target: String,
    is_head: bool,
    conditions: Conditions,
}

impl Asked {
    fn of(request: &ServerRequest<'_>) -> Self {
        Self {
            // Of an absolute target, only the path matters.
            target: request.path().to_owned(),
            is_head: request.method() == "HEAD",
            conditions: Conditions::of(request),
        }
    }
}

impl EventHandler for Files {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::new(Limits::default().max_body(0))
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        request: ServerRequest<'_>,
    ) -> Action {
        if !matches!(request.method(), "GET" | "HEAD") {
            let refusal = ServerResponse::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served\n",
            );
            return conn.send(refusal.header("Allow", "GET, HEAD")).into();
        }
        let asked = Asked::of(&request);
        let (root, deferred) = (self.root.clone(), conn.defer_answer());
        let job = move || {
            let found = root.find(&asked.target);
            // Fails if the client has disconnected, and then no answer is needed.
            let _ = deferred.run(move |_, conn, ()| answer(conn, &asked, found));
        };
        match self.pool.submit(job) {
            Ok(()) => Action::Continue,
            Err(_full) => say(conn, StatusCode::SERVICE_UNAVAILABLE, None).into(),
        }
    }
}

fn answer(conn: &mut Conn<'_, Files>, asked: &Asked, found: Found) {
    log::info!("{} {}", conn.peer_addr(), asked.target);
    let sent = match found {
        Found::File(file) => send(conn, asked, file),
        Found::Moved(to) => say(conn, StatusCode::MOVED_PERMANENTLY, Some(("Location", &to))),
        Found::Nothing => say(conn, StatusCode::NOT_FOUND, None),
        Found::Bad => say(conn, StatusCode::BAD_REQUEST, None),
        Found::Failed => say(conn, StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    if let Err(error) = sent {
        log::warn!("{}: {error}", asked.target);
        // The client must not take an incomplete answer for a complete one.
        conn.abort();
    }
}

/// Sends a file, or the requested part of it.
fn send(conn: &mut Conn<'_, Files>, asked: &Asked, file: Opened) -> Result<(), WriteError> {
    let modified = file.last_modified();
    let with_headers = |status| {
        let response = ServerResponse::new(status)
            .header("Server", "epicycle")
            .header("Content-Type", &file.content_type)
            .header("Accept-Ranges", "bytes")
            .header("ETag", &file.validators.etag);
        match &modified {
            Some(date) => response.header("Last-Modified", date),
            None => response,
        }
    };
    match asked.conditions.judge(&file.validators) {
        Verdict::Send => {}
        Verdict::NotModified => return conn.send(with_headers(StatusCode::NOT_MODIFIED)),
        Verdict::Failed => return say(conn, StatusCode::PRECONDITION_FAILED, None),
    }
    let shown;
    let (response, range) = match file.part(asked.conditions.range(&file.validators)) {
        Part::Whole => (with_headers(StatusCode::OK), 0..file.len),
        Part::Range(range) => {
            shown = format!("bytes {}-{}/{}", range.start, range.end - 1, file.len);
            let response = with_headers(StatusCode::PARTIAL_CONTENT);
            (response.header("Content-Range", &shown), range)
        }
        Part::Beyond => {
            shown = format!("bytes */{}", file.len);
            let header = Some(("Content-Range", shown.as_str()));
            return say(conn, StatusCode::RANGE_NOT_SATISFIABLE, header);
        }
    };
    conn.send(response.file(range.end - range.start))?;
    if !asked.is_head {
        conn.send_file(file.file, range)?;
    }
    conn.send(End)
}

/// Answers with a status, and optionally a header.
fn say(
    conn: &mut Conn<'_, Files>,
    status: StatusCode,
    header: Option<(&str, &str)>,
) -> Result<(), WriteError> {
    let text = format!("{status}\n");
    let response = ServerResponse::text(status, &text).header("Server", "epicycle");
    match &header {
        Some((name, value)) => conn.send(response.header(name, value)),
        None => conn.send(response),
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let root = match Root::new(&flags.root) {
        Ok(root) => Arc::new(root),
        Err(error) => {
            let root = flags.root.display();
            return util::fail("static_files", format_args!("cannot serve {root}: {error}"));
        }
    };
    let pool = match WorkerPool::builder().threads(flags.workers).build() {
        Ok(pool) => pool,
        Err(error) => return util::fail("static_files", error),
    };
    let server = util::with_timeouts(flags.listen.server());
    util::run("static_files", server, move |_reactor| Files {
        root: root.clone(),
        pool: pool.clone(),
    })
}
