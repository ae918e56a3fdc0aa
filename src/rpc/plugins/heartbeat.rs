//! Heartbeats, as Teleport's `heartbeat` plugin has them: one side pings a session that is quiet, and the other side closes a
//! session that stays silent.
//!
//! [`Ping`] sends `/heartbeat?hb_=SECONDS` when nothing was written or read for its rate. [`Pong`] answers, learns the rate, and
//! closes a session on which nothing was written or read for twice that time. Whatever is written or read counts as life, so a
//! busy session has no heartbeats. The times are those of the session's reactor.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::rpc::Peer;
//! use epicycle::rpc::plugins::heartbeat::{Ping, Pong};
//!
//! let server = Peer::builder().listen("tcp://127.0.0.1:0").plugin(Pong).start()?;
//!
//! let ping = Ping::by_call(Duration::from_secs(30));
//! let client = Peer::builder().plugin(ping.clone()).start()?;
//! client.dial(&server.local_addrs()[0])?;
//! ping.set_rate(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Error;
use crate::rpc::context::Incoming;
use crate::rpc::plugin::{Hooks, Next, Plugin};
use crate::rpc::reply::local;
use crate::rpc::session::{Health, Session, Shared};
use crate::rpc::wire::{Codec, Raw, Status, code};

const PATH: &str = "/heartbeat";

/// The key of the rate in the query, in whole seconds.
const RATE: &str = "hb_";

/// The shortest rate.
const SHORTEST: Duration = Duration::from_secs(3);

/// Pings the sessions that are quiet, dialled and accepted ones. A ping that fails closes its session, unless a limit on calls
/// was in its way (429). One that gets no answer ends the connection; a session that redials then does so. Sessions over HTTP,
/// which take no pings, have none.
///
/// A ping is a CALL, whose reply must arrive within the rate, or a PUSH, which finds out less. Clones are one plugin, for
/// changes while the peer runs.
#[derive(Clone, Debug)]
pub struct Ping(Arc<Settings>);

struct Settings {
    millis: AtomicU64,
    calls: AtomicBool,
    peers: Mutex<Vec<Weak<Shared>>>,
}

impl Ping {
    /// Pings by CALL. A rate below 3 seconds is an error of the peer's start.
    pub fn by_call(rate: Duration) -> Self {
        Self::new(rate, true)
    }

    /// Pings by PUSH. A rate below 3 seconds is an error of the peer's start.
    pub fn by_push(rate: Duration) -> Self {
        Self::new(rate, false)
    }

    fn new(rate: Duration, calls: bool) -> Self {
        Self(Arc::new(Settings {
            millis: AtomicU64::new(millis(rate)),
            calls: AtomicBool::new(calls),
            peers: Mutex::default(),
        }))
    }

    /// Returns the rate.
    pub fn rate(&self) -> Duration {
        Duration::from_millis(self.0.millis.load(Ordering::Relaxed))
    }

    /// Changes the rate, also that of sessions that are open. A longer rate is told to the other sides by a ping at once, so
    /// that they do not take the session for a silent one.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] if the rate is below 3 seconds. It then stays as it is.
    pub fn set_rate(&self, rate: Duration) -> Result<(), Error> {
        check(rate)?;
        let before = self.0.millis.swap(millis(rate), Ordering::Relaxed);
        let peers: Vec<_> = self
            .0
            .peers
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let sessions = peers.iter().flat_map(|peer| peer.sessions.all());
        for session in sessions {
            if before < millis(rate) {
                self.ping(&session, rate);
            }
            session.set_timer(self.name(), rate);
        }
        Ok(())
    }

    /// Pings by CALL from now on.
    pub fn use_call(&self) {
        self.0.calls.store(true, Ordering::Relaxed);
    }

    /// Pings by PUSH from now on.
    pub fn use_push(&self) {
        self.0.calls.store(false, Ordering::Relaxed);
    }

    fn begin(&self, session: &Session) {
        let peer = Arc::downgrade(session.shared());
        let mut peers = self.0.peers.lock();
        if !peers.iter().any(|known| known.ptr_eq(&peer)) {
            peers.push(peer);
        }
        session.set_timer(self.name(), self.rate());
    }

    fn ping(&self, session: &Session, rate: Duration) {
        // In whole seconds, and not less than the rate.
        let seconds = rate.as_millis().div_ceil(1000);
        let uri = format!("{PATH}?{RATE}={seconds}");
        let (body, pinged) = (Raw::default(), session.clone());
        if self.0.calls.load(Ordering::Relaxed) {
            let ping = session.call::<_, Raw>(uri, &body);
            ping.codec(Codec::JSON).timeout(rate).then(move |pong| {
                if let Err(status) = pong {
                    fail(&pinged, &status);
                }
            });
        } else if let Err(status) = session.prepare_push(uri, &body).codec(Codec::JSON).send() {
            fail(&pinged, &status);
        }
    }
}

/// Closes a session whose ping has failed.
fn fail(session: &Session, status: &Status) {
    if session.health() == Health::Closed {
        return;
    }
    if status.code == code::TOO_MANY_REQUESTS {
        // A limit of either side on calls. It says nothing about the other side, and the next ping tells more.
        log::debug!(target: "epicycle::rpc", "{}: no heartbeat now: {status}", session.remote_addr());
        return;
    }
    log::info!(target: "epicycle::rpc", "{}: closing: the heartbeat failed: {status}", session.remote_addr());
    match status.code {
        // Nobody is there to wait for.
        code::HANDLE_TIMEOUT => session.lose(),
        _ => session.close(),
    }
}

fn millis(rate: Duration) -> u64 {
    rate.as_millis().try_into().unwrap_or(u64::MAX)
}

fn check(rate: Duration) -> Result<(), Error> {
    if rate < SHORTEST {
        return Err(Error::Option {
            name: "heartbeat",
            problem: format!("the rate is {rate:?}; use at least {SHORTEST:?}"),
        });
    }
    Ok(())
}

impl Plugin for Ping {
    fn name(&self) -> &str {
        "heartbeat-ping"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PRE_NEW_PEER | Hooks::POST_DIAL | Hooks::POST_ACCEPT
    }

    fn pre_new_peer(&self) -> Result<(), Error> {
        check(self.rate())
    }

    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        self.begin(session);
        Ok(Next::Go)
    }

    fn post_accept(&self, session: &Session) -> Result<Next, Status> {
        self.begin(session);
        Ok(Next::Go)
    }

    fn on_timer(&self, session: &Session, quiet: Duration) -> Result<Option<Duration>, Status> {
        let rate = self.rate();
        if session.health() != Health::Open || session.only_answers() {
            return Ok(None);
        }
        if quiet < rate {
            return Ok(Some(rate - quiet));
        }
        self.ping(session, rate);
        Ok(Some(rate))
    }
}

/// Answers pings, and closes the sessions that were pinged once and have been silent for twice the rate since.
///
/// The first ping of a session must tell a rate of at least 3 seconds. Otherwise it is answered with 400
/// `Invalid Heartbeat Rate`. A later one may change the rate. A ping over HTTP is answered and has no other effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pong;

impl Pong {
    /// Answers a message if it is a ping.
    fn listen(self, message: &mut Incoming<'_>) -> Result<(), Status> {
        let is_ping = message.message().uri.starts_with(PATH.as_bytes())
            && (message.message().parse_uri()).is_ok_and(|uri| uri.path() == PATH);
        if !is_ping {
            return Ok(());
        }
        let session = message.session();
        let seconds = message
            .query(RATE)
            .and_then(|rate| rate.parse::<u32>().ok());
        let told = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let known = session
            .swap()
            .get::<Known>(self.name())
            .map(|known| known.0);
        match told.filter(|told| *told >= SHORTEST) {
            None if known.is_none() => return Err(Status::new(400, "Invalid Heartbeat Rate")),
            // A connection of HTTP may carry the requests of several clients. None of them ends it for the others.
            Some(rate) if known != Some(rate) && !session.only_answers() => {
                session.swap().set(self.name(), Known(rate));
                session.set_timer(self.name(), 2 * rate);
            }
            _ => {}
        }
        message.answer(&())
    }
}

/// The rate of a session.
struct Known(Duration);

impl Plugin for Pong {
    fn name(&self) -> &str {
        "heartbeat-pong"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER
            | Hooks::POST_READ_PUSH_HEADER
            | Hooks::POST_DIAL
            | Hooks::POST_ACCEPT
    }

    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        // A session that has redialled begins again.
        session.swap().remove(self.name());
        Ok(Next::Go)
    }

    fn post_accept(&self, session: &Session) -> Result<Next, Status> {
        session.swap().remove(self.name());
        Ok(Next::Go)
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        self.listen(call)
    }

    fn post_read_push_header(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        self.listen(push)
    }

    fn on_timer(&self, session: &Session, quiet: Duration) -> Result<Option<Duration>, Status> {
        let Some(rate) = session.swap().get::<Known>(self.name()) else {
            return Ok(None);
        };
        let limit = 2 * rate.0;
        if quiet < limit {
            return Ok(Some(limit - quiet));
        }
        let reason = format!("no heartbeat, and nothing else, for {limit:?}");
        Err(local(code::HANDLE_TIMEOUT, reason))
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("millis", &self.millis)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}
