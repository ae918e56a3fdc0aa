//! Requests of other threads, and the stages of the shutdown.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CLOSE_BUDGET, COMMAND_BUDGET, EventLoop, LISTENERS, NOBODY, ShutdownStage};
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::origin::Origin;
use crate::engine::handler::context::{Served, Slot, Timer};
use crate::engine::handler::converse::{is_awaited, is_owed};
use crate::engine::handler::{Command, EventHandler, Moment, Reactor, WriteError, answer};
use crate::engine::listen::listeners::ListenerChange;

impl<H: EventHandler> EventLoop<H> {
    pub(super) fn run_commands(&mut self) {
        self.begin_dials();
        if self.turn.drain_mailbox {
            self.turn.drain_mailbox = false;
            // The mailbox's bound holds only if no more is taken before the last batch is done.
            if self.commands.is_empty() {
                let mailbox = &self.cx.engine.peer(self.cx.reactor).mailbox;
                self.commands = mailbox.take(std::mem::take(&mut self.commands));
            }
            self.turn.commands_left = COMMAND_BUDGET;
        }
        while self.turn.commands_left > 0 {
            self.turn.commands_left -= 1;
            let Some(command) = self.commands.pop_front() else {
                break;
            };
            let written = match &command {
                Command::Write(id, _) | Command::WriteThen(id, ..) | Command::OnConn(id, _) => {
                    Some(*id)
                }
                _ => None,
            };
            self.run_command(command);
            if let Some(id) = written {
                self.with_conn(id, |served, _| served.flush_much());
            }
            self.turn.serving = NOBODY;
            self.run_pipes();
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        }
    }

    fn run_command(&mut self, command: Command<H>) {
        let Self {
            handler,
            connections,
            cx,
            ..
        } = self;
        match command {
            Command::Adopt(arrival) => self.open(arrival),
            Command::Write(id, bytes) => {
                if let Some(mut slot) = connections.get(id)
                    && let Some((mut conn, _)) = slot.lend(cx, connections)
                    && let Err(error) = conn.write_shared(bytes)
                {
                    let name = slot.link.state.name();
                    log::debug!(target: "epicycle::conn", "{name}: a write was refused: {error}");
                }
            }
            Command::WriteThen(id, bytes, moment, done) => {
                let mut slot = connections.get(id);
                let lent = slot.as_mut().and_then(|slot| slot.lend(cx, connections));
                let taken = match lent {
                    Some((mut conn, _)) => conn.write_shared(bytes).map(|()| conn),
                    None => Err(WriteError::Closed),
                };
                match (taken, moment) {
                    (Ok(mut conn), Moment::Flushed) => conn.on_flushed(done),
                    (Ok(_), Moment::Accepted) => cx.complete(done, Ok(())),
                    (Err(error), _) => cx.complete(done, Err(error)),
                }
            }
            Command::Close(id) => {
                if let Some(mut slot) = connections.get(id) {
                    self.turn.serving = id.slot();
                    let Slot { link, codec, .. } = &mut *slot;
                    cx.begin_close(link, codec, CloseReason::Local);
                }
            }
            Command::Abort(id) => {
                if let Some(mut slot) = connections.get(id) {
                    cx.abort(&mut slot.link, CloseReason::Aborted);
                }
            }
            Command::OnConn(id, task) => {
                let mut slot = connections.get(id);
                match slot.as_mut().and_then(|slot| slot.lend(cx, connections)) {
                    Some((mut conn, session)) => {
                        self.turn.serving = id.slot();
                        task.run(handler, &mut conn, session);
                    }
                    None => task.on_closed(),
                }
            }
            Command::Answer(id, deferral, task) => {
                if let Some(mut slot) = connections.get(id)
                    && let Some((mut conn, session)) = slot.lend(cx, connections)
                {
                    self.turn.serving = id.slot();
                    answer::complete(handler, &mut conn, session, deferral, task);
                }
            }
            Command::OnReactor(task) => task(handler, &mut Reactor::new(connections, cx)),
            Command::Broadcast(bytes) => {
                Reactor::new(connections, cx).broadcast(bytes);
            }
            Command::Connect(id, connect, to) => self.dial(id, *connect, to),
            Command::Resolved(id, number, found) => self.resolved(id, number, found),
            Command::CancelConnect(id) => self.cancel_dial(id),
            Command::FileRead(id, chunk) => self.on_file_read(id, chunk),
            Command::ChangeListeners(change) => {
                if let ListenerChange::Remove(number) = change {
                    cx.udp_sockets.unlisten(number);
                }
                let registry = self.cx.poll.registry();
                let options = &self.dials.options;
                self.listeners.change(change, options, registry, LISTENERS);
            }
            Command::AddUdpSockets(sockets) => {
                #[cfg(feature = "testing")]
                if let Some(host) = self.dials.stack.as_simulated() {
                    sockets.assign(host.poller);
                }
                cx.udp_sockets.adopt(*sockets, cx.poll.registry());
            }
            Command::StopAccepting => self.stop_accepting(),
            Command::Shutdown => self.stop(),
            Command::Settled => self.drain_rest(),
        }
    }

    /// Begins the shutdown: accepts no more connections. A repeated request shortens the drain.
    fn stop(&mut self) {
        match self.stage {
            ShutdownStage::Running => {
                self.stage = ShutdownStage::Stopping;
                self.stop_accepting();
                self.handler
                    .on_shutdown(&mut Reactor::new(&self.connections, &mut self.cx));
            }
            // The drain has not begun, and will use the shorter time.
            ShutdownStage::Stopping => {}
            ShutdownStage::Answering | ShutdownStage::Draining => {
                self.limit_drain();
            }
        }
    }

    /// Limits the drain and returns its length in milliseconds. The earliest of several ends counts.
    fn limit_drain(&mut self) -> u64 {
        let within = self.cx.engine.shared().drain_within.load(Ordering::Relaxed);
        let deadline = self.cx.time.deadline(Duration::from_millis(within));
        self.cx.wheel.insert(deadline, Timer::DrainOver);
        within
    }

    fn stop_accepting(&mut self) {
        self.listeners.close(self.cx.poll.registry());
        if std::mem::replace(&mut self.accepts_itself, false) {
            self.cx
                .engine
                .shared()
                .acceptors
                .fetch_sub(1, Ordering::Release);
        }
    }

    /// Returns true if the last connection that a shutdown waited for has ended, and this is not reported yet.
    pub(super) fn must_report_settled(&self) -> bool {
        self.stage == ShutdownStage::Answering && self.cx.draining == 0 && !self.is_settled
    }

    /// Continues the shutdown after its first stage.
    #[cold]
    pub(super) fn follow_shutdown(&mut self) {
        if self.stage == ShutdownStage::Stopping {
            self.stage = ShutdownStage::Answering;
            let drain = self.limit_drain();
            self.cx.limits.set_drain(drain);
            self.stop_udp_sockets();
            self.next_to_close = Some(0);
        }
        self.close_unawaited(CLOSE_BUDGET);
        let waits = self.next_to_close.is_some() || self.cx.draining > 0;
        if self.stage == ShutdownStage::Answering && !waits {
            self.report_settled();
        }
    }

    /// Reports once that no answer is owed or awaited here since the shutdown began. If that is true for all
    /// reactors, no answer needs another outbound connection.
    fn report_settled(&mut self) {
        if !std::mem::replace(&mut self.is_settled, true) && self.cx.engine.report_settled() {
            self.drain_rest();
        }
    }

    /// Begins the third stage: all connections on which nobody waits drain, including those made meanwhile.
    fn drain_rest(&mut self) {
        if self.stage == ShutdownStage::Answering {
            self.stage = ShutdownStage::Draining;
            self.cx.refuses_connects = true;
            self.stop_dials();
            self.next_to_close = Some(0);
        }
    }

    /// Keeps connections on which somebody waits for an answer, and begins to close the others. At most `budget`
    /// connections a turn, because each may have output.
    fn close_unawaited(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(next) = self
                .next_to_close
                .filter(|next| *next < self.connections.end())
            else {
                self.next_to_close = None;
                return;
            };
            self.next_to_close = Some(next + 1);
            let closes_attempts = self.stage == ShutdownStage::Draining;
            self.with_slot(next, |served, _| served.close_unawaited(closes_attempts));
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        }
    }

    /// The last stage: connections that still drain are reset, and those that await the peer's FIN are closed.
    pub(super) fn force_all(&mut self) {
        // If an `on_close` panics below, this timer continues at once. Closed connections stay closed.
        let again = self.cx.wheel.insert(self.cx.time.tick(), Timer::DrainOver);
        self.report_settled();
        self.drain_rest();
        self.close_unawaited(usize::MAX);
        for slot in 0..self.connections.end() {
            self.with_slot(slot, |served, _| served.force());
        }
        self.cx.wheel.cancel(again);
    }

    /// Completes the requests that came too late.
    pub(crate) fn end(&mut self) {
        let late = self.cx.engine.peer(self.cx.reactor).mailbox.close();
        let commands = std::mem::take(&mut self.commands);
        for command in commands.into_iter().chain(late) {
            match command {
                Command::Adopt(arrival) => {
                    self.cx.metrics.refused.add(1);
                    let counted_as = arrival.counted_as();
                    self.cx.release_stream(counted_as, arrival.origin);
                }
                Command::WriteThen(_, _, _, done) => {
                    self.cx.complete(done, Err(WriteError::Closed));
                }
                Command::Connect(id, connect, to) => self.dial(id, *connect, to),
                Command::OnConn(_, task) => self.guarded("dropped request", |_| task.on_closed()),
                // The values that a request has captured belong to the application, and so does their drop.
                other => self.guarded("dropped request", |_| drop(other)),
            }
        }
        while !self.dials.are_reported() || !self.cx.lists.dials.is_empty() {
            self.guarded("callback", Self::follow_dials);
        }
        // Those that the last callbacks have deferred. What they defer themselves is dropped.
        for task in std::mem::take(&mut self.cx.deferred) {
            self.guarded("deferred task", |this| {
                task(
                    &mut this.handler,
                    &mut Reactor::new(&this.connections, &mut this.cx),
                );
            });
        }
        let deferred = std::mem::take(&mut self.cx.deferred);
        self.guarded("deferred task", |_| drop(deferred));
    }

    /// Runs code of the application where no other guard contains its panic.
    fn guarded(&mut self, what: &str, run: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(self))) {
            self.cx.report_panic(panic, what);
        }
    }
}

impl<H: EventHandler> Served<'_, H> {
    /// Begins to close a connection because of a shutdown, unless somebody waits for an answer on it.
    fn close_unawaited(&mut self, closes_attempts: bool) {
        let Slot { link, codec, .. } = &mut *self.slot;
        if is_awaited(&link.state, codec) {
            self.cx.begin_drain(&mut link.state, codec);
        } else if closes_attempts || !is_connecting(&link.state) {
            self.begin_close(CloseReason::Shutdown);
            self.shorten_fin_wait();
        }
    }

    /// Ends a connection because the server's drain deadline has expired.
    fn force(&mut self) {
        if is_owed(&self.slot.link.state, &self.slot.codec) && self.slot.link.state.is_open() {
            // A peer that has waited so long gets an error answer, if the kernel takes it at once.
            let reason = CloseReason::Shutdown;
            self.begin_close(reason);
            self.flush();
        }
        let reset = !self.slot.link.state.awaits_fin();
        self.close(reset);
    }
}

/// Returns true if this side is making the connection.
fn is_connecting(state: &ConnState) -> bool {
    state.is_opening() && state.never_opened() && matches!(state.origin(), Origin::Connected { .. })
}
