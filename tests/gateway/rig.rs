//! The common parts of the tests of the program: origins, the process, and a client.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tempfile::TempDir;

use crate::util::{LONG, eventually};

/// An origin that answers each request with its name, and holds back answers to `/slow` for 300 ms.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    is_dead: Arc<AtomicBool>,
    is_sick: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Origin {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let origin = Self {
            addr: listener.local_addr().expect("has an address"),
            requests: Arc::default(),
            heads: Arc::default(),
            is_dead: Arc::default(),
            is_sick: Arc::default(),
            streams: Arc::default(),
        };
        let (is_dead, streams) = (origin.is_dead.clone(), origin.streams.clone());
        let is_sick = origin.is_sick.clone();
        let (requests, heads) = (origin.requests.clone(), origin.heads.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if is_dead.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if is_sick.load(Ordering::Acquire) {
                    continue;
                }
                streams.lock().expect("is sound").extend(stream.try_clone());
                let (requests, heads) = (requests.clone(), heads.clone());
                thread::spawn(move || answer(stream, name, &requests, &heads));
            }
        });
        origin
    }

    /// Returns its address as a node.
    pub(crate) fn node(&self) -> String {
        format!("\"http://{}\"", self.addr)
    }

    /// Ends it as the end of its process would.
    pub(crate) fn kill(&self) {
        self.is_dead.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
        self.end_streams();
    }

    /// Closes all connections, and each further one at once.
    pub(crate) fn sicken(&self) {
        self.is_sick.store(true, Ordering::Release);
        self.end_streams();
    }

    fn end_streams(&self) {
        for stream in self.streams.lock().expect("is sound").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answer(
    stream: TcpStream,
    name: &str,
    requests: &AtomicUsize,
    heads: &Mutex<Vec<String>>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (line, fields) = read_head(&mut reader).ok()?;
        let length = fields
            .get("content-length")
            .and_then(|len| len.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if fields.contains_key("expect") {
            (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        reader.read_exact(&mut body).ok()?;
        requests.fetch_add(1, Ordering::Relaxed);
        let mut seen = heads.lock().ok()?;
        if seen.len() < 100 {
            let mut head = format!("{line}\n");
            for (name, value) in &fields {
                head += &format!("{name}: {value}\n");
            }
            seen.push(head);
        }
        drop(seen);
        if line.contains("/slow") {
            thread::sleep(Duration::from_millis(300));
        }
        let text = match body.len() {
            0 => name.to_owned(),
            sent => format!("{name} got {sent}"),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
        let body = if line.starts_with("HEAD ") {
            ""
        } else {
            &*text
        };
        (&stream).write_all((head + body).as_bytes()).ok()?;
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(String, HashMap<String, String>)> {
    let line = |reader: &mut dyn BufRead| {
        let mut line = String::new();
        match reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok::<_, io::Error>(line.trim_end().to_owned()),
        }
    };
    let first = line(reader)?;
    let mut fields = HashMap::new();
    loop {
        let field = line(reader)?;
        match field.split_once(": ") {
            Some((name, value)) => {
                fields.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            None => return Ok((first, fields)),
        }
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: HashMap<String, String>,
    pub(crate) body: String,
}

/// TCP or TLS.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A client that keeps its connection as long as the other side does.
pub(crate) struct Client {
    to: SocketAddr,
    /// Makes it speak TLS to `localhost`.
    tls: Option<Arc<ClientConfig>>,
    /// The requests on a connection.
    most: usize,
    connection: Option<BufReader<Box<dyn Stream>>>,
    /// The responses on this connection.
    served: usize,
}

impl Client {
    pub(crate) fn to(to: SocketAddr) -> Self {
        Self {
            to,
            tls: None,
            most: usize::MAX,
            connection: None,
            served: 0,
        }
    }

    /// Speaks TLS, and makes so many requests on a connection.
    pub(crate) fn over_tls(mut self, config: &Arc<ClientConfig>, most: usize) -> Self {
        self.tls = Some(config.clone());
        self.most = most;
        self
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    }

    /// Sends a request and reads its response.
    pub(crate) fn send(&mut self, request: &str) -> io::Result<Response> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(self.to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LONG))?;
            let stream: Box<dyn Stream> = match &self.tls {
                None => Box::new(stream),
                Some(config) => {
                    let name = "localhost".try_into().expect("is a name");
                    let tls = ClientConnection::new(config.clone(), name);
                    Box::new(StreamOwned::new(tls.map_err(io::Error::other)?, stream))
                }
            };
            self.connection = Some(BufReader::new(stream));
        }
        let result = self.exchange(request);
        self.served += 1;
        let closes = |response: &Response| {
            response
                .fields
                .get("connection")
                .is_some_and(|value| value == "close")
        };
        if result.as_ref().map_or(true, closes) || self.served == self.most {
            self.connection = None;
            self.served = 0;
        }
        result
    }

    fn exchange(&mut self, request: &str) -> io::Result<Response> {
        let connection = self.connection.as_mut().expect("is open");
        connection.get_mut().write_all(request.as_bytes())?;
        let (line, fields) = read_head(connection)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let length = fields
            .get("content-length")
            .and_then(|len| len.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if !request.starts_with("HEAD ") {
            connection.read_exact(&mut body)?;
        }
        Ok(Response {
            status: status.unwrap_or(0),
            fields,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// A folder for a configuration file and what it names.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("is made"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file at once, as editors do: it is never half there.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let new = self.path("new");
        fs::write(&new, text).expect("is written");
        fs::rename(new, self.path(name)).expect("is renamed");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// Returns the program with the sub-command `gateway`.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epicycle"));
    command.arg("gateway");
    command
}

/// Returns what the program tells of a request for `http://localhost/`.
pub(crate) fn explained(config: &Path) -> String {
    let mut explain = command();
    explain.arg("--config").arg(config);
    explain.args(["--explain", "GET http://localhost/"]);
    let said = explain.output().expect("runs");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The program while it serves. It is killed if the test fails.
pub(crate) struct Program {
    child: Child,
    /// The addresses of its listeners.
    pub(crate) addrs: Vec<SocketAddr>,
    lines: BufReader<std::process::ChildStdout>,
    log: PathBuf,
}

impl Program {
    /// Starts it with the file `gateway.toml` of a folder, and waits for its listeners.
    pub(crate) fn start(folder: &Folder, listeners: usize) -> Self {
        let config = folder.path("gateway.toml");
        let args = [
            Path::new("--config"),
            &config,
            "--reactors".as_ref(),
            "2".as_ref(),
        ];
        Self::start_with(command().args(args), folder, listeners)
    }

    pub(crate) fn start_with(command: &mut Command, folder: &Folder, listeners: usize) -> Self {
        let log = folder.path("log");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("is made"))
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("is piped"));
        let mut addrs = Vec::new();
        for _ in 0..listeners {
            let line = line(&mut lines);
            let addr = line.split(' ').nth(4).and_then(|addr| addr.parse().ok());
            let log = || fs::read_to_string(&log).unwrap_or_default();
            addrs.push(addr.unwrap_or_else(|| panic!("no address: {line:?}\n{}", log())));
        }
        Self {
            child,
            addrs,
            lines,
            log,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("is there");
    }

    /// Returns what it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the next line of its output.
    pub(crate) fn line(&mut self) -> String {
        line(&mut self.lines)
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().expect("is a child");
            status.is_some()
        });
        status.expect("has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).expect("is read");
    line.trim_end().to_owned()
}

/// Returns the value of a metric, with its labels, from the text for Prometheus.
pub(crate) fn metric(text: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// Clients that send one request after the other, until they are told to stop.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
    pub(crate) answers: Arc<AtomicUsize>,
    pub(crate) failures: Arc<Mutex<Vec<String>>>,
}

impl Crowd {
    pub(crate) fn start(clients: usize, to: SocketAddr) -> Self {
        Self::of(clients, move || Client::to(to))
    }

    pub(crate) fn of(clients: usize, client: impl Fn() -> Client) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (answers, failures) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let run = |_| {
            let (stop, answers, failures) = (stop.clone(), answers.clone(), failures.clone());
            let mut client = client();
            thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    match client.get("/") {
                        Ok(response) if response.status == 200 => {
                            answers.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failures
                            .lock()
                            .expect("is sound")
                            .push(format!("{other:?}")),
                    }
                }
            })
        };
        let clients = (0..clients).map(run).collect();
        Self {
            stop,
            clients,
            answers,
            failures,
        }
    }

    /// Waits until so many more requests are answered.
    pub(crate) fn answered(&self, more: usize) {
        let wanted = self.answers.load(Ordering::Relaxed) + more;
        eventually("requests are answered", || {
            self.answers.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Stops all clients. Returns what failed.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.join().expect("does not panic");
        }
        std::mem::take(&mut *self.failures.lock().expect("is sound"))
    }
}
