//! Serves the files of a directory over HTTP, with `Conn::send_file`. Try
//! `static_files --root target/doc --port 8080` and `curl -i http://127.0.0.1:8080/epicycle/`.
//!
//! HTTP/1.0 and 1.1, GET and HEAD, keep-alive, pipelining, `Range` (one at a time), `If-Modified-Since`, `index.html`.
//! Nothing outside of the directory is served, wherever `..` or symbolic links point. Files are opened on a worker
//! pool, since that may wait for the disk; meanwhile the connection is paused, so that answers keep their order.

mod files;
mod request;
#[path = "../util/mod.rs"]
mod util;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use epicycle::{Action, Conn, EventHandler, WorkerPool};

use self::files::{Found, Part, Root};
use self::request::{Head, Http, Method, Refusal};

/// A server of static files.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<8080>,
    /// The directory to serve
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// How many threads open files
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
}

struct Files {
    root: Arc<Root>,
    pool: WorkerPool,
}

impl EventHandler for Files {
    type Codec = Http;
    type Session = ();

    fn codec(&mut self) -> Http {
        Http
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        head: Result<Head, Refusal>,
    ) -> Action {
        let head = match head {
            Ok(head) if matches!(head.method, Method::Get | Method::Head) => head,
            Ok(_) => return refuse(conn, "405 Method Not Allowed", "Allow: GET, HEAD\r\n"),
            Err(status) => return refuse(conn, status, ""),
        };
        let (root, handle) = (self.root.clone(), conn.handle());
        let job = move || {
            let found = root.find(&head.target);
            // A connection that has closed meanwhile needs no answer.
            let _ = handle.run(move |_, conn, ()| answer(conn, &head, found));
        };
        match self.pool.submit(job) {
            Ok(()) => {
                conn.pause_reads();
                Action::Continue
            }
            Err(_full) => refuse(conn, "503 Service Unavailable", ""),
        }
    }
}

/// Answers a request, and goes on with the next.
fn answer(conn: &mut Conn<'_, Files>, head: &Head, found: Found) {
    let status = match &found {
        Found::File(_) => "200 OK",
        Found::Moved(_) => "301 Moved Permanently",
        Found::Nothing => "404 Not Found",
        Found::Bad => "400 Bad Request",
        Found::Failed => "500 Internal Server Error",
    };
    log::info!("{} {}", conn.peer_addr(), head.target);
    let sent = match found {
        Found::File(file) => send(conn, head, file),
        Found::Moved(to) => say(conn, head, status, &format!("Location: {to}\r\n")),
        _ => say(conn, head, status, ""),
    };
    if !sent {
        // Whatever of the answer has been written must not look like all of it.
        conn.abort();
    } else if head.keep_alive {
        conn.resume_reads();
    } else {
        conn.close();
    }
}

/// Sends a file, or as much of it as was asked for.
fn send(conn: &mut Conn<'_, Files>, head: &Head, file: files::Opened) -> bool {
    if file.is_unchanged_since(head.if_modified_since.as_deref()) {
        return conn
            .write(&begin("304 Not Modified", head.keep_alive, &file.headers()))
            .is_ok();
    }
    let part = file.part(head.range.as_deref());
    let (status, range) = match part {
        Part::Whole => ("200 OK", 0..file.len),
        Part::Range(ref range) => ("206 Partial Content", range.clone()),
        Part::Beyond => {
            let extra = format!("Content-Range: bytes */{}\r\n", file.len);
            return say(conn, head, "416 Range Not Satisfiable", &extra);
        }
    };
    let mut headers = file.headers();
    if let Part::Range(range) = part {
        let (start, last, len) = (range.start, range.end - 1, file.len);
        let _ = write!(headers, "Content-Range: bytes {start}-{last}/{len}\r\n");
    }
    let length = range.end - range.start;
    let _ = write!(headers, "Content-Length: {length}\r\n");
    let written = conn.write(&begin(status, head.keep_alive, &headers));
    let sent = match head.method {
        Method::Head => written,
        _ => written.and_then(|()| conn.send_file(file.file, range)),
    };
    sent.inspect_err(|error| log::warn!("{}: {error}", head.target))
        .is_ok()
}

/// Answers with the status alone.
fn say(conn: &mut Conn<'_, Files>, head: &Head, status: &str, extra: &str) -> bool {
    let body = format!("{status}\n");
    let body = if head.method == Method::Head {
        ""
    } else {
        &body
    };
    let length = status.len() + 1;
    let headers = format!("{extra}Content-Type: text/plain\r\nContent-Length: {length}\r\n");
    let mut bytes = begin(status, head.keep_alive, &headers);
    bytes.extend_from_slice(body.as_bytes());
    conn.write(&bytes).is_ok()
}

/// Answers what is not understood or not served, and closes.
fn refuse(conn: &mut Conn<'_, Files>, status: &str, extra: &str) -> Action {
    let head = Head::default();
    // When the answer cannot be written, closing is all that is left anyway.
    let _ = say(conn, &head, status, extra);
    Action::Close
}

/// A response up to its body.
fn begin(status: &str, keep_alive: bool, headers: &str) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    // For HTTP/1.0; with HTTP/1.1 it goes without saying.
    let connection = if keep_alive { "keep-alive" } else { "close" };
    format!(
        "HTTP/1.1 {status}\r\nServer: epicycle\r\nDate: {date}\r\nConnection: {connection}\r\n{headers}\r\n"
    )
    .into_bytes()
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
    let server = flags
        .listen
        .server()
        .idle_timeout(Duration::from_secs(75))
        .read_timeout(Duration::from_secs(30))
        .write_stall_timeout(Duration::from_secs(60));
    util::run("static_files", server, move |_reactor| Files {
        root: root.clone(),
        pool: pool.clone(),
    })
}
