//! A handler of HTTP requests made of closures, which records the requests.

use std::sync::{Arc, Mutex, PoisonError};

use epicycle::codec::Codec;
use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, StatusCode};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Running, Server,
};

use crate::util::await_some;

/// A connection's session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The number of requests, or another counter of a test.
    pub(crate) count: usize,
}

type Made<C> = Box<dyn FnMut() -> C>;
type Open<C> = Box<dyn FnMut(&mut Conn<'_, Site<C>>)>;
type Plain<C> = Box<dyn FnMut(&mut Conn<'_, Site<C>>, &mut Session) -> Action>;
type React<C> =
    Box<dyn for<'a> FnMut(&mut Conn<'_, Site<C>>, &mut Session, <C as Codec>::Frame<'a>) -> Action>;

/// A handler for one kind of frames, whose callbacks a test supplies.
pub(crate) struct Site<C: Codec = HttpCodec> {
    log: Arc<Log>,
    codec: Made<C>,
    react: React<C>,
    on_open: Open<C>,
    on_drain: Plain<C>,
}

impl<C: Codec> Site<C> {
    pub(crate) fn new(
        codec: impl FnMut() -> C + 'static,
        react: impl for<'a> FnMut(&mut Conn<'_, Self>, &mut Session, C::Frame<'a>) -> Action + 'static,
    ) -> Self {
        Self {
            log: Arc::default(),
            codec: Box::new(codec),
            react: Box::new(react),
            on_open: Box::new(|_| {}),
            on_drain: Box::new(|_, _| Action::Continue),
        }
    }

    pub(crate) fn on_open(mut self, f: impl FnMut(&mut Conn<'_, Self>) + 'static) -> Self {
        self.on_open = Box::new(f);
        self
    }

    pub(crate) fn on_drain(
        mut self,
        f: impl FnMut(&mut Conn<'_, Self>, &mut Session) -> Action + 'static,
    ) -> Self {
        self.on_drain = Box::new(f);
        self
    }
}

impl Site {
    /// Returns a handler of requests with whole bodies.
    pub(crate) fn of(
        react: impl for<'a> FnMut(&mut Conn<'_, Self>, &mut Session, ServerRequest<'a>) -> Action
        + 'static,
    ) -> Self {
        Self::new(HttpCodec::default, react)
    }

    /// Answers each request with its method, its target and its body.
    pub(crate) fn mirror() -> Self {
        Self::of(|conn, _, request| conn.send(reflection(&request)).into())
    }
}

/// Returns an answer that describes the request.
pub(crate) fn reflection(request: &ServerRequest<'_>) -> ServerResponse<'static> {
    let mut body = format!("{} {}\n", request.method(), request.target()).into_bytes();
    body.extend_from_slice(request.body());
    ServerResponse::new(StatusCode::OK)
        .header("Content-Type", "text/plain")
        .shared_body(body)
}

impl<C: Codec> EventHandler for Site<C> {
    type Codec = C;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> C {
        (self.codec)()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        (self.on_open)(conn);
        Some(Session::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: C::Frame<'_>,
    ) -> Action {
        *self
            .log
            .frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
        (self.react)(conn, session, frame)
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        (self.on_drain)(conn, session)
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        _session: Session,
        reason: CloseReason,
    ) {
        let mut ends = self.log.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.push((info.clone(), Arc::new(reason)));
    }
}

/// The record of a server's callbacks.
#[derive(Debug, Default)]
pub(crate) struct Log {
    frames: Mutex<usize>,
    ends: Mutex<Vec<(Closed, Arc<CloseReason>)>>,
}

impl Log {
    /// Returns the number of frames that the handler has received.
    pub(crate) fn frames(&self) -> usize {
        *self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of closed connections.
    pub(crate) fn ended(&self) -> usize {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Waits until the `n`th connection has closed, counted from 0.
    pub(crate) fn await_end(&self, n: usize) -> (Closed, Arc<CloseReason>) {
        await_some("a connection ends", || {
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.get(n).cloned()
        })
    }
}

/// Starts a server of such handlers. Returns it with its log.
pub(crate) fn start<C: Codec>(
    server: Server,
    make: impl Fn() -> Site<C> + Send + Sync + 'static,
) -> (Running<Site<C>>, Arc<Log>) {
    let log = Arc::<Log>::default();
    let for_factory = log.clone();
    let running = server.start(move |_| Site {
        log: for_factory.clone(),
        ..make()
    });
    (running.expect("starts"), log)
}
