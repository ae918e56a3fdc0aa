//! A server that stands in for one that no package here has. It speaks HTTP, and can be killed, restarted and paused.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustix::net::{RecvFlags, recv};

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The parameters of the query, and of a body that is a form.
    pub(crate) params: HashMap<String, String>,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self {
            status,
            body,
            ..Self::default()
        }
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

pub(crate) struct Standin {
    pub(crate) port: u16,
    answer: Arc<Answer>,
    running: Arc<Running>,
}

struct Running {
    is_over: AtomicBool,
    is_paused: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Standin {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let answer: Arc<Answer> = Arc::new(answer);
        let (port, running) = listen(0, answer.clone());
        Self {
            port,
            answer,
            running,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the number of connections that clients hold open.
    pub(crate) fn connections(&self) -> usize {
        let connections = self.running.connections.lock().expect("is whole");
        let is_open = |stream: &&TcpStream| {
            // Nothing is read here but the end.
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            !matches!(recv(stream, &mut [0; 1], flags), Ok((_, 0)))
        };
        connections.iter().filter(is_open).count()
    }

    pub(crate) fn kill(&self) {
        self.running.is_over.store(true, Ordering::SeqCst);
        // It is woken, and closes the port.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for connection in self.running.connections.lock().expect("is whole").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn restart(&mut self) {
        let port = self.port;
        crate::util::eventually("the port is free", || {
            TcpListener::bind(("127.0.0.1", port)).is_ok()
        });
        (_, self.running) = listen(port, self.answer.clone());
    }

    /// Nothing is answered any more, as if it were stopped.
    pub(crate) fn pause(&self) {
        self.running.is_paused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.running.is_paused.store(false, Ordering::SeqCst);
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(port: u16, answer: Arc<Answer>) -> (u16, Arc<Running>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    let running = Arc::new(Running {
        is_over: AtomicBool::new(false),
        is_paused: AtomicBool::new(false),
        connections: Mutex::default(),
    });
    let own = running.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepts");
            if own.is_over.load(Ordering::SeqCst) {
                return;
            }
            let copy = stream.try_clone().expect("is cloned");
            own.connections.lock().expect("is whole").push(copy);
            let (own, answer) = (own.clone(), answer.clone());
            // A client that leaves ends it.
            thread::spawn(move || serve(&own, &*answer, stream));
        }
    });
    (port, running)
}

fn serve(running: &Running, answer: &Answer, stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = read(&mut stream)?;
        while running.is_paused.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        let reply = answer(&request);
        if running.is_over.load(Ordering::SeqCst) {
            return None;
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n{}", reply.body.len(), reply.body);
        stream.get_mut().write_all(head.as_bytes()).ok()?;
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let len = headers
        .get("content-length")
        .map_or(0, |len| len.parse().expect("is a length"));
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut params = form(query);
    if headers
        .get("content-type")
        .is_some_and(|kind| kind.ends_with("urlencoded"))
    {
        params.extend(form(std::str::from_utf8(&body).ok()?));
    }
    Some(Request {
        method,
        path: decode(path),
        params,
        headers,
        body,
    })
}

fn form(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let text = percent_decode_str(text).decode_utf8();
    text.expect("is text").into_owned()
}
