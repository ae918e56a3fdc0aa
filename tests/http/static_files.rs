//! The example `static_files`: ranges, conditions and access.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epicycle::Addr;

use crate::util::client::{Client, TempPath};
use crate::util::{await_some, eventually, not_here, skipped};
use crate::wire::{Answer, answers};

/// The example, which cargo builds together with the tests.
fn example() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let built = this.parent()?.parent()?.join("examples/static_files");
    if !built.exists() {
        skipped("the example static_files is not built: cargo build --examples --features full");
    }
    built.exists().then_some(built)
}

/// The example, which is killed at the end.
struct Example(Child);

impl Example {
    /// Starts it with so many descriptors.
    fn start(example: &Path, descriptors: u32, root: &Path, path: &TempPath) -> Self {
        let child = Command::new("sh")
            .args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(descriptors.to_string())
            .arg(example)
            .args(["--reactors", "1", "--addr", &path.addr(), "--root"])
            .arg(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("starts"))
    }

    fn descriptors(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.0.id());
        fs::read_dir(dir).expect("lists descriptors").count()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pipeliner_that_does_not_read_takes_no_descriptors_from_others() {
    if !cfg!(target_os = "linux") {
        return not_here("descriptors are counted in /proc");
    }
    let Some(example) = example() else {
        return;
    };
    let root = TempPath::new();
    fs::create_dir(&root.0).expect("is made");
    let small = root.0.join("small");
    fs::write(&small, b"x").expect("is written");
    let path = TempPath::new();
    let server = Example::start(&example, 64, &root.0, &path);
    let addr = Addr::Unix(Some(path.0.clone().into()));
    let greedy = await_some("it listens", || Client::try_connect(&addr).ok());
    let timeout = Some(Duration::from_millis(300));
    greedy.0.set_write_timeout(timeout).expect("is set");
    let request = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..100 {
        match (&greedy.0).write(&request.repeat(100)) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut last = 0;
    eventually("no more are opened", || {
        std::thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, server.descriptors());
        before == last
    });
    let other = Client::connect(&addr);
    other.send(request);
    let answer = other.recv(12);
    assert_eq!(answer, b"HTTP/1.1 200", "{last} descriptors are open");
    fs::remove_file(&small).expect("is there");
}

/// An example that serves a file of eleven bytes, `a`, and a connection to it.
struct Site {
    _server: Example,
    root: TempPath,
    path: TempPath,
}

const TEXT: &str = "hello world";
/// When the file was changed.
const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

impl Site {
    fn start() -> Option<Self> {
        let example = example()?;
        let (root, path) = (TempPath::new(), TempPath::new());
        fs::create_dir(&root.0).expect("is made");
        fs::write(root.0.join("a"), TEXT).expect("is written");
        let changed = httpdate::parse_http_date(CHANGED).expect("is a date");
        let file = fs::File::options().write(true).open(root.0.join("a"));
        file.and_then(|file| file.set_modified(changed))
            .expect("is set");
        let server = Example::start(&example, 256, &root.0, &path);
        let addr = Addr::Unix(Some(path.0.clone().into()));
        await_some("it listens", || Client::try_connect(&addr).ok());
        Some(Self {
            _server: server,
            root,
            path,
        })
    }

    fn ask(&self, method: &str, target: &str, headers: &str) -> Answer {
        let client = Client::connect(&Addr::Unix(Some(self.path.0.clone().into())));
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"
        ));
        answers(&client).next(method).expect("an answer")
    }

    fn status(&self, headers: &str) -> u16 {
        self.ask("GET", "/a", headers).status
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root.0);
    }
}

#[test]
fn the_example_sends_a_part_of_a_file_to_get_alone() {
    let Some(site) = Site::start() else {
        return;
    };
    let part = site.ask("GET", "/a", "Range: bytes=0-4\r\n");
    assert_eq!((part.status, part.text()), (206, "hello"));
    assert_eq!(part.header("Content-Range"), Some("bytes 0-4/11"));
    let whole = site.ask("HEAD", "/a", "Range: bytes=0-4\r\n");
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("Content-Length"), Some("11"));
}

#[test]
fn the_example_goes_by_conditions_in_their_order() {
    let Some(site) = Site::start() else {
        return;
    };
    let answer = site.ask("GET", "/a", "");
    assert_eq!(
        (answer.status, answer.header("Last-Modified")),
        (200, Some(CHANGED))
    );
    let etag = answer.header("ETag").expect("has one").to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "{etag} is not strong"
    );
    let range = "Range: bytes=0-4\r\n";
    for (headers, status) in [
        // The tag counts, and the date only where there is no tag.
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: W/{etag}\r\n"), 304),
        (format!("If-None-Match: \"x,y\" , {etag}\r\n"), 304),
        (
            format!("If-None-Match: \"x\"\r\nIf-None-Match: {etag}\r\n"),
            304,
        ),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (
            format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {LATER}\r\n"),
            200,
        ),
        (
            format!("If-None-Match: {etag}\r\nIf-Modified-Since: {EARLIER}\r\n"),
            304,
        ),
        (format!("If-Modified-Since: {CHANGED}\r\n"), 304),
        (format!("If-Modified-Since: {LATER}\r\n"), 304),
        (format!("If-Modified-Since: {EARLIER}\r\n"), 200),
        ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        // Preconditions: the request fails unless they hold.
        (format!("If-Match: {etag}\r\n"), 200),
        ("If-Match: *\r\n".to_owned(), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        (format!("If-Match: W/{etag}\r\n"), 412),
        (format!("If-Match: \"x\"\r\nIf-None-Match: {etag}\r\n"), 412),
        (
            format!("If-Match: {etag}\r\nIf-Unmodified-Since: {EARLIER}\r\n"),
            200,
        ),
        (format!("If-Unmodified-Since: {CHANGED}\r\n"), 200),
        (format!("If-Unmodified-Since: {EARLIER}\r\n"), 412),
        // A part is sent only of the same file.
        (format!("{range}If-Range: {etag}\r\n"), 206),
        (format!("{range}If-Range: W/{etag}\r\n"), 200),
        (format!("{range}If-Range: \"x\"\r\n"), 200),
        (format!("{range}If-Range: {CHANGED}\r\n"), 206),
        (format!("{range}If-Range: {LATER}\r\n"), 200),
        (format!("{range}If-None-Match: {etag}\r\n"), 304),
    ] {
        assert_eq!(site.status(&headers), status, "{headers}");
    }
    // A file that has just been changed may change again within the resolution of its time.
    fs::write(site.root.0.join("a"), "other").expect("is written");
    let answer = site.ask("GET", "/a", &format!("If-None-Match: {etag}\r\n"));
    let fresh = answer.header("ETag").expect("has one");
    assert_eq!((answer.status, answer.text()), (200, "other"));
    assert!(fresh.starts_with("W/") && !fresh.contains(&etag), "{fresh}");
}

#[test]
fn the_example_finds_nothing_at_the_end_of_a_loop_of_links() {
    let Some(site) = Site::start() else {
        return;
    };
    std::os::unix::fs::symlink("loop", site.root.0.join("loop")).expect("is made");
    assert_eq!(site.ask("GET", "/loop", "").status, 404);
    assert_eq!(site.ask("GET", "/loop/a", "").status, 404);
}
