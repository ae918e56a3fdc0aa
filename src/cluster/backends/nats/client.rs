use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::link::{Connection, Link};
use super::wire::{self, NatsCodec, NatsOperation};
use crate::addr::Endpoint;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::ConnInfo;
use crate::engine::connect::{Backoff, Connect, FailedConnect, Reconnect};
use crate::engine::handler::{Action, Conn, EventHandler, Handle, HandleError, Reactor};
use crate::engine::slots::ConnId;
use crate::tls::TlsClient;

/// The handler of the connection. There is one connection at a time.
pub(super) struct NatsClient {
    settings: Settings,
    link: Arc<Link>,
    /// The server that is asked now.
    at: usize,
    backoff: Backoff,
    conn: Option<ConnId>,
    opened: Instant,
    heard: Instant,
    has_greeted: bool,
    /// The server has taken the introduction.
    is_ready: bool,
    /// The meanings of the pongs that are to come.
    awaited: VecDeque<Pong>,
    /// The refusals of the server since its last pong.
    refusals: Vec<String>,
    /// The reason why this side closes the connection.
    fault: Option<String>,
    is_ending: bool,
}

pub(super) struct Settings {
    /// Each with its host, for its certificate.
    pub(super) servers: Vec<(Endpoint, String)>,
    pub(super) timeout: Duration,
    pub(super) credentials: Credentials,
    pub(super) tls: Option<TlsClient>,
    /// True if a server that does not ask for TLS must speak it too.
    pub(super) requires_tls: bool,
}

/// The user, as the introduction of the client names it.
#[derive(Clone, Default, Serialize)]
pub(super) struct Credentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(rename = "pass", skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
    #[serde(rename = "auth_token", skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
}

#[derive(Serialize)]
struct Hello<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'a str,
    version: &'a str,
    protocol: u8,
    echo: bool,
    #[serde(flatten)]
    credentials: &'a Credentials,
}

/// The introduction of a server.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    max_payload: Option<usize>,
}

enum Pong {
    /// The server has taken the introduction.
    Ready,
    /// The server lives.
    Alive,
    /// The server has done what it was asked about these subscriptions.
    Subscribed(Vec<u64>),
}

/// A silent server is asked for a sign of life after this time, and given up after twice the time.
const QUIET: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
const PING: u64 = 1;
/// Refusals beyond these are only logged.
const MAX_REFUSALS: usize = 1024;
/// The bytes of a refusal that are kept: a subject and the reason.
const MAX_REFUSAL: usize = 1024;

fn policy() -> Reconnect {
    Reconnect::new(FIRST_DELAY, LONGEST_DELAY)
}

impl NatsClient {
    pub(super) fn new(settings: Settings, link: Arc<Link>) -> Self {
        let now = Instant::now();
        Self {
            settings,
            link,
            at: 0,
            backoff: Backoff::default(),
            conn: None,
            opened: now,
            heard: now,
            has_greeted: false,
            is_ready: false,
            awaited: VecDeque::new(),
            refusals: Vec::new(),
            fault: None,
            is_ending: false,
        }
    }

    /// Subscribes at the server, which confirms it.
    pub(super) fn subscribe(&mut self, conn: &mut Conn<'_, Self>, sids: Vec<u64>) {
        let mut commands = self.link.subscribe_commands(&sids);
        commands.extend_from_slice(b"PING\r\n");
        match conn.write(&commands) {
            Ok(()) => self.awaited.push_back(Pong::Subscribed(sids)),
            Err(error) => self.give_up(conn, error.to_string()),
        }
    }

    /// Closes the connection, with all output sent.
    pub(super) fn end(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.is_ending = true;
        if let Some(conn) = self.conn {
            reactor.with(conn, |conn, ()| conn.close());
        }
    }

    fn connect(&mut self, reactor: &mut Reactor<'_, Self>) {
        if self.is_ending {
            return;
        }
        let (server, _) = &self.settings.servers[self.at];
        let connect = Connect::to(server.clone())
            .timeout(self.settings.timeout)
            .fresh_lookup(true);
        if let Err(error) = reactor.connect(connect) {
            self.on_failed(error.to_string(), reactor);
        }
    }

    fn on_failed(&mut self, problem: String, reactor: &mut Reactor<'_, Self>) {
        let delay = self.backoff.after_failure(&policy());
        self.connect_after(delay, problem, reactor);
    }

    /// Dials the next server.
    fn connect_after(&mut self, delay: Duration, problem: String, reactor: &mut Reactor<'_, Self>) {
        if self.is_ending {
            return;
        }
        let (server, _) = &self.settings.servers[self.at];
        self.link.set_lost(format!("{server}: {problem}"));
        self.at = (self.at + 1) % self.settings.servers.len();
        reactor.schedule(delay, Self::connect);
    }

    fn on_info(&mut self, conn: &mut Conn<'_, Self>, json: &[u8]) {
        let info = match serde_json::from_slice::<Info>(json) {
            Ok(info) => info,
            Err(error) => {
                return self.give_up(conn, format!("it introduces itself strangely: {error}"));
            }
        };
        if let Some(bytes) = info.max_payload {
            self.link.set_max_payload(bytes);
        }
        // Later ones tell of other servers.
        if std::mem::replace(&mut self.has_greeted, true) {
            return;
        }
        if !info.tls_required && !self.settings.requires_tls {
            return self.introduce(conn, false);
        }
        let Some(tls) = &self.settings.tls else {
            return self.give_up(conn, "it wants TLS; set the trusted authorities".to_owned());
        };
        let (_, host) = &self.settings.servers[self.at];
        if let Err(error) = conn.start_tls_client(tls, host) {
            self.give_up(conn, error.to_string());
        }
    }

    fn introduce(&mut self, conn: &mut Conn<'_, Self>, is_secure: bool) {
        let hello = Hello {
            verbose: false,
            pedantic: false,
            tls_required: is_secure,
            name: "",
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: true,
            credentials: &self.settings.credentials,
        };
        let json = match serde_json::to_string(&hello) {
            Ok(json) => json,
            Err(error) => return self.give_up(conn, error.to_string()),
        };
        self.awaited.push_back(Pong::Ready);
        if let Err(error) = conn.write(format!("CONNECT {json}\r\nPING\r\n").as_bytes()) {
            self.give_up(conn, error.to_string());
        }
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Self>) {
        match self.awaited.pop_front() {
            Some(Pong::Ready) => {
                self.is_ready = true;
                let sids = self.link.set_ready(Arc::new(conn.handle()));
                if !sids.is_empty() {
                    self.subscribe(conn, sids);
                }
            }
            Some(Pong::Subscribed(sids)) => {
                self.link.confirm(&sids, &self.refusals);
            }
            Some(Pong::Alive) => self.link.heard(),
            None => self.give_up(conn, "it answers what was not asked".to_owned()),
        }
        self.refusals.clear();
    }

    fn on_error(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_REFUSAL)]);
        let text = text.trim_matches('\'').to_owned();
        log::warn!(target: "epicycle::cluster", "NATS: {text}");
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push(text);
        }
    }

    fn give_up(&mut self, conn: &mut Conn<'_, Self>, problem: String) {
        self.fault = Some(problem);
        conn.abort();
    }
}

impl Connection for Handle<NatsClient> {
    fn write(&self, command: Vec<u8>, done: Box<dyn FnOnce() + Send>) -> Result<(), HandleError> {
        self.write_flushed(command, move |_| done())
    }

    fn subscribe(&self, sid: u64) -> Result<(), HandleError> {
        self.run(move |client, conn, ()| client.subscribe(conn, vec![sid]))
    }
}

impl EventHandler for NatsClient {
    type Codec = NatsCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> NatsCodec {
        NatsCodec::default()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.connect(reactor);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if self.is_ending {
            return None;
        }
        self.conn = Some(conn.id());
        self.opened = conn.now();
        self.heard = self.opened;
        self.has_greeted = false;
        self.is_ready = false;
        self.refusals.clear();
        self.fault = None;
        self.awaited.clear();
        conn.set_interval(QUIET, PING);
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        operation: NatsOperation<'_>,
    ) -> Action {
        self.heard = conn.now();
        match operation {
            NatsOperation::Info(json) => self.on_info(conn, json),
            NatsOperation::Message { sid, payload } => {
                if !self.link.deliver(sid, payload) {
                    return conn.write(&wire::unsubscribe(sid)).into();
                }
            }
            NatsOperation::Ping => return conn.write(b"PONG\r\n").into(),
            NatsOperation::Pong => self.on_pong(conn),
            NatsOperation::Error(text) => self.on_error(text),
        }
        Action::Continue
    }

    fn on_tls(&mut self, conn: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        self.introduce(conn, true);
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        if conn.now().saturating_duration_since(self.heard) >= 2 * QUIET {
            self.give_up(conn, "it is silent".to_owned());
        } else if self.is_ready && self.awaited.is_empty() {
            self.awaited.push_back(Pong::Alive);
            return conn.write(b"PING\r\n").into();
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        _: &Closed,
        (): (),
        reason: CloseReason,
    ) {
        self.conn = None;
        let fault = self.fault.take().or_else(|| self.refusals.pop());
        let problem = fault.unwrap_or_else(|| reason.to_string());
        let lasted = self.opened.elapsed();
        let delay = self.backoff.after_connection(lasted, &policy());
        self.connect_after(delay, problem, reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.on_failed(failed.error.to_string(), reactor);
    }
}
