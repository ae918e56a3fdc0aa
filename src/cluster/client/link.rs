use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::ClientEvent;
use super::calls::Calls;
use super::codec::Spoken;
use crate::cluster::Error;
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp;
use crate::cluster::packet::{
    Control, EncodedPacket, GoodbyeReason, Heartbeat, Packet, PacketFrame, PacketOptions,
    ResumeRefusal,
};
use crate::engine::connect::{Backoff, Connect, Reconnect};
use crate::engine::handler::{Conn, ConnTimer, EventHandler, WriteError};
use crate::engine::slots::ConnId;
#[cfg(feature = "kcp")]
use crate::kcp::KcpOptions;

/// A client without its handlers: its connection, and what waits for answers on it.
pub(super) struct Link {
    pub(super) packets: PacketOptions,
    /// Zero if it is off.
    pub(super) heartbeat: Duration,
    pub(super) call_timeout: Duration,
    /// None if a connection that has ended is not made again.
    pub(super) reconnect: Option<Reconnect>,
    /// True if the gate is told that control packets are known.
    pub(super) control: bool,
    /// The goodbye of the gate before it closes the connection.
    pub(super) goodbye: Option<Goodbye>,
    /// The gates. It dials one after the other, until one is there.
    pub(super) gates: Vec<GateAddress>,
    /// The one that is dialled, or connected.
    pub(super) at: usize,
    /// With what to take the user back, after a loss of the connection.
    pub(super) resume_token: Option<String>,
    /// The attempt to take it back, until the gate has answered.
    pub(super) resuming: Option<Resuming>,
    /// The number of the last packet before one that was given up, since the gate was silent: it may answer late.
    pub(super) given_up: Option<u64>,
    /// The number of packets received, but for heartbeats and control packets.
    pub(super) count: u64,
    /// The number that the gate was told last.
    pub(super) acked: u64,
    pub(super) calls: Calls<Call>,
    pub(super) conn: Option<ConnId>,
    pub(super) is_connected: Arc<AtomicBool>,
    pub(super) was_connected: bool,
    pub(super) is_closing: bool,
    /// The number of heartbeats sent since the gate was last heard.
    pub(super) unanswered: u8,
    pub(super) backoff: Backoff,
    pub(super) opened: Option<Instant>,
    /// Waits for the first attempt, whose failure is the end.
    pub(super) first: Option<SyncSender<Result<(), Error>>>,
}

/// The address of a gate.
pub(super) struct GateAddress {
    pub(super) to: String,
    pub(super) connect: Connect,
    /// Over WebSocket: the host and the target of the request.
    pub(super) upgrade: Option<(String, String)>,
    /// Over KCP: its options.
    #[cfg(feature = "kcp")]
    pub(super) kcp: Option<KcpOptions>,
}

/// An attempt to take the user back.
pub(super) struct Resuming {
    pub(super) token: String,
    /// The number of the last packet on the connection before.
    pub(super) last: u64,
}

/// The gate's goodbye.
#[derive(Clone, Copy)]
pub(super) struct Goodbye {
    /// The time after which to dial again, if at all.
    pub(super) retry_in: Option<Duration>,
}

/// The application's handlers of packets and events.
pub(super) struct Handlers {
    pub(super) routes: FxHashMap<i32, OnPacket>,
    pub(super) others: Option<OnPacket>,
    pub(super) on_event: Option<OnEvent>,
}

pub(super) type OnPacket = Box<dyn FnMut(&mut ClientContext<'_>, Packet<'_>) + Send>;
pub(super) type OnEvent = Box<dyn FnMut(&mut ClientContext<'_>, ClientEvent<'_>) + Send>;

/// The client as its handlers see it.
pub struct ClientContext<'a> {
    pub(super) link: &'a mut Link,
    /// None after the connection has ended.
    pub(super) wire: Option<&'a mut dyn Wire>,
}

/// A request that waits for its answer.
pub(super) struct Call {
    then: Then,
    timer: ConnTimer,
    deadline: Instant,
}

/// Gets the answer to a request.
pub(super) type Then = Box<dyn FnOnce(&mut ClientContext<'_>, Result<&[u8], Error>) + Send>;

/// An open connection to a gate.
pub(super) trait Wire {
    fn send(&mut self, packet: EncodedPacket) -> Result<(), WriteError>;
    fn set_timer(&mut self, delay: Duration, token: u64) -> ConnTimer;
    fn cancel_timer(&mut self, timer: ConnTimer);
    fn now(&self) -> Instant;
    fn close(&mut self);
}

/// The token of the timer of heartbeats. Requests have a seq above 0.
pub(super) const HEARTBEAT: u64 = 0;

/// The token of the timer of KCP, which no request has.
#[cfg(feature = "kcp")]
pub(super) const FLUSH: u64 = 1 << 63;
/// The token of the timer of an attempt to take the user back.
const RESUMING: u64 = 1 << 32;

/// After so many packets the gate is told that they have come.
const ACK_EVERY: u64 = 32;

/// The number of heartbeats after which a silent gate is given up.
const MAX_UNANSWERED: u8 = 3;

/// Returns the token of the timer of a request.
fn timer_token(route: i32, seq: i32) -> u64 {
    u64::from(route as u32) << 32 | u64::from(seq as u32)
}

impl Link {
    pub(super) fn down(&self) -> Error {
        Error::LinkDown {
            peer: self.to().to_owned(),
        }
    }

    pub(super) fn to(&self) -> &str {
        &self.gate().to
    }

    pub(super) fn gate(&self) -> &GateAddress {
        &self.gates[self.at]
    }

    /// Turns to the next gate.
    pub(super) fn turn(&mut self) {
        self.at = (self.at + 1) % self.gates.len();
    }

    pub(super) fn set_connected(&self, yes: bool) {
        self.is_connected.store(yes, Ordering::Release);
    }

    /// Takes a frame of the gate.
    pub(super) fn receive(
        &mut self,
        handlers: &mut Handlers,
        wire: &mut dyn Wire,
        frame: PacketFrame<'_>,
    ) {
        self.unanswered = 0;
        let packet = match frame {
            PacketFrame::Packet { packet, .. } => packet,
            PacketFrame::Control(Control::Resumed { count }) => {
                return self.resumed(handlers, wire, count);
            }
            PacketFrame::Control(Control::Refused { reason }) => {
                return self.refused(handlers, wire, reason);
            }
            PacketFrame::Control(Control::Goodbye { reason, retry_ms }) => {
                return self.part(handlers, wire, reason, retry_ms);
            }
            // The gate's heartbeats want no answer.
            _ => return,
        };
        self.count += 1;
        if self.count >= self.acked + ACK_EVERY {
            self.acknowledge(wire);
        }
        let (route, seq) = (packet.route, packet.seq);
        if seq > 0
            && let Some(call) = self.calls.take(route, seq)
        {
            wire.cancel_timer(call.timer);
            let mut context = self.context(Some(wire));
            (call.then)(&mut context, Ok(packet.data));
            return;
        }
        let handler = handlers.routes.get_mut(&route);
        match handler.or(handlers.others.as_mut()) {
            Some(handler) => handler(&mut self.context(Some(wire)), packet),
            None => log::debug!(
                target: "epicycle::cluster",
                "a packet of route {route}, seq {seq} has no handler"
            ),
        }
    }

    /// Begins on a new connection. Returns true if the user is not to be taken back.
    pub(super) fn begin(&mut self, wire: &mut dyn Wire) -> bool {
        let last = std::mem::take(&mut self.count);
        self.acked = 0;
        self.given_up = None;
        let Some(token) = self.resume_token.take() else {
            self.introduce(wire);
            return true;
        };
        let resume = Control::Resume {
            token: &token,
            last,
        };
        match self.packets.encode_control(&resume) {
            Ok(resume) => {
                // It fails only if the connection is closing.
                let _ = wire.send(resume);
                wire.set_timer(self.call_timeout, RESUMING);
                self.resuming = Some(Resuming { token, last });
                false
            }
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the user cannot be taken back: {error}");
                self.introduce(wire);
                true
            }
        }
    }

    /// Goes on as before: the user is back. Requests under way wait on.
    fn resumed(&mut self, handlers: &mut Handlers, wire: &mut dyn Wire, missed: u32) {
        let Some(resuming) = self.resuming.take() else {
            // The application has begun anew. But the gate counts on.
            if let Some(last) = self.given_up.take() {
                (self.count, self.acked) = (last, last);
            }
            return;
        };
        self.count = resuming.last;
        self.acked = resuming.last;
        self.set_connected(true);
        let now = wire.now();
        self.calls.each(|route, seq, call: &mut Call| {
            let left = call.deadline.saturating_duration_since(now);
            call.timer = wire.set_timer(left, timer_token(route, seq));
        });
        let event = ClientEvent::Resumed { missed };
        handlers.tell(&mut self.context(Some(wire)), event);
    }

    /// Begins anew: the user is gone.
    fn refused(&mut self, handlers: &mut Handlers, wire: &mut dyn Wire, reason: ResumeRefusal) {
        if self.resuming.take().is_none() {
            return;
        }
        self.set_connected(true);
        self.fail_calls();
        let event = ClientEvent::ResumeRefused { reason };
        handlers.tell(&mut self.context(Some(wire)), event);
        let event = ClientEvent::Connected { again: true };
        handlers.tell(&mut self.context(Some(wire)), event);
    }

    /// Tells the gate which packets have come, so that it need not keep them.
    fn acknowledge(&mut self, wire: &mut dyn Wire) {
        let ack = Control::Ack { n: self.count };
        if self.resume_token.is_some()
            && let Ok(ack) = self.packets.encode_control(&ack)
            && wire.send(ack).is_ok()
        {
            self.acked = self.count;
        }
    }

    /// Tells the gate that the user does not come back, if it would wait.
    pub(super) fn leave(&mut self, wire: &mut dyn Wire) {
        let is_awaited = self.resume_token.take().is_some() || self.resuming.is_some();
        if is_awaited && let Ok(leave) = self.packets.encode_control(&Control::Leave) {
            // It fails only if the connection is closing, or full: then the gate waits in vain.
            let _ = wire.send(leave);
        }
    }

    /// Prepares to leave, since the gate closes the connection soon.
    fn part(
        &mut self,
        handlers: &mut Handlers,
        wire: &mut dyn Wire,
        reason: GoodbyeReason,
        retry_ms: u32,
    ) {
        let retry_in = match reason {
            // Two that took the user from each other would go on for ever, and nobody wants one that was kicked.
            GoodbyeReason::Replaced | GoodbyeReason::Kicked => {
                self.resume_token = None;
                None
            }
            _ => (self.reconnect).map(|_| Duration::from_millis(retry_ms.into())),
        };
        self.goodbye = Some(Goodbye { retry_in });
        self.set_connected(false);
        let event = ClientEvent::Goodbye { reason, retry_in };
        handlers.tell(&mut self.context(Some(wire)), event);
    }

    /// Returns true if it is time to leave: the gate has said goodbye, and no request is under way.
    pub(super) fn has_parted(&self) -> bool {
        self.goodbye.is_some() && self.calls.is_empty()
    }

    /// Tells the gate that control packets are known.
    pub(super) fn introduce(&self, wire: &mut dyn Wire) {
        if self.control
            && let Ok(ack) = self.packets.encode_control(&Control::Ack { n: 0 })
        {
            // It fails only if the connection is closing.
            let _ = wire.send(ack);
        }
    }

    /// Does what a timer is for. Returns false if the gate is given up.
    pub(super) fn on_timer(
        &mut self,
        handlers: &mut Handlers,
        wire: &mut dyn Wire,
        token: u64,
    ) -> bool {
        match token {
            HEARTBEAT => return self.beat(wire),
            // A gate that does not know how is silent.
            RESUMING => {
                self.given_up = self.resuming.as_ref().map(|resuming| resuming.last);
                self.refused(handlers, wire, ResumeRefusal::Unavailable);
                return true;
            }
            _ => {}
        }
        let (route, seq) = ((token >> 32) as i32, token as i32);
        if let Some(call) = self.calls.take(route, seq) {
            let error = self.late(route);
            (call.then)(&mut self.context(Some(wire)), Err(error));
        }
        true
    }

    fn late(&self, route: i32) -> Error {
        let what = format!(
            "a request of route {route} to the gate, which answers nothing to what it refuses,"
        );
        Error::Timeout {
            what: what.into(),
            after: self.call_timeout,
        }
    }

    /// Fails the requests whose time is over, while there is no connection.
    pub(super) fn fail_late(&mut self, now: Instant) {
        for (route, call) in self.calls.take_if(|call| call.deadline <= now) {
            let error = self.late(route);
            (call.then)(&mut self.context(None), Err(error));
        }
    }

    /// Fails all requests under way.
    pub(super) fn fail_calls(&mut self) {
        for call in self.calls.take_all() {
            let error = self.down();
            (call.then)(&mut self.context(None), Err(error));
        }
    }

    pub(super) fn context<'a>(&'a mut self, wire: Option<&'a mut dyn Wire>) -> ClientContext<'a> {
        ClientContext { link: self, wire }
    }

    fn beat(&mut self, wire: &mut dyn Wire) -> bool {
        if self.unanswered == MAX_UNANSWERED {
            return false;
        }
        self.unanswered += 1;
        if self.count > self.acked {
            self.acknowledge(wire);
        }
        let heartbeat = self.packets.encode_heartbeat(Heartbeat::default());
        // It fails if the connection is closing, or full: then the gate has enough to read.
        let _ = wire.send(heartbeat);
        true
    }
}

impl Handlers {
    pub(super) fn tell(&mut self, context: &mut ClientContext<'_>, event: ClientEvent<'_>) {
        if let Some(on_event) = &mut self.on_event {
            on_event(context, event);
        }
    }
}

impl ClientContext<'_> {
    /// Sends a packet without an answer.
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] if there is no connection, [`Error::Busy`] if the gate does not read, and the errors of
    /// [`PacketOptions::encode`](crate::cluster::packet::PacketOptions::encode).
    pub fn push(&mut self, route: i32, data: &[u8]) -> Result<(), Error> {
        let packet = self.link.packets.encode(&Packet {
            route,
            seq: 0,
            data,
        })?;
        self.send(packet)
    }

    /// Sends a request. `then` gets the answer, or the error that [`Client::request`](super::Client::request) would return.
    ///
    /// # Errors
    ///
    /// Those of [`push`](Self::push), [`Error::Busy`] if all numbers of this route are in use, and [`Error::InvalidArgument`] if
    /// packets have no seq. `then` is not called then.
    pub fn request(
        &mut self,
        route: i32,
        data: &[u8],
        then: impl FnOnce(&mut ClientContext<'_>, Result<&[u8], Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let (seq, timer, deadline) = self.begin(route, data)?;
        let call = Call {
            then: Box::new(then),
            timer,
            deadline,
        };
        self.link.calls.insert(route, seq, call);
        Ok(())
    }

    /// Sets the token with which the client takes its user back, as [`Client::set_resume_token`](super::Client::set_resume_token) does.
    pub fn set_resume_token(&mut self, token: impl Into<String>) {
        self.link.resume_token = Some(token.into());
    }

    /// Closes the client, as [`Client::close`](super::Client::close) does.
    pub fn close(&mut self) {
        self.link.is_closing = true;
        if let Some(wire) = &mut self.wire {
            self.link.leave(&mut **wire);
            wire.close();
        }
    }

    /// Sends a request. `then` gets the answer, or the reason why there is none.
    pub(super) fn ask(&mut self, route: i32, data: &[u8], then: Then) {
        match self.begin(route, data) {
            Ok((seq, timer, deadline)) => {
                let call = Call {
                    then,
                    timer,
                    deadline,
                };
                self.link.calls.insert(route, seq, call);
            }
            Err(error) => then(self, Err(error)),
        }
    }

    fn begin(&mut self, route: i32, data: &[u8]) -> Result<(i32, ConnTimer, Instant), Error> {
        let timeout = self.link.call_timeout;
        let seq = self.link.calls.free_seq(route)?;
        let packet = self.link.packets.encode(&Packet { route, seq, data })?;
        self.send(packet)?;
        let wire = self.wire.as_mut().ok_or_else(|| self.link.down())?;
        let timer = wire.set_timer(timeout, timer_token(route, seq));
        Ok((seq, timer, wire.now() + timeout))
    }

    fn send(&mut self, packet: EncodedPacket) -> Result<(), Error> {
        let wire = self.wire.as_mut().ok_or_else(|| self.link.down())?;
        wire.send(packet).map_err(|error| match error {
            WriteError::Full { .. } => Error::Busy {
                what: "output to the gate",
            },
            _ => self.link.down(),
        })
    }
}

impl<H: EventHandler<Codec = Spoken>> Wire for Conn<'_, H> {
    fn send(&mut self, packet: EncodedPacket) -> Result<(), WriteError> {
        match self.codec() {
            Spoken::Packets(_) => Conn::send(self, packet),
            Spoken::Socket(_) => Conn::send(self, packet.as_bytes()),
            #[cfg(feature = "kcp")]
            Spoken::Kcp(_) => over_kcp::send(self, packet.as_bytes(), FLUSH),
            #[cfg(not(feature = "kcp"))]
            Spoken::Kcp(kcp) => match *kcp {},
        }
    }

    fn set_timer(&mut self, delay: Duration, token: u64) -> ConnTimer {
        Conn::set_timer(self, delay, token)
    }

    fn cancel_timer(&mut self, timer: ConnTimer) {
        Conn::cancel_timer(self, timer);
    }

    fn now(&self) -> Instant {
        Conn::now(self)
    }

    fn close(&mut self) {
        #[cfg(feature = "kcp")]
        over_kcp::close(self);
        #[cfg(not(feature = "kcp"))]
        Conn::close(self);
    }
}

impl fmt::Debug for ClientContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext")
            .field("is_connected", &self.wire.is_some())
            .finish_non_exhaustive()
    }
}
