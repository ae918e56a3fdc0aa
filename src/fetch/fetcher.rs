//! The handler of a client: it matches requests with connections.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::Signal;
use super::error::FetchError;
use super::pool::{Pool, PoolLimits, Step, Ticket};
use super::reply::{Next, Reply};
use super::target::{Destination, Target};
use crate::codec::FrameError;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::conn::write::WriteError;
use crate::engine::connect::{Connect, ConnectError, FailedConnect};
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::engine::slots::ConnId;
use crate::http::client::{ClientRequest, ClientResponse, ResponsePart, StreamCodec};
use crate::http::{Chunk, HeaderBlock, Limits, MessageError, SendError};
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// The handler of a [`Client`](super::Client)'s engine, with its pool of connections.
pub struct Fetcher {
    options: Arc<Options>,
    /// A waiter is the number of an exchange.
    pool: Pool<Destination, ConnId, u64>,
    exchanges: HashMap<u64, Exchange>,
    /// The dials under way, by token.
    dials: HashMap<u64, Destination>,
    last_dial: u64,
    /// The deadlines of exchanges.
    deadlines: BTreeSet<(Instant, u64)>,
    /// The alarms that are set.
    alarms: BTreeSet<Instant>,
}

/// The options of a client.
pub(super) struct Options {
    /// The headers of requests that have none of the same name.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_body: u64,
    /// A profile, whose address is replaced.
    pub(super) connect: Connect,
    pub(super) pool: PoolLimits,
    pub(super) limits: Limits,
    pub(super) response_timeout: Option<Duration>,
    /// Filled by the first request that needs it.
    #[cfg(feature = "tls")]
    pub(super) tls: OnceLock<TlsClient>,
}

/// A request and the receiver of its response.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) method: String,
    pub(super) target: Target,
    pub(super) headers: HeaderBlock,
    pub(super) body: Option<Bytes>,
    pub(super) timeout: Option<Duration>,
    pub(super) reply: Reply,
}

#[derive(Debug)]
struct Exchange {
    job: Job,
    place: Place,
    deadline: Option<Instant>,
    /// The first byte of the response, or of an interim one, has arrived.
    has_begun: bool,
    has_retried: bool,
    /// The number of connections that ended before the request was written to them.
    in_vain: u32,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// It has asked the pool for nothing yet.
    Nowhere,
    Waiting(Ticket),
    On {
        connection: ConnId,
        reused: bool,
    },
}

/// A connection's state.
#[derive(Debug, Default)]
pub struct Session {
    exchange: Option<u64>,
    /// The rest of the request's body.
    upload: Option<Bytes>,
}

/// Larger bodies are written in pieces of this size, as the server takes them.
const PIECE: usize = 64 << 10;

/// The number of connections that may end before the request was written to them.
const MAX_IN_VAIN: u32 = 3;

impl Job {
    /// Returns true if the request may be carried out twice (RFC 9110, section 9.2.2).
    fn is_idempotent(&self) -> bool {
        matches!(
            &*self.method,
            "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
        )
    }
}

impl Fetcher {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self {
            pool: Pool::new(options.pool.clone()),
            options,
            exchanges: HashMap::new(),
            dials: HashMap::new(),
            last_dial: 0,
            deadlines: BTreeSet::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// Returns the number of open connections, with the idle ones.
    pub fn connections(&self) -> usize {
        self.pool.connections()
    }

    /// Returns the number of idle connections.
    pub fn idle(&self) -> usize {
        self.pool.idle()
    }

    /// Returns the number of requests whose response is not complete.
    pub fn under_way(&self) -> usize {
        self.exchanges.len()
    }

    pub(super) fn submit(&mut self, id: u64, job: Job, reactor: &mut Reactor<'_, Self>) {
        let deadline = job
            .timeout
            .and_then(|timeout| reactor.now().checked_add(timeout));
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let exchange = Exchange {
            job,
            place: Place::Nowhere,
            deadline,
            has_begun: false,
            has_retried: false,
            in_vain: 0,
        };
        self.exchanges.insert(id, exchange);
        self.ask(id, false);
        self.run_steps(reactor);
    }

    /// Carries out what the reader of a body asks for.
    pub(super) fn on_signal(&mut self, id: u64, signal: Signal, reactor: &mut Reactor<'_, Self>) {
        match (
            signal,
            self.exchanges.get(&id).map(|exchange| exchange.place),
        ) {
            (Signal::Resume, Some(Place::On { connection, .. })) => {
                reactor.with(connection, |conn, _| conn.resume_reads());
            }
            (Signal::Resume, _) => {}
            (Signal::Abandon, _) => self.give_up(id, FetchError::Stopped, reactor),
        }
        self.run_steps(reactor);
    }

    /// Asks the pool for a connection.
    fn ask(&mut self, id: u64, fresh: bool) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        let to = exchange.job.target.destination.clone();
        // The exchange has a deadline of its own, which does not end with the wait.
        let asked = match fresh {
            true => self.pool.request_fresh(to, id, None),
            false => self.pool.request(to, id, None),
        };
        match asked {
            Ok(ticket) => exchange.place = Place::Waiting(ticket),
            Err(id) => self.fail(id, FetchError::Busy),
        }
    }

    fn run_steps(&mut self, reactor: &mut Reactor<'_, Self>) {
        while let Some(step) = self.pool.next_step() {
            match step {
                Step::Dial(to) => self.dial(to, reactor),
                Step::Serve {
                    waiter,
                    connection,
                    reused,
                } => self.serve(waiter, connection, reused, reactor),
                Step::Close(connection) => {
                    // One that is no longer open has its `on_close` ahead.
                    reactor.with(connection, |conn, _| conn.close());
                }
                Step::TimedOut(id) => self.fail(id, FetchError::Busy),
            }
        }
        self.set_alarm(reactor);
    }

    fn dial(&mut self, to: Destination, reactor: &mut Reactor<'_, Self>) {
        self.last_dial += 1;
        let token = self.last_dial;
        let connect = self.options.connect.at(to.endpoint()).token(token);
        #[cfg(feature = "tls")]
        let connect = match self.options.tls.get() {
            Some(tls) if to.is_tls => connect.tls(tls),
            _ => connect,
        };
        self.dials.insert(token, to);
        if let Err(error) = reactor.connect(connect) {
            self.on_dial_failed(token, error);
        }
    }

    fn on_dial_failed(&mut self, token: u64, error: ConnectError) {
        let Some(to) = self.dials.remove(&token) else {
            return;
        };
        if let Some(id) = self.pool.failed(&to) {
            let error = match error {
                ConnectError::Stopped => FetchError::Stopped,
                ConnectError::MailboxFull => FetchError::Busy,
                error => FetchError::Connect {
                    to: to.to_string(),
                    error,
                },
            };
            self.fail(id, error);
        }
    }

    /// Sends a request on a connection.
    fn serve(
        &mut self,
        id: u64,
        connection: ConnId,
        reused: bool,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return self.pool.release(connection, reactor.now());
        };
        exchange.place = Place::On { connection, reused };
        let sent = reactor.with(connection, |conn, session| {
            let sent = begin(conn, session, &exchange.job);
            match &sent {
                Ok(()) => session.exchange = Some(id),
                Err(error) if !is_requests_fault(error) => conn.abort(),
                Err(_) => {}
            }
            sent
        });
        match sent {
            Some(Ok(())) => {}
            Some(Err(error)) if is_requests_fault(&error) => {
                self.pool.release(connection, reactor.now());
                self.fail(id, FetchError::Request(Box::new(error)));
            }
            // It has ended, and nothing has been sent.
            _ => {
                exchange.in_vain += 1;
                match exchange.in_vain < MAX_IN_VAIN {
                    true => self.ask(id, reused),
                    false => self.fail(id, FetchError::NoResponse(CloseReason::Peer)),
                }
            }
        }
    }

    /// Decides what becomes of a request whose connection has ended.
    fn on_ended(&mut self, id: u64, received: bool, reason: CloseReason) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        let was_reused = matches!(exchange.place, Place::On { reused: true, .. });
        let has_begun = exchange.has_begun || received;
        let is_peers_end = matches!(
            reason,
            CloseReason::Peer | CloseReason::Reset(_) | CloseReason::Io(_) | CloseReason::Truncated
        );
        let is_stale = was_reused && is_peers_end && !has_begun;
        if is_stale && exchange.job.is_idempotent() && !exchange.has_retried {
            exchange.has_retried = true;
            return self.ask(id, true);
        }
        self.fail(id, FetchError::of(reason, has_begun));
    }

    /// Ends an exchange and its connection.
    fn give_up(&mut self, id: u64, error: FetchError, reactor: &mut Reactor<'_, Self>) {
        match self.exchanges.get(&id).map(|exchange| exchange.place) {
            Some(Place::Waiting(ticket)) => drop(self.pool.cancel(ticket)),
            Some(Place::On { connection, .. }) => {
                reactor.with(connection, |conn, session| {
                    session.exchange = None;
                    conn.abort();
                });
            }
            Some(Place::Nowhere) | None => {}
        }
        self.fail(id, error);
    }

    fn fail(&mut self, id: u64, error: FetchError) {
        if let Some(exchange) = self.remove(id) {
            exchange.job.reply.fail(error);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        if let Some(deadline) = exchange.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(exchange)
    }

    /// Sets an alarm for what is due first, unless an earlier one is set.
    fn set_alarm(&mut self, reactor: &mut Reactor<'_, Self>) {
        let exchange = self.deadlines.first().map(|(deadline, _)| *deadline);
        let pool = self.pool.next_deadline();
        let Some(due) = exchange.into_iter().chain(pool).min() else {
            return;
        };
        if self.alarms.first().is_none_or(|alarm| *alarm > due) {
            self.alarms.insert(due);
            let delay = due.saturating_duration_since(reactor.now());
            reactor.schedule(delay, move |fetcher, reactor| {
                fetcher.on_alarm(due, reactor);
            });
        }
    }

    fn on_alarm(&mut self, alarm: Instant, reactor: &mut Reactor<'_, Self>) {
        self.alarms.remove(&alarm);
        let now = reactor.now();
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.remove(&(deadline, id));
            let timeout = self.exchanges.get(&id).and_then(|one| one.job.timeout);
            let timeout = timeout.unwrap_or_default();
            self.give_up(id, FetchError::Deadline { timeout }, reactor);
        }
        self.pool.expire(now);
        self.run_steps(reactor);
    }

    fn on_head(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        response: ClientResponse<'_>,
    ) {
        let Some((id, exchange)) = self.exchange(session) else {
            return conn.abort();
        };
        exchange.has_begun = true;
        let next = match response.to_http() {
            Some(head) => {
                let length = response.content_length();
                let length = length.filter(|_| response.has_body());
                exchange.job.reply.begin(head, length)
            }
            None => Next::Refuse(refused_header()),
        };
        self.go_on(id, next, conn, session);
    }

    fn on_body(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, bytes: &[u8]) {
        let Some((id, exchange)) = self.exchange(session) else {
            return conn.abort();
        };
        let next = exchange.job.reply.body(bytes);
        self.go_on(id, next, conn, session);
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        let exchange = session.exchange.take().and_then(|id| self.remove(id));
        // The server has answered before the end of the request. It does not want the rest.
        session.upload = None;
        let is_reusable = conn.codec().is_reusable();
        if is_reusable {
            self.pool.release(conn.id(), conn.now());
            conn.defer(Self::run_steps);
        }
        if let Some(exchange) = exchange {
            exchange.job.reply.end();
        }
        match is_reusable {
            true => Action::Continue,
            false => Action::Close,
        }
    }

    fn exchange(&mut self, session: &Session) -> Option<(u64, &mut Exchange)> {
        let id = session.exchange?;
        Some((id, self.exchanges.get_mut(&id)?))
    }

    fn go_on(&mut self, id: u64, next: Next, conn: &mut Conn<'_, Self>, session: &mut Session) {
        match next {
            Next::Continue => {}
            Next::Pause => conn.pause_reads(),
            Next::Refuse(error) => {
                session.exchange = None;
                // The rest of the response may be long.
                conn.abort();
                self.fail(id, error);
            }
        }
    }
}

fn refused_header() -> FetchError {
    let what = "a header that the crate `http` does not accept";
    FetchError::Response(Box::new(MessageError::Malformed { what }))
}

/// Writes a request, or its beginning.
fn begin(conn: &mut Conn<'_, Fetcher>, session: &mut Session, job: &Job) -> Result<(), WriteError> {
    let Target { host, path, .. } = &job.target;
    let request = ClientRequest::new(&job.method, host, path).block(&job.headers);
    match &job.body {
        None => conn.send(request),
        Some(body) if body.len() <= PIECE => conn.send(request.shared_body(body.clone())),
        Some(body) => {
            conn.send(request.sized(body.len() as u64))?;
            session.upload = Some(body.clone());
            upload(conn, session)
        }
    }
}

/// Writes as much of the body as there is room for.
fn upload(conn: &mut Conn<'_, Fetcher>, session: &mut Session) -> Result<(), WriteError> {
    while let Some(rest) = &mut session.upload
        && conn.has_room()
    {
        let piece = rest.split_to(rest.len().min(PIECE));
        if rest.is_empty() {
            session.upload = None;
        }
        conn.send(Chunk(&piece))?;
    }
    Ok(())
}

/// Returns true if the request could be sent on no connection.
fn is_requests_fault(error: &WriteError) -> bool {
    match error {
        WriteError::Frame(FrameError::Other(cause)) => {
            !matches!(cause.downcast_ref(), Some(SendError::Last))
        }
        WriteError::Closed => false,
        _ => true,
    }
}

impl EventHandler for Fetcher {
    type Codec = StreamCodec;
    type Session = Session;

    fn codec(&mut self, _info: &ConnInfo<'_>) -> StreamCodec {
        let codec = StreamCodec::new(self.options.limits);
        match self.options.response_timeout {
            Some(timeout) => codec.response_timeout(timeout),
            None => codec,
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let Origin::Connected { token } = conn.origin() else {
            return None;
        };
        let to = self.dials.remove(&token)?;
        self.pool.opened(&to, conn.id(), conn.now());
        conn.defer(Self::run_steps);
        Some(Session::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        part: ResponsePart<'_>,
    ) -> Action {
        match part {
            ResponsePart::Interim(_) => {
                if let Some((_, exchange)) = self.exchange(session) {
                    exchange.has_begun = true;
                }
            }
            ResponsePart::Head(response) => self.on_head(conn, session, response),
            ResponsePart::Body(bytes) => self.on_body(conn, session, bytes),
            ResponsePart::End(_) => return self.on_end(conn, session),
            // No request asks for another protocol.
            ResponsePart::Upgraded(_) => conn.abort(),
        }
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        upload(conn, session).into()
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.pool.closed(info.id);
        if let Some(id) = session.exchange {
            self.on_ended(id, info.undecoded > 0, reason);
        }
        self.run_steps(reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.on_dial_failed(failed.token, failed.error);
        self.run_steps(reactor);
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("connections", &self.connections())
            .field("idle", &self.idle())
            .field("under_way", &self.under_way())
            .finish_non_exhaustive()
    }
}
