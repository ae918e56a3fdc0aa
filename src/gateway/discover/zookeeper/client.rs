//! The connection to a server of ZooKeeper: which one, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::watcher::{Frames, NoList, Told, Watcher};
use crate::addr::Endpoint;
use crate::codec::LengthField;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::ConnInfo;
use crate::engine::connect::{Connect, FailedConnect};
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::settings::NodeSettings;

/// The time between a change and the read of it, in which further changes come together.
const GATHER: Duration = Duration::from_millis(50);

/// The time after which a node that could not be read is read again.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// The wait before another server is asked. Waits are shortened by up to a half at random.
const NEXT: Duration = Duration::from_millis(100);

/// The waits after each server was tried once: the first, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Timers of the connection.
const PING: u64 = 1;
const READ: u64 = 2;

/// Receives lists, and reasons why there is none.
type Tell = Arc<dyn Fn(Result<Vec<NodeSettings>, String>) + Send + Sync>;

/// The handler of the connection. There is one connection at a time.
pub(super) struct ZooKeeperClient {
    servers: Vec<Endpoint>,
    /// The server that is asked now.
    at: usize,
    /// The servers that failed since the last session.
    failed: usize,
    /// The wait after the next round.
    wait: Duration,
    watcher: Watcher,
    tell: Tell,
    timeout: Duration,
    conn: Option<ConnId>,
    is_read_due: bool,
    heard: Instant,
    /// The reason why this side closes the connection.
    fault: Option<String>,
    last_skipped: Option<String>,
    is_ending: bool,
}

impl ZooKeeperClient {
    pub(super) fn new(
        servers: Vec<Endpoint>,
        watcher: Watcher,
        timeout: Duration,
        tell: Tell,
    ) -> Self {
        Self {
            // Not all clients begin with the same server.
            at: fastrand::usize(..servers.len()),
            servers,
            failed: 0,
            wait: WAITS.0,
            watcher,
            tell,
            timeout,
            conn: None,
            is_read_due: false,
            heard: Instant::now(),
            fault: None,
            last_skipped: None,
            is_ending: false,
        }
    }

    /// Ends the session and the connection.
    pub(super) fn end(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.is_ending = true;
        let frame = self.watcher.close();
        if let Some(conn) = self.conn {
            reactor.with(conn, |conn, ()| {
                if let Some(frame) = frame {
                    let _ = conn.send(&frame[..]);
                }
                conn.close();
            });
        }
    }

    fn connect(&mut self, reactor: &mut Reactor<'_, Self>) {
        if self.is_ending {
            return;
        }
        let Some(server) = self.servers.get(self.at) else {
            return;
        };
        let timeout = self.timeout.min(Duration::from_secs(10));
        let connect = Connect::to(server.clone())
            .timeout(timeout)
            .fresh_lookup(true);
        if let Err(error) = reactor.connect(connect) {
            self.on_failed(&error.to_string(), reactor);
        }
    }

    /// Goes to the next server, after a longer wait if all of them have failed.
    fn on_failed(&mut self, why: &str, reactor: &mut Reactor<'_, Self>) {
        if self.is_ending {
            return;
        }
        if let Some(server) = self.servers.get(self.at) {
            log::debug!(target: "epicycle::gateway::pool", "ZooKeeper at {server}: {why}");
        }
        self.at = (self.at + 1) % self.servers.len();
        self.failed += 1;
        let mut wait = NEXT;
        if self.failed.is_multiple_of(self.servers.len()) {
            let all: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
            (self.tell)(Err(format!(
                "no server of ZooKeeper can be used ({}); the last one: {why}",
                all.join(", ")
            )));
            wait = self.wait;
            self.wait = (2 * self.wait).min(WAITS.1);
        }
        let wait = wait.mul_f64(1.0 - fastrand::f64() / 2.0);
        reactor.schedule(wait, Self::connect);
    }

    fn on_told(&mut self, conn: &mut Conn<'_, Self>, told: Told) {
        match told {
            Told::Session { timeout, is_new } => {
                let which = if is_new {
                    "a new session"
                } else {
                    "the session goes on"
                };
                log::debug!(target: "epicycle::gateway::pool", "ZooKeeper at {}: {which}, timeout {timeout} ms", conn.peer_addr());
                self.timeout =
                    Duration::from_millis(u64::try_from(timeout).unwrap_or(1)).max(MIN_TIMEOUT);
                self.failed = 0;
                conn.set_interval(self.timeout / 3, PING);
            }
            Told::Expired => {
                log::info!(target: "epicycle::gateway::pool", "ZooKeeper at {}: the session has expired, and another one begins", conn.peer_addr());
                // Nothing is wrong with this server.
                self.failed = 0;
                self.fault = Some(EXPIRED.to_owned());
                conn.abort();
            }
            Told::List {
                nodes,
                skipped,
                first_skipped,
            } => {
                self.wait = WAITS.0;
                if first_skipped.is_some() && first_skipped != self.last_skipped {
                    let first = first_skipped.as_deref().unwrap_or_default();
                    log::warn!(target: "epicycle::gateway::pool", "ZooKeeper at {}: {skipped} of the children name no node, such as {first}", conn.peer_addr());
                }
                self.last_skipped = first_skipped;
                (self.tell)(Ok(nodes));
            }
            Told::NoList(why) => {
                self.wait = WAITS.0;
                // A node that does not exist is watched.
                if !matches!(why, NoList::NoNode(_)) {
                    self.watcher.want_read();
                    self.read_after(READ_AGAIN, conn);
                }
                (self.tell)(Err(why.to_string()));
            }
        }
    }

    fn read_after(&mut self, time: Duration, conn: &mut Conn<'_, Self>) {
        if !self.is_read_due {
            self.is_read_due = true;
            conn.set_timer(time, READ);
        }
    }

    fn send(&mut self, conn: &mut Conn<'_, Self>, frames: Frames) -> Action {
        for frame in frames {
            if let Err(error) = conn.send(&frame[..]) {
                return self.give_up(conn, error.to_string());
            }
        }
        Action::Continue
    }

    fn give_up(&mut self, conn: &mut Conn<'_, Self>, why: String) -> Action {
        self.fault = Some(why);
        conn.abort();
        Action::Continue
    }
}

/// The shortest timeout of a session that is believed.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// The reason for which a connection closes whose session has expired.
const EXPIRED: &str = "the session has expired";

impl EventHandler for ZooKeeperClient {
    type Codec = LengthField;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> LengthField {
        LengthField::default()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.connect(reactor);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if self.is_ending {
            return None;
        }
        self.conn = Some(conn.id());
        self.fault = None;
        self.is_read_due = false;
        self.heard = conn.now();
        let hello = self.watcher.begin();
        conn.send(&hello[..]).ok()?;
        // Until the server says another timeout. It notices a server that is silent from the beginning as well.
        conn.set_timer(2 * self.timeout / 3, PING);
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        self.heard = conn.now();
        let mut out = Frames::new();
        match self.watcher.on_frame(frame, &mut out) {
            Ok(None) => {}
            Ok(Some(told)) => self.on_told(conn, told),
            Err(malformed) => return self.give_up(conn, malformed.to_string()),
        }
        if self.watcher.wants_read() {
            self.read_after(GATHER, conn);
        }
        self.send(conn, out)
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), token: u64) -> Action {
        let mut out = Frames::new();
        match token {
            READ => {
                self.is_read_due = false;
                if self.watcher.wants_read() {
                    self.watcher.read(&mut out);
                }
            }
            _ => {
                let silent = conn.now().saturating_duration_since(self.heard);
                if silent >= 3 * self.timeout / 5 {
                    return self.give_up(conn, format!("it is silent for {silent:.1?}"));
                }
                out.extend(self.watcher.ping());
            }
        }
        self.send(conn, out)
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        _: &Closed,
        (): (),
        reason: CloseReason,
    ) {
        self.conn = None;
        match self.fault.take() {
            Some(why) if why == EXPIRED => self.connect(reactor),
            Some(why) => self.on_failed(&why, reactor),
            None => self.on_failed(&reason.to_string(), reactor),
        }
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.on_failed(&failed.error.to_string(), reactor);
    }
}
