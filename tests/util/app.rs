//! A handler made of closures, which records its callbacks.

use std::any::Any;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use epicycle::codec::{Codec, Decoded, Encode, FrameError, LengthField, Lines, Raw};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnId, ConnInfo, Datagram, Engine, EventHandler,
    FailedConnect, Outbox, Reactor, Running, Server, Udp,
};

use super::{LONG, await_some};

/// A connection's session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) any: Option<Box<dyn Any>>,
}

/// The codec of a test.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    Raw,
    Lines(Lines),
    Length(LengthField),
}

impl Codec for Cut {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        match self {
            Cut::Raw => Raw.decode(src),
            Cut::Lines(lines) => lines.decode(src),
            Cut::Length(length) => length.decode(src),
        }
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        match self {
            Cut::Raw => Raw.decode_eof(src),
            Cut::Lines(lines) => lines.decode_eof(src),
            Cut::Length(length) => length.decode_eof(src),
        }
    }
}

impl<T: AsRef<[u8]>> Encode<T> for Cut {
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        match self {
            Cut::Raw => Raw.encode(item, dst),
            Cut::Lines(lines) => lines.encode(item, dst),
            Cut::Length(length) => length.encode(item, dst),
        }
    }
}

type Plain<const SHOWS: bool> = Box<dyn FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session) -> Action>;

/// An echo handler. A test can replace each callback. Only with `SHOWS` it has a `pre_write`: see [`start_shown`].
#[allow(clippy::type_complexity)]
pub(crate) struct App<const SHOWS: bool = false> {
    log: Arc<Log>,
    codec: Cut,
    on_boot: Box<dyn FnMut(&mut Reactor<'_, App<SHOWS>>)>,
    on_open: Box<dyn FnMut(&mut Conn<'_, App<SHOWS>>) -> bool>,
    react: Box<dyn FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session, &[u8]) -> Action>,
    pre_write: Box<dyn FnMut(ConnId, &[u8])>,
    on_drain: Plain<SHOWS>,
    on_peer_shutdown: Plain<SHOWS>,
    on_timer: Box<dyn FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session, u64) -> Action>,
    on_close: Box<dyn FnMut(&mut Reactor<'_, App<SHOWS>>, &Closed, &CloseReason)>,
    on_connect_failed: Box<dyn FnMut(&mut Reactor<'_, App<SHOWS>>, &FailedConnect)>,
    tick: Box<dyn FnMut(&mut Reactor<'_, App<SHOWS>>) -> Option<Duration>>,
    on_shutdown: Box<dyn FnMut(&mut Reactor<'_, App<SHOWS>>)>,
    admit: Box<dyn FnMut(&mut Udp<'_, App<SHOWS>>, &Datagram<'_>) -> bool>,
    on_datagram: Box<dyn FnMut(&mut Udp<'_, App<SHOWS>>, Datagram<'_>) -> Action>,
}

impl App {
    pub(crate) fn echo(log: &Arc<Log>) -> Self {
        Self::new(log)
    }
}

impl<const SHOWS: bool> App<SHOWS> {
    fn new(log: &Arc<Log>) -> Self {
        Self {
            log: log.clone(),
            codec: Cut::Raw,
            on_boot: Box::new(|_| {}),
            on_open: Box::new(|_| true),
            react: Box::new(|conn, _, frame| conn.write(frame).into()),
            pre_write: Box::new(|_, _| {}),
            on_drain: Box::new(|_, _| Action::Continue),
            on_peer_shutdown: Box::new(|_, _| Action::Close),
            on_timer: Box::new(|_, _, _| Action::Continue),
            on_close: Box::new(|_, _, _| {}),
            on_connect_failed: Box::new(|_, _| {}),
            tick: Box::new(|_| None),
            on_shutdown: Box::new(|_| {}),
            admit: Box::new(|_, _| true),
            on_datagram: Box::new(|udp, datagram| udp.reply(datagram.data).into()),
        }
    }

    pub(crate) fn codec(mut self, codec: Cut) -> Self {
        self.codec = codec;
        self
    }

    pub(crate) fn on_boot(mut self, f: impl FnMut(&mut Reactor<'_, App<SHOWS>>) + 'static) -> Self {
        self.on_boot = Box::new(f);
        self
    }

    pub(crate) fn on_open(
        mut self,
        f: impl FnMut(&mut Conn<'_, App<SHOWS>>) -> bool + 'static,
    ) -> Self {
        self.on_open = Box::new(f);
        self
    }

    pub(crate) fn react(
        mut self,
        f: impl FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session, &[u8]) -> Action + 'static,
    ) -> Self {
        self.react = Box::new(f);
        self
    }

    pub(crate) fn pre_write(mut self, f: impl FnMut(ConnId, &[u8]) + 'static) -> Self {
        assert!(SHOWS, "it would not be called");
        self.pre_write = Box::new(f);
        self
    }

    pub(crate) fn on_drain(
        mut self,
        f: impl FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session) -> Action + 'static,
    ) -> Self {
        self.on_drain = Box::new(f);
        self
    }

    pub(crate) fn on_peer_shutdown(
        mut self,
        f: impl FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session) -> Action + 'static,
    ) -> Self {
        self.on_peer_shutdown = Box::new(f);
        self
    }

    pub(crate) fn on_timer(
        mut self,
        f: impl FnMut(&mut Conn<'_, App<SHOWS>>, &mut Session, u64) -> Action + 'static,
    ) -> Self {
        self.on_timer = Box::new(f);
        self
    }

    pub(crate) fn on_close(
        mut self,
        f: impl FnMut(&mut Reactor<'_, App<SHOWS>>, &Closed, &CloseReason) + 'static,
    ) -> Self {
        self.on_close = Box::new(f);
        self
    }

    pub(crate) fn on_connect_failed(
        mut self,
        f: impl FnMut(&mut Reactor<'_, App<SHOWS>>, &FailedConnect) + 'static,
    ) -> Self {
        self.on_connect_failed = Box::new(f);
        self
    }

    pub(crate) fn tick(
        mut self,
        f: impl FnMut(&mut Reactor<'_, App<SHOWS>>) -> Option<Duration> + 'static,
    ) -> Self {
        self.tick = Box::new(f);
        self
    }

    pub(crate) fn admit(
        mut self,
        f: impl FnMut(&mut Udp<'_, App<SHOWS>>, &Datagram<'_>) -> bool + 'static,
    ) -> Self {
        self.admit = Box::new(f);
        self
    }

    pub(crate) fn on_datagram(
        mut self,
        f: impl FnMut(&mut Udp<'_, App<SHOWS>>, Datagram<'_>) -> Action + 'static,
    ) -> Self {
        self.on_datagram = Box::new(f);
        self
    }

    pub(crate) fn on_shutdown(
        mut self,
        f: impl FnMut(&mut Reactor<'_, App<SHOWS>>) + 'static,
    ) -> Self {
        self.on_shutdown = Box::new(f);
        self
    }
}

impl<const SHOWS: bool> EventHandler for App<SHOWS> {
    type Codec = Cut;
    type Session = Session;

    const HANDLES_DATAGRAMS: bool = true;
    const HANDLES_PRE_WRITE: bool = SHOWS;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Cut {
        self.codec.clone()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        (self.on_boot)(reactor);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        self.log.note(conn.id(), What::Open);
        (self.on_open)(conn).then(Session::default)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, frame: &[u8]) -> Action {
        self.log.note(conn.id(), What::Frame(frame.len()));
        (self.react)(conn, session, frame)
    }

    fn pre_write(&mut self, id: ConnId, _session: &mut Session, bytes: &[u8]) {
        (self.pre_write)(id, bytes);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        self.log.note(conn.id(), What::Drain);
        (self.on_drain)(conn, session)
    }

    fn on_peer_shutdown(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        self.log.note(conn.id(), What::PeerShutdown);
        (self.on_peer_shutdown)(conn, session)
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, token: u64) -> Action {
        self.log.note(conn.id(), What::Timer(token));
        (self.on_timer)(conn, session, token)
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        _session: Session,
        reason: CloseReason,
    ) {
        let reason = Arc::new(reason);
        self.log
            .note(info.id, What::Close(info.clone(), reason.clone()));
        (self.on_close)(reactor, info, &reason);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        let failed = Arc::new(failed);
        self.log.note_failure(failed.clone());
        (self.on_connect_failed)(reactor, &failed);
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        (self.tick)(reactor)
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        (self.on_shutdown)(reactor);
    }

    fn admit(&mut self, udp: &mut Udp<'_, Self>, datagram: &Datagram<'_>) -> bool {
        (self.admit)(udp, datagram)
    }

    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        (self.on_datagram)(udp, datagram)
    }
}

/// A callback of a connection.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Open,
    Frame(usize),
    Drain,
    PeerShutdown,
    Timer(u64),
    Close(Closed, Arc<CloseReason>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: ConnId,
    pub(crate) thread: ThreadId,
    pub(crate) what: What,
}

/// The callbacks of all connections of a server, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Mutex<Vec<Entry>>,
    /// The failed connects, in order.
    failures: Mutex<Vec<Arc<FailedConnect>>>,
}

impl Log {
    fn note(&self, id: ConnId, what: What) {
        let thread = thread::current().id();
        self.lock().push(Entry { id, thread, what });
    }

    fn note_failure(&self, failed: Arc<FailedConnect>) {
        lock(&self.failures).push(failed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        lock(&self.entries)
    }

    /// Returns the connects that have failed so far, in order.
    pub(crate) fn failures(&self) -> Vec<Arc<FailedConnect>> {
        lock(&self.failures).clone()
    }

    /// Waits for the `n`th failed connect, counted from 0.
    pub(crate) fn await_failure(&self, n: usize) -> Arc<FailedConnect> {
        await_some("a connect fails", || lock(&self.failures).get(n).cloned())
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    pub(crate) fn count(&self, what: impl Fn(&What) -> bool) -> usize {
        self.lock().iter().filter(|entry| what(&entry.what)).count()
    }

    pub(crate) fn opened(&self) -> usize {
        self.count(|what| matches!(what, What::Open))
    }

    pub(crate) fn frames(&self) -> usize {
        self.count(|what| matches!(what, What::Frame(_)))
    }

    pub(crate) fn closed(&self) -> usize {
        self.count(|what| matches!(what, What::Close(..)))
    }

    /// Returns the connections opened so far, in order.
    pub(crate) fn ids(&self) -> Vec<ConnId> {
        let log = self.lock();
        let opened = log.iter().filter(|entry| matches!(entry.what, What::Open));
        opened.map(|entry| entry.id).collect()
    }

    /// Waits until the `n`th connection has opened, counted from 0.
    pub(crate) fn await_open(&self, n: usize) -> ConnId {
        await_some("a connection opens", || self.ids().get(n).copied())
    }

    /// Waits until the `n`th connection has closed, counted from 0.
    pub(crate) fn await_close(&self, n: usize) -> (Closed, Arc<CloseReason>) {
        await_some("a connection closes", || {
            let log = self.lock();
            let mut closes = log.iter().filter_map(|entry| match &entry.what {
                What::Close(closed, reason) => Some((closed.clone(), reason.clone())),
                _ => None,
            });
            closes.nth(n)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock would hide the reason of a failed test.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts a server. `make` changes the echo handler of each reactor. Returns the server and its log.
pub(crate) fn start(
    server: Server,
    make: impl Fn(App) -> App + Send + Sync + 'static,
) -> (Running<App>, Arc<Log>) {
    start_either(server, make)
}

/// Starts a server whose handler has a `pre_write`, as [`start`] does.
pub(crate) fn start_shown(
    server: Server,
    make: impl Fn(App<true>) -> App<true> + Send + Sync + 'static,
) -> (Running<App<true>>, Arc<Log>) {
    start_either(server, make)
}

/// Starts a server whose handler has a `pre_write` or none.
pub(crate) fn start_either<const SHOWS: bool>(
    server: Server,
    make: impl Fn(App<SHOWS>) -> App<SHOWS> + Send + Sync + 'static,
) -> (Running<App<SHOWS>>, Arc<Log>) {
    let log = Arc::<Log>::default();
    let for_factory = log.clone();
    let running = server
        .start(move |_| make(App::new(&for_factory)))
        .expect("starts");
    (running, log)
}

/// Keeps a reactor busy until it is dropped.
pub(crate) struct Gate {
    _open: Sender<()>,
}

impl Gate {
    pub(crate) fn before(engine: &Engine<App>, reactor: usize) -> Self {
        let (open, wait) = mpsc::channel::<()>();
        let (arrive, arrived) = mpsc::channel();
        let task = move |_: &mut App, _: &mut Reactor<'_, App>| {
            arrive.send(()).expect("the test waits");
            let _ = wait.recv();
        };
        engine.run_on(reactor, task).expect("taken");
        arrived.recv_timeout(LONG).expect("it gets there");
        Self { _open: open }
    }
}

/// Returns a server with one reactor, on a TCP port that the kernel chooses.
pub(crate) fn local() -> Server {
    Server::bind("tcp://127.0.0.1:0").reactors(1)
}

/// Starts an engine without listeners, as [`start`] does.
pub(crate) fn start_client(
    client: Client,
    make: impl Fn(App) -> App + Send + Sync + 'static,
) -> (Running<App>, Arc<Log>) {
    let log = Arc::<Log>::default();
    let for_factory = log.clone();
    let running = client
        .start(move |_| make(App::echo(&for_factory)))
        .expect("starts");
    (running, log)
}
