//! An echo that records its input, and obeys the commands of a test.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicycle::ws::{
    self, Close, CloseCode, DeflateOptions, Fragment, Incoming, Limits, Message, Ping, ServerCodec,
};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Frame, Reactor, Running, Server,
};

use crate::util::await_some;

/// An event of a connection.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Message(usize),
    Pong(Vec<u8>),
    Closed(Option<u16>, String),
    Gone(Arc<CloseReason>),
}

/// The settings of a service.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) deflate: Option<DeflateOptions>,
}

/// Echoes messages, except for texts that are commands.
pub(crate) struct Service {
    setup: Setup,
    log: Log,
}

/// The events of all connections.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<What>>>);

impl Log {
    fn note(&self, what: What) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    pub(crate) fn all(&self) -> Vec<What> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the Close that the first connection's handler received.
    pub(crate) fn await_closed(&self) -> (Option<u16>, String) {
        await_some("the peer closes", || {
            self.all().into_iter().find_map(|what| match what {
                What::Closed(code, reason) => Some((code, reason)),
                _ => None,
            })
        })
    }

    /// Returns the close reason of the first connection.
    pub(crate) fn await_gone(&self) -> Arc<CloseReason> {
        await_some("the connection ends", || {
            self.all().into_iter().find_map(|what| match what {
                What::Gone(reason) => Some(reason),
                _ => None,
            })
        })
    }
}

impl EventHandler for Service {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::new(self.setup.limits)
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        match frame {
            Incoming::Request(request) if request.path() == "/page" => conn
                .send(epicycle::http::ServerResponse::ok().body("a page"))
                .into(),
            Incoming::Request(request) if request.path() == "/late" => {
                let accept = ws::accept(&request)
                    .expect("opens a WebSocket")
                    .protocol(["late"])
                    .into_owned();
                let handle = conn.handle();
                std::thread::spawn(move || handle.send(accept));
                Action::Continue
            }
            Incoming::Request(request) => {
                let accepted = ws::accept(&request)
                    .and_then(|accept| accept.origins(["https://here.example"]))
                    .map(|accept| accept.protocol(["v2", "v1"]).header("X-Test", "yes"))
                    .map(|accept| match self.setup.deflate {
                        Some(options) => accept.deflate(options),
                        None => accept,
                    });
                conn.send(accepted).into()
            }
            Incoming::Message(message) => {
                self.log.note(What::Message(message.as_bytes().len()));
                self.obey(conn, message)
            }
            Incoming::Pong(payload) => {
                self.log.note(What::Pong(payload.to_vec()));
                Action::Continue
            }
            Incoming::Closed(close) => {
                let code = close.code.map(CloseCode::get);
                self.log.note(What::Closed(code, close.reason.to_owned()));
                Action::Continue
            }
        }
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _info: &Closed, (): (), reason: CloseReason) {
        self.log.note(What::Gone(Arc::new(reason)));
    }
}

impl Service {
    fn obey(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) -> Action {
        match message.as_text() {
            Some("close") => conn.send(Close::new(CloseCode::POLICY, "as told")).into(),
            Some("close twice") => {
                conn.send(Close::new(CloseCode::NORMAL, ""))
                    .expect("is taken");
                assert!(conn.send("too late").is_err());
                Action::Continue
            }
            Some("hang up") => Action::Close,
            Some("quiet") => Action::Continue,
            Some("panic") => panic!("on purpose"),
            Some("ping") => conn.send(Ping(b"are you there")).into(),
            Some("fragments") => {
                for (part, last) in [("one ", false), ("two ", false), ("three", true)] {
                    conn.send(Fragment {
                        part: part.into(),
                        last,
                    })
                    .expect("is taken");
                }
                Action::Continue
            }
            _ => conn.send(message).into(),
        }
    }
}

pub(crate) fn start(server: Server, setup: Setup) -> (Running<Service>, Log) {
    let log = Log::default();
    let for_factory = log.clone();
    let factory = move |_| Service {
        setup: setup.clone(),
        log: for_factory.clone(),
    };
    (server.start(factory).expect("starts"), log)
}

/// Returns a server with one reactor, on a TCP port that the kernel chooses.
pub(crate) fn local() -> Server {
    Server::bind("tcp://127.0.0.1:0").reactors(1)
}

/// A timeout that is short enough for a test.
pub(crate) const SOON: Duration = Duration::from_millis(200);
