//! A handler that does anything a handler may do.

use std::collections::HashSet;
use std::io::IoSlice;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::{
    Action, Bytes, CloseReason, Closed, Conn, ConnId, ConnInfo, ConnTimer, EventHandler, Handle,
    Reactor,
};
use fastrand::Rng;

use super::FIRST_PORT;
use super::tale::{HEADER, Teller};

pub(super) struct Anything<const SHOWS: bool> {
    pub(super) rng: Rng,
    /// What a connection's output is limited to.
    pub(super) limit: usize,
    pub(super) lives: Vec<(Handle<Self>, Session)>,
    pub(super) panics: u64,
    pub(super) opened: u64,
    pub(super) refuses: bool,
    /// Completions that were asked for, and those that were called.
    pub(super) asked: usize,
    pub(super) told: Arc<AtomicUsize>,
}

/// A session, which the test looks at from outside as well.
#[derive(Clone)]
pub(super) struct Session(Arc<Mutex<Life>>);

pub(super) struct Life {
    pub(super) id: ConnId,
    pub(super) peer: usize,
    /// What `pre_write` has seen.
    pub(super) shown: Vec<u8>,
    pub(super) closed: Option<Closed>,
    pub(super) reason: String,
    pub(super) callbacks: Teller,
    pub(super) handles: Teller,
    pub(super) echoes: Teller,
    timers: Vec<(u64, ConnTimer)>,
    fired: HashSet<u64>,
    set: u64,
}

/// The timer that resumes reading; others have other numbers.
const RESUME: u64 = 0;

impl Session {
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const SHOWS: bool> Anything<SHOWS> {
    pub(super) fn new(rng: Rng, limit: usize) -> Self {
        Self {
            rng,
            limit,
            lives: Vec::new(),
            panics: 0,
            opened: 0,
            refuses: true,
            asked: 0,
            told: Arc::default(),
        }
    }

    pub(super) fn does_anything(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) {
        let mut life = session.life();
        assert_eq!(life.id, conn.id(), "somebody else's connection");
        assert!(life.closed.is_none(), "after on_close");
        for _ in 0..self.rng.usize(0..3) {
            match self.rng.u32(..40) {
                0 => conn.close(),
                1 => conn.abort(),
                2 => conn.shutdown_write(),
                3 => {
                    drop(life);
                    return self.panic();
                }
                4..7 => {
                    conn.pause_reads();
                    conn.set_timer(Duration::from_millis(self.rng.u64(..100)), RESUME);
                }
                7..10 => {
                    life.set += 1;
                    let token = life.set;
                    let timer = conn.set_timer(Duration::from_millis(self.rng.u64(..300)), token);
                    life.timers.push((token, timer));
                }
                10..12 if !life.timers.is_empty() => {
                    let which = self.rng.usize(..life.timers.len());
                    let (token, timer) = life.timers.swap_remove(which);
                    let pending = conn.cancel_timer(timer);
                    // It has fired, or does not any more. Of a connection that closes it may have run out unheard.
                    let fired = !life.fired.insert(token);
                    assert!(pending != fired || !conn.is_open(), "timer {token}");
                }
                12..14 => self.broadcasts(conn),
                14 => drop(conn.handle().close()),
                _ => self.writes(conn, &mut life),
            }
        }
    }

    fn writes(&mut self, conn: &mut Conn<'_, Self>, life: &mut Life) {
        let message = life.callbacks.message(&mut self.rng);
        let half = self.rng.usize(..message.len());
        let taken = match self.rng.u32(..4) {
            0 => conn.write(&message),
            1 => conn.write_shared(Bytes::from(message)),
            2 => conn.write_vectored(&[
                IoSlice::new(&message[..half]),
                IoSlice::new(&message[half..]),
            ]),
            _ => {
                let told = self.told.clone();
                let written = conn.write_then(message, move |_| {
                    told.fetch_add(1, Ordering::Relaxed);
                });
                self.asked += usize::from(written.is_ok());
                written
            }
        };
        if taken.is_ok() {
            life.callbacks.go_on();
        }
    }

    /// Sends a frame from where it was received.
    fn echoes(&mut self, conn: &mut Conn<'_, Self>, life: &mut Life, frame: &[u8]) {
        let head = life.echoes.head(frame.len());
        if conn.buffered_out() + HEADER + frame.len() <= self.limit && conn.write(&head).is_ok() {
            conn.write(frame).expect("there is room");
            life.echoes.go_on();
        }
    }

    /// A request of this connection's own, to all, by way of the mailbox.
    fn broadcasts(&mut self, conn: &Conn<'_, Self>) {
        let task = |handler: &mut Self, reactor: &mut Reactor<'_, Self>| {
            handler.does_anything_to_all(reactor);
        };
        // A mailbox that is full takes none.
        let _ = conn.engine().run_on(0, task);
    }

    pub(super) fn does_anything_to_all(&mut self, reactor: &mut Reactor<'_, Self>) {
        if self.rng.u32(..4) == 0 {
            return reactor.for_each(|conn, session| self.does_anything(conn, session));
        }
        if self.lives.is_empty() {
            return;
        }
        let (handle, session) = &self.lives[self.rng.usize(..self.lives.len())];
        let (id, closed) = (handle.id(), session.life().closed.is_some());
        let found = reactor.with(id, |conn, session| self.does_anything(conn, session));
        assert!(found.is_none() || !closed, "{id} has a successor");
    }

    /// Unwinds as a panic does, without a message on standard error.
    fn panic(&mut self) {
        self.panics += 1;
        resume_unwind(Box::new("as planned"));
    }

    fn somehow(&mut self) -> Action {
        match self.rng.u32(..60) {
            0 => Action::Close,
            _ => Action::Continue,
        }
    }
}

impl<const SHOWS: bool> EventHandler for Anything<SHOWS> {
    type Codec = Raw;
    type Session = Session;

    const HANDLES_PRE_WRITE: bool = SHOWS;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        self.opened += 1;
        if self.refuses && self.rng.u32(..20) == 0 {
            return None;
        }
        let port = conn
            .peer_addr()
            .as_socket_addr()
            .expect("an address")
            .port();
        let life = Life {
            id: conn.id(),
            peer: usize::from(port - FIRST_PORT),
            shown: Vec::new(),
            closed: None,
            reason: String::new(),
            callbacks: Teller::new(b'C'),
            handles: Teller::new(b'H'),
            echoes: Teller::new(b'E'),
            timers: Vec::new(),
            fired: HashSet::new(),
            set: RESUME,
        };
        let mut session = Session(Arc::new(Mutex::new(life)));
        if self.refuses && self.rng.u32(..4) == 0 {
            self.does_anything(conn, &mut session);
        }
        // Behind a panic, after which there is no session and no end of it.
        self.lives.push((conn.handle(), session.clone()));
        Some(session)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, frame: &[u8]) -> Action {
        let mut life = session.life();
        assert!(life.closed.is_none(), "a frame after on_close");
        assert!(!conn.reads_paused(), "a frame while reading is paused");
        if self.rng.bool() {
            self.echoes(conn, &mut life, frame);
        }
        drop(life);
        self.does_anything(conn, session);
        self.somehow()
    }

    fn pre_write(&mut self, _: ConnId, session: &mut Session, bytes: &[u8]) {
        session.life().shown.extend(bytes);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        self.does_anything(conn, session);
        self.somehow()
    }

    fn on_peer_shutdown(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        self.does_anything(conn, session);
        match self.rng.bool() {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, token: u64) -> Action {
        if token == RESUME {
            conn.resume_reads();
        } else {
            let first = session.life().fired.insert(token);
            assert!(first, "timer {token} fires again, or was cancelled");
        }
        self.does_anything(conn, session);
        self.somehow()
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        let mut life = session.life();
        assert_eq!(life.id, info.id, "somebody else's session");
        assert!(life.closed.is_none(), "closed twice");
        life.closed = Some(info.clone());
        life.reason = reason.to_string();
        drop(life);
        if self.rng.u32(..20) == 0 {
            self.panic();
        }
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        self.does_anything_to_all(reactor);
        (self.rng.u32(..20) > 0).then(|| Duration::from_millis(self.rng.u64(..200)))
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.does_anything_to_all(reactor);
    }
}
