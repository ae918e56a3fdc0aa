//! Servers as targets of the load: for each protocol and transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use epicycle::codec::LengthField;
use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, StatusCode};
use epicycle::tls::{Identity, TlsServer};
use epicycle::ws::{self, Incoming, ServerCodec};
use epicycle::{
    Action, Addr, Conn, ConnInfo, EventHandler, Frame, Listen, Running, Server, Service, service,
};

use crate::util::client::TempPath;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    Unix,
}

/// A server with one reactor, and what it takes to reach it.
pub(crate) struct Target<H: EventHandler> {
    running: Option<Running<H>>,
    transport: Transport,
    /// The authority of its certificate.
    ca: TempPath,
    /// Its socket.
    path: TempPath,
}

impl<H: EventHandler> Target<H> {
    pub(crate) fn start(
        transport: Transport,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Self {
        let (ca, path) = (TempPath::new(), TempPath::new());
        let listen = match transport {
            Transport::Tcp => Listen::on("tcp://127.0.0.1:0"),
            Transport::Unix => Listen::on(path.addr()),
            Transport::Tls => {
                let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
                let made = made.expect("makes a certificate");
                fs::write(&ca.0, made.cert.pem()).expect("writes");
                let key = made.signing_key.serialize_pem();
                let identity = Identity::from_pem(made.cert.pem(), key).expect("is one");
                let tls = TlsServer::new(identity).expect("is usable");
                Listen::on("tcp://127.0.0.1:0").tls(&tls)
            }
        };
        let running = Server::bind(listen).reactors(1).start(factory);
        Self {
            running: Some(running.expect("starts")),
            transport,
            ca,
            path,
        }
    }

    /// The arguments that name it. The schemes of HTTP and WebSocket can say what is spoken, but no Unix socket.
    pub(crate) fn args(&self, protocol: &str) -> Vec<String> {
        let scheme = match (protocol, self.transport) {
            ("http", Transport::Tcp) => "http",
            ("http", Transport::Tls) => "https",
            ("ws", Transport::Tcp) => "ws",
            ("ws", Transport::Tls) => "wss",
            (_, Transport::Tls) => "tls",
            _ => "tcp",
        };
        let mut args = match &self.running.as_ref().expect("runs").local_addrs()[0] {
            Addr::Ip(addr) => vec![format!("{scheme}://localhost:{}", addr.port())],
            _ => vec![self.path.addr()],
        };
        args.extend(["--protocol".to_owned(), protocol.to_owned()]);
        if self.transport == Transport::Tls {
            args.extend(["--ca".to_owned(), self.ca.0.display().to_string()]);
        }
        args
    }
}

impl<H: EventHandler> Drop for Target<H> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.engine().shutdown_within(Duration::from_millis(100));
            running.join();
        }
    }
}

pub(crate) fn echo(transport: Transport) -> Target<Service> {
    Target::start(transport, |_| {
        service(|conn, bytes| conn.write(bytes).into())
    })
}

/// An echo that sleeps for so long, with all connections, once it has answered for a second.
pub(crate) fn stalling(stall: Duration) -> Target<Service> {
    let stalled = Arc::new(AtomicBool::new(false));
    Target::start(Transport::Tcp, move |_| {
        let (stalled, mut since) = (stalled.clone(), None);
        service(move |conn, bytes| {
            let since = since.get_or_insert_with(Instant::now);
            let is_time = since.elapsed() > Duration::from_secs(1);
            if is_time && !stalled.swap(true, Ordering::Relaxed) {
                thread::sleep(stall);
            }
            conn.write(bytes).into()
        })
    })
}

/// Sends frames back.
pub(crate) struct Framed;

impl EventHandler for Framed {
    type Codec = LengthField;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> LengthField {
        LengthField::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        conn.send(frame).into()
    }
}

/// Answers HTTP requests: with 503 at `/busy`, with the last answer of the connection at `/last`, and a body elsewhere.
pub(crate) struct Web;

impl EventHandler for Web {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
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
        let sent = match request.target() {
            "/busy" => {
                conn.send(ServerResponse::new(StatusCode::SERVICE_UNAVAILABLE).body("later"))
            }
            "/last" => conn.send(ServerResponse::ok().close().body("that is all")),
            _ => conn.send(ServerResponse::ok().body("hello")),
        };
        sent.into()
    }
}

/// Sends WebSocket messages back.
pub(crate) struct Ws;

impl EventHandler for Ws {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        match frame {
            Incoming::Request(request) => conn.send(ws::accept(&request)).into(),
            Incoming::Message(message) => conn.send(message).into(),
            Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
        }
    }
}
