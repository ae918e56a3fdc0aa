use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::wire;
use crate::cluster::Error;
use crate::cluster::backends::BackendStats;
use crate::cluster::backends::health::Health;
use crate::engine::handler::HandleError;

/// The state that the threads that publish and subscribe share with the reactor of the connection.
pub(super) struct Link {
    /// For errors.
    servers: String,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that wait for the connection.
    queued: Arc<AtomicUsize>,
}

struct State {
    /// The connection, while it can be used.
    connection: Option<Arc<dyn Connection>>,
    /// It has a problem while there is no connection. There is neither while the first one is dialled.
    health: Health,
    max_payload: Option<usize>,
    last_sid: u64,
    subscriptions: HashMap<u64, Subscribed>,
    /// The subscriptions that have ended, but not at the server.
    stale: HashSet<u64>,
}

struct Subscribed {
    subject: String,
    deliver: Deliver,
    /// The server's answer, since the connection was made.
    confirmed: Option<Result<(), String>>,
}

/// The connection, as other threads see it.
pub(super) trait Connection: Send + Sync {
    /// Writes a command. `done` is called when the kernel has it, or the connection is gone.
    fn write(&self, command: Vec<u8>, done: Box<dyn FnOnce() + Send>) -> Result<(), HandleError>;

    /// Subscribes at the server, which confirms it.
    fn subscribe(&self, sid: u64) -> Result<(), HandleError>;
}

/// Gets each payload, on the thread of the connection.
pub(super) type Deliver = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The most bytes that wait for the connection.
const MAX_QUEUED: usize = 16 << 20;

impl Link {
    pub(super) fn new(servers: String, timeout: Duration) -> Self {
        let state = State {
            connection: None,
            health: Health::new("nats"),
            max_payload: None,
            last_sid: 0,
            subscriptions: HashMap::new(),
            stale: HashSet::new(),
        };
        Self {
            servers,
            timeout,
            state: Mutex::new(state),
            changed: Condvar::new(),
            queued: Arc::default(),
        }
    }

    pub(super) fn publish(&self, subject: &str, payload: &[u8]) -> Result<(), Error> {
        let mut state = self.state.lock();
        let connection = self.await_connection(&mut state)?;
        let max = state.max_payload.unwrap_or(usize::MAX);
        drop(state);
        if payload.len() > max {
            return Err(Error::TooLarge {
                what: "message for NATS",
                len: payload.len(),
                max,
            });
        }
        let command = wire::publish(subject, payload);
        let len = command.len();
        if self.queued.fetch_add(len, Ordering::Relaxed) > MAX_QUEUED {
            self.queued.fetch_sub(len, Ordering::Relaxed);
            return Err(Error::Busy {
                what: "queue of NATS",
            });
        }
        let queued = self.queued.clone();
        let done = move || {
            queued.fetch_sub(len, Ordering::Relaxed);
        };
        let written = connection.write(command, Box::new(done));
        written.map_err(|error| {
            self.queued.fetch_sub(len, Ordering::Relaxed);
            lost(error.to_string())
        })
    }

    /// Subscribes, and waits until the server has confirmed it. Returns the number of the subscription.
    pub(super) fn subscribe(&self, subject: &str, deliver: Deliver) -> Result<u64, Error> {
        let mut state = self.state.lock();
        let connection = self.await_connection(&mut state)?;
        state.last_sid += 1;
        let sid = state.last_sid;
        let subscribed = Subscribed {
            subject: subject.to_owned(),
            deliver,
            confirmed: None,
        };
        state.subscriptions.insert(sid, subscribed);
        drop(state);
        let asked = connection.subscribe(sid);
        let confirmed = match asked {
            Ok(()) => self.await_confirmed(sid),
            Err(error) => Err(lost(error.to_string())),
        };
        if confirmed.is_err() {
            self.unsubscribe(sid);
        }
        confirmed.map(|()| sid)
    }

    /// Waits until the server has confirmed a subscription.
    pub(super) fn await_confirmed(&self, sid: u64) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut state = self.state.lock();
        loop {
            let subscribed = state.subscriptions.get(&sid);
            if let Some(confirmed) = subscribed.and_then(|known| known.confirmed.clone()) {
                return confirmed.map_err(lost);
            }
            if let Some(problem) = state.health.problem() {
                return Err(lost(problem.to_owned()));
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(self.late());
            }
        }
    }

    pub(super) fn unsubscribe(&self, sid: u64) {
        let mut state = self.state.lock();
        let had = state.subscriptions.remove(&sid);
        let connection = state.connection.clone();
        drop(state);
        drop(had);
        let Some(connection) = connection else {
            return;
        };
        let written = connection.write(wire::unsubscribe(sid), Box::new(|| {}));
        if let Err(HandleError::MailboxFull) = written {
            // The server hears of it when it sends the next message.
            self.state.lock().stale.insert(sid);
        }
    }

    /// Returns the commands that subscribe.
    pub(super) fn subscribe_commands(&self, sids: &[u64]) -> Vec<u8> {
        let state = self.state.lock();
        let mut commands = String::new();
        for sid in sids {
            if let Some(subscribed) = state.subscriptions.get(sid) {
                commands += &format!("SUB {} {sid}\r\n", subscribed.subject);
            }
        }
        commands.into_bytes()
    }

    /// Passes a message on. Returns false if the server has to be told that the subscription is over.
    pub(super) fn deliver(&self, sid: u64, payload: &[u8]) -> bool {
        let mut state = self.state.lock();
        state.health.answered();
        let Some(subscribed) = state.subscriptions.get(&sid) else {
            return !state.stale.remove(&sid);
        };
        let deliver = subscribed.deliver.clone();
        drop(state);
        deliver(payload);
        true
    }

    /// The connection can be used. Returns the numbers of what is to be subscribed to.
    pub(super) fn set_ready(&self, connection: Arc<dyn Connection>) -> Vec<u64> {
        let mut state = self.state.lock();
        state.health.answered();
        state.connection = Some(connection);
        let mut sids: Vec<_> = state.subscriptions.keys().copied().collect();
        sids.sort_unstable();
        drop(state);
        self.changed.notify_all();
        sids
    }

    pub(super) fn set_lost(&self, problem: String) {
        let mut state = self.state.lock();
        state.health.lost(problem);
        state.connection = None;
        state.stale.clear();
        for subscribed in state.subscriptions.values_mut() {
            subscribed.confirmed = None;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that the server has said something.
    pub(super) fn heard(&self) {
        self.state.lock().health.answered();
    }

    pub(super) fn set_max_payload(&self, bytes: usize) {
        self.state.lock().max_payload = Some(bytes);
    }

    /// The server has answered about subscriptions. A refusal names the subject.
    pub(super) fn confirm(&self, sids: &[u64], refusals: &[String]) {
        let mut state = self.state.lock();
        state.health.answered();
        for sid in sids {
            if let Some(subscribed) = state.subscriptions.get_mut(sid) {
                let subject = format!("\"{}\"", subscribed.subject);
                // One that names no subject may be about each of them.
                let concerns = |refusal: &&String| {
                    !refusal.contains("for Publish")
                        && (refusal.contains(&subject) || !refusal.contains('"'))
                };
                let refusal = refusals.iter().find(concerns);
                subscribed.confirmed = Some(refusal.cloned().map_or(Ok(()), Err));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn stats(&self) -> BackendStats {
        let state = self.state.lock();
        BackendStats {
            queue: self.queued.load(Ordering::Relaxed),
            connections: usize::from(state.connection.is_some()),
            ..state.health.stats()
        }
    }

    fn late(&self) -> Error {
        let (servers, timeout) = (&self.servers, self.timeout);
        lost(format!(
            "{servers}: it has not answered within {timeout:?}; check that it does not hang, and that its port is one of NATS"
        ))
    }

    /// Returns the connection. While the first one is dialled, it is waited for.
    fn await_connection(
        &self,
        state: &mut MutexGuard<'_, State>,
    ) -> Result<Arc<dyn Connection>, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(connection) = &state.connection {
                return Ok(connection.clone());
            }
            if let Some(problem) = state.health.problem() {
                return Err(lost(problem.to_owned()));
            }
            if self.changed.wait_until(state, deadline).timed_out() {
                return Err(self.late());
            }
        }
    }
}

fn lost(problem: String) -> Error {
    Error::backend("nats", problem)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A connection whose mailbox is full as long as it is told so.
    #[derive(Default)]
    struct Crowded(AtomicBool);

    impl Connection for Crowded {
        fn write(&self, _: Vec<u8>, _: Box<dyn FnOnce() + Send>) -> Result<(), HandleError> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(HandleError::MailboxFull),
                false => Ok(()),
            }
        }

        fn subscribe(&self, _: u64) -> Result<(), HandleError> {
            Ok(())
        }
    }

    #[test]
    fn the_server_hears_later_of_an_end_that_did_not_fit_into_the_mailbox() {
        let link = Link::new("nats".to_owned(), Duration::from_secs(60));
        let crowded = Arc::new(Crowded::default());
        link.set_ready(crowded.clone());
        for sid in 1..=2 {
            let subscribed = Subscribed {
                subject: "due:eventbus:login".to_owned(),
                deliver: Arc::new(|_| {}),
                confirmed: Some(Ok(())),
            };
            link.state.lock().subscriptions.insert(sid, subscribed);
        }
        assert!(link.deliver(1, b""));
        crowded.0.store(true, Ordering::Relaxed);
        link.unsubscribe(1);
        crowded.0.store(false, Ordering::Relaxed);
        link.unsubscribe(2);
        assert!(!link.deliver(1, b""), "the server is told now");
        assert!(link.deliver(1, b""), "it was told");
        assert!(link.deliver(2, b""), "it was told at once");
    }
}
