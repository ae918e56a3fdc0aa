use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::context::{Connections, Context, Slot, Timer};
use super::{Conn, Connecting, Engine, EventHandler, Udp};
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::slots::{ConnId, MAX_SLOTS};
#[cfg(feature = "cluster")]
use crate::engine::timer::TimerKey;

/// A reactor, as received by callbacks that belong to no single connection.
pub struct Reactor<'a, H: EventHandler> {
    pub(super) connections: &'a Connections<H>,
    pub(super) cx: &'a mut Context<H>,
}

impl<'a, H: EventHandler> Reactor<'a, H> {
    pub(crate) fn new(connections: &'a Connections<H>, cx: &'a mut Context<H>) -> Self {
        Self { connections, cx }
    }

    /// Returns its number, counted from 0.
    pub fn id(&self) -> usize {
        self.cx.reactor
    }

    /// Returns the engine that it belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// Returns the time at which this turn of the loop began. In a simulation this is the virtual time, unlike
    /// [`Instant::now`].
    ///
    /// It is the same in all callbacks of a turn, and costs no system call.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// Returns the time of day at the beginning of the turn, in whole seconds since 1970-01-01, midnight UTC. It costs no system
    /// call. In a simulation it is the virtual time of day.
    pub fn unix_time(&self) -> u64 {
        self.cx.time.unix_time()
    }

    /// Returns the number of its connections, including those that are closing.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Calls `f` for every open connection of this reactor, in no particular order. Inside a callback of a connection it
    /// leaves that connection out.
    pub fn for_each(&mut self, mut f: impl FnMut(&mut Conn<'_, H>, &mut H::Session)) {
        for slot in 0..self.connections.end() {
            if let Some(mut slot) = self.connections.at(slot) {
                self.lend(&mut slot, &mut f);
            }
        }
    }

    /// Calls `f` with one connection of this reactor, at once. Returns `None` if it is not open, belongs to another
    /// reactor, or is the one whose callback is running.
    ///
    /// The callbacks of that connection, for example for room for output, follow after the running one. If `f` panics, that
    /// connection closes with [`CloseReason::Panic`](crate::CloseReason).
    pub fn with<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut Conn<'_, H>, &mut H::Session) -> R,
    ) -> Option<R> {
        let mut slot = self.connections.get(id)?;
        self.lend(&mut slot, f)
    }

    fn lend<R>(
        &mut self,
        slot: &mut Slot<H>,
        f: impl FnOnce(&mut Conn<'_, H>, &mut H::Session) -> R,
    ) -> Option<R> {
        if !slot.link.state.is_open() {
            return None;
        }
        let (conn, session) = slot.lend(self.cx, self.connections)?;
        let mut lent = Lent(conn);
        let result = f(&mut lent.0, session);
        // It holds nothing but references.
        mem::forget(lent);
        Some(result)
    }

    /// Writes the same bytes to every open connection of this reactor. Returns the number of connections that
    /// accepted them.
    ///
    /// [`Engine::broadcast`] also reaches the connections of the other reactors.
    pub fn broadcast(&mut self, bytes: impl Into<Bytes>) -> usize {
        let bytes = bytes.into();
        let mut taken = 0;
        self.for_each(|conn, _| taken += usize::from(conn.write_shared(bytes.clone()).is_ok()));
        taken
    }

    /// Makes an outbound connection on this reactor, as [`Engine::connect`] does, and without a place in the mailbox. The
    /// attempt begins after this callback, in the order of the calls; other events are handled after 1,024 of them. So a server
    /// that refuses it is told later, by [`on_connect_failed`](EventHandler::on_connect_failed), as is a reactor without a free
    /// slot.
    ///
    /// # Errors
    ///
    /// As for [`Engine::connect`]. [`ConnectError::MailboxFull`] only if as many connects wait to begin as a reactor can have
    /// connections (4,194,304).
    pub fn connect(&mut self, connect: impl Into<Connect>) -> Result<Connecting<H>, ConnectError> {
        if self.cx.refuses_connects {
            return Err(ConnectError::Stopped);
        }
        let (id, connect, to) = self.cx.engine.prepare(connect.into())?;
        let waiting = &mut self.cx.lists.dials;
        if waiting.len() >= MAX_SLOTS {
            return Err(ConnectError::MailboxFull);
        }
        waiting.push_back((id, connect, to));
        Ok(self.cx.engine.connecting(id, self.cx.reactor))
    }

    /// Returns this reactor's UDP socket of a listener. Listeners are counted from 0, in the order in which they were
    /// given to the server. With [`AcceptMode::ReusePort`](crate::AcceptMode) every reactor has a socket of each.
    /// Otherwise, of N reactors, only reactor K modulo N has the socket of listener K. Returns `None` for other
    /// listeners, and once the engine shuts down.
    pub fn udp(&mut self, listener: usize) -> Option<Udp<'_, H>> {
        let port = self.cx.udp_sockets.of_listener(listener)?;
        Some(Udp::new(self.connections, self.cx, port, None))
    }

    /// Runs `task` on this reactor once the input of this turn is handled, right before output is sent.
    ///
    /// It costs no system call, no wake-up and no place in the mailbox, and the task need not be `Send`. Use it for the end
    /// of a piece of work: to write once what many callbacks of the turn have collected, or to touch another connection. A
    /// task that is deferred by `on_close` during the flush, or by another deferred task, runs in the next turn, which begins
    /// at once. A task that is deferred while the reactor ends is dropped.
    ///
    /// ```
    /// use epicycle::codec::Lines;
    /// use epicycle::{Action, Conn, ConnInfo, EventHandler};
    ///
    /// /// Tells a client how many lines it has sent in one go.
    /// struct Counter;
    ///
    /// impl EventHandler for Counter {
    ///     type Codec = Lines;
    ///     type Session = usize;
    ///
    ///     fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
    ///         Lines::new()
    ///     }
    ///
    ///     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<usize> {
    ///         Some(0)
    ///     }
    ///
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, lines: &mut usize, _line: &[u8]) -> Action {
    ///         *lines += 1;
    ///         if *lines == 1 {
    ///             let id = conn.id();
    ///             conn.defer(move |_, reactor| {
    ///                 reactor.with(id, |conn, lines| {
    ///                     let count = std::mem::take(lines);
    ///                     conn.send(format!("{count} lines").as_bytes())
    ///                 });
    ///             });
    ///         }
    ///         Action::Continue
    ///     }
    /// }
    /// # use std::io::{Read, Write};
    /// # let running = epicycle::Server::bind("tcp://127.0.0.1:0").start(|_reactor| Counter)?;
    /// # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
    /// # peer.write_all(b"a\nb\nc\n").unwrap();
    /// # let mut answer = [0; 8];
    /// # peer.read_exact(&mut answer).unwrap();
    /// # assert_eq!(&answer, b"3 lines\n");
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn defer(&mut self, task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + 'static) {
        self.cx.deferred.push_back(Box::new(task));
    }

    /// Requests a call of [`on_turn_end`](EventHandler::on_turn_end) at the end of this turn. During the flush, and in
    /// `on_turn_end` itself, it is called at the end of the next turn, which begins at once.
    pub fn request_turn_end(&mut self) {
        self.cx.wants_turn_end = true;
    }

    /// Runs `task` on this reactor after `delay`, counted from now. It never runs early, and is as exact as
    /// [`Conn::set_timer`](crate::Conn::set_timer).
    pub fn schedule(
        &mut self,
        delay: Duration,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + 'static,
    ) {
        let deadline = self.cx.time.deadline(delay);
        self.cx.wheel.insert(deadline, Timer::Task(Box::new(task)));
    }

    /// Runs `task` after `delay`, as [`schedule`](Self::schedule) does, unless it is [unscheduled](Self::unschedule).
    #[cfg(feature = "cluster")]
    pub(crate) fn schedule_keyed(
        &mut self,
        delay: Duration,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + 'static,
    ) -> TimerKey {
        let deadline = self.cx.time.deadline(delay);
        (self.cx.wheel).insert(deadline, Timer::Task(Box::new(task)))
    }

    /// Removes a task that was scheduled and has not run.
    #[cfg(feature = "cluster")]
    pub(crate) fn unschedule(&mut self, key: TimerKey) {
        self.cx.wheel.cancel(key);
    }
}

/// A connection that is lent to another one's callback. It closes if that panics.
struct Lent<'a, H: EventHandler>(Conn<'a, H>);

impl<H: EventHandler> Drop for Lent<'_, H> {
    #[cold]
    fn drop(&mut self) {
        let Conn {
            link, codec, cx, ..
        } = &mut self.0;
        cx.close_panicked(link, codec);
    }
}

impl<H: EventHandler> fmt::Debug for Reactor<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("id", &self.id())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
