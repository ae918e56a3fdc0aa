//! Origins and clients of the tests, which speak HTTP by hand.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use epicycle::gateway::settings::{ListenerSettings, PoolSettings, RouteSettings};
use epicycle::gateway::{Builder, Gateway, Hooks, NoHooks, Proxy, Running};
use socket2::SockRef;

use crate::util::LONG;

/// A request or a response, as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The first line and the fields, without the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// False if the stream ended before the body did.
    pub(crate) is_complete: bool,
}

impl Message {
    /// Returns the value of the only field of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert!(
            values.next().is_none(),
            "{name} is there twice:\n{}",
            self.head
        );
        value
    }

    pub(crate) fn first_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        let code = self.first_line().split(' ').nth(1);
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// Reads a message. Returns `None` if the stream ends before its head does.
    fn read(from: &mut impl BufRead, has_body: bool) -> Option<Self> {
        let mut head = String::new();
        loop {
            let before = head.len();
            match from.read_line(&mut head) {
                Ok(0) | Err(_) => return None,
                Ok(_) if head[before..] == *"\r\n" => break,
                Ok(_) => {}
            }
        }
        head.truncate(head.len() - 4);
        let mut message = Message {
            head,
            is_complete: true,
            ..Message::default()
        };
        let is_response = message.head.starts_with("HTTP/");
        let is_bodiless = matches!(message.status(), 100..200 | 204 | 304);
        if !has_body || is_response && is_bodiless {
            return Some(message);
        }
        if let Some(len) = message.field("content-length") {
            message.body = vec![0; len.parse().expect("a number")];
            message.is_complete = read_all(from, &mut message.body);
        } else if message.field("transfer-encoding").is_some() {
            message.is_complete = read_chunks(from, &mut message.body).is_some();
        } else if is_response {
            message.is_complete = from.read_to_end(&mut message.body).is_ok();
        }
        Some(message)
    }
}

fn read_all(from: &mut impl Read, into: &mut Vec<u8>) -> bool {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) | Err(_) => {
                into.truncate(filled);
                return false;
            }
            Ok(count) => filled += count,
        }
    }
    true
}

fn read_chunks(from: &mut impl BufRead, into: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let len = usize::from_str_radix(line.strip_suffix("\r\n")?, 16).ok()?;
        if len == 0 {
            while from.read_line(&mut line).ok()? > 2 {}
            return Some(());
        }
        let mut chunk = vec![0; len + 2];
        from.read_exact(&mut chunk).ok()?;
        into.extend_from_slice(&chunk[..len]);
    }
}

/// The answer of an origin to a request.
pub(crate) enum Deed {
    /// It sends this, and waits for the next request.
    Send(Vec<u8>),

    /// It resets the connection.
    Reset,
    /// It answers nothing, until the other side ends the connection.
    Hang,
}

/// Returns a response with a body.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Deed {
    respond("200 OK", body)
}

pub(crate) fn respond(status: &str, body: impl AsRef<[u8]>) -> Deed {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Deed::Send([head.as_bytes(), body].concat())
}

/// An origin on a thread of its own, and one for each connection.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    requests: Arc<Mutex<Vec<Message>>>,
    pub(crate) accepted: Arc<AtomicUsize>,
    /// The connections that have ended.
    pub(crate) ended: Arc<AtomicUsize>,
}

impl Origin {
    /// Starts an origin. `act` gets each request, with its number, counted from 0.
    pub(crate) fn start(act: impl Fn(usize, &Message) -> Deed + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), act)
    }

    pub(crate) fn on(
        listener: TcpListener,
        act: impl Fn(usize, &Message) -> Deed + Send + Sync + 'static,
    ) -> Self {
        let origin = Self {
            addr: listener.local_addr().expect("an address"),
            requests: Arc::default(),
            accepted: Arc::default(),
            ended: Arc::default(),
        };
        let (requests, act) = (origin.requests.clone(), Arc::new(act));
        let (accepted, ended) = (origin.accepted.clone(), origin.ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                accepted.fetch_add(1, Ordering::SeqCst);
                let (requests, act, ended) = (requests.clone(), act.clone(), ended.clone());
                thread::spawn(move || {
                    serve(stream, &requests, &*act);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        origin
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn requests(&self) -> Vec<Message> {
        self.requests.lock().expect("sound").clone()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, requests: &Mutex<Vec<Message>>, act: &dyn Fn(usize, &Message) -> Deed) {
    let mut input = BufReader::new(stream.try_clone().expect("a copy"));
    let mut output = &stream;
    while let Some(request) = Message::read(&mut input, true) {
        let number = {
            let mut requests = requests.lock().expect("sound");
            requests.push(request.clone());
            requests.len() - 1
        };
        match act(number, &request) {
            Deed::Send(bytes) => {
                if output.write_all(&bytes).is_err() {
                    return;
                }
            }

            Deed::Reset => {
                let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                return;
            }
            Deed::Hang => {
                let _ = io::copy(&mut input, &mut io::sink());
                return;
            }
        }
    }
}

/// A client that sends what it is told.
pub(crate) struct Asker {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Asker {
    pub(crate) fn to<H: Hooks>(gateway: &Running<H>) -> Self {
        let addr = gateway.local_addrs()[0].as_socket_addr();
        Self::at(addr.expect("an address"))
    }

    pub(crate) fn at(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("is set");
        Self {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that refuses may close before it has read everything.
        let _ = self.stream.get_ref().write_all(bytes.as_ref());
    }

    /// Sends a request without a body, and returns its response.
    pub(crate) fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    }

    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.response().expect("a response")
    }

    /// Sends a request, and returns the head of its response.
    pub(crate) fn ask_head(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        Message::read(&mut self.stream, false).expect("a head")
    }

    /// Reads a response. Returns `None` if the stream ends before its head does.
    pub(crate) fn response(&mut self) -> Option<Message> {
        Message::read(&mut self.stream, true)
    }

    pub(crate) fn recv(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("they come");
        bytes
    }

    /// Returns what comes until the stream ends, in any way.
    pub(crate) fn recv_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    pub(crate) fn end_writes(&self) {
        self.stream
            .get_ref()
            .shutdown(Shutdown::Write)
            .expect("is open");
    }

    pub(crate) fn reset(self) {
        let stream = self.stream.into_inner();
        let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Returns a gateway with one reactor, one listener, and the pool `app` for all requests.
pub(crate) fn builder(pool: PoolSettings) -> Builder {
    with_listener(ListenerSettings::new("tcp://127.0.0.1:0"), pool)
}

pub(crate) fn with_listener(listener: ListenerSettings, pool: PoolSettings) -> Builder {
    Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool)
}

/// Starts a gateway that sends all requests to the pool.
pub(crate) fn start(pool: PoolSettings) -> Running<NoHooks> {
    let gateway = builder(pool).route(RouteSettings::to("app")).build();
    gateway
        .expect("it is sound")
        .start_plain()
        .expect("it starts")
}

pub(crate) fn pool_of(origin: &Origin) -> PoolSettings {
    PoolSettings::of([origin.url()])
}

/// Returns a figure of the only reactor.
pub(crate) fn figure<H: Hooks>(
    gateway: &Running<H>,
    read: impl FnOnce(&mut Proxy<H>) -> usize + Send + 'static,
) -> usize {
    let (tell, told) = std::sync::mpsc::channel();
    let engine = gateway.engine();
    let asked = engine.run_on(0, move |proxy, _| {
        tell.send(read(proxy)).expect("is awaited");
    });
    asked.expect("it runs");
    told.recv().expect("it ran")
}

pub(crate) fn idle<H: Hooks>(gateway: &Running<H>) -> usize {
    figure(gateway, |proxy| proxy.idle_connections())
}
