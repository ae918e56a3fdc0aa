use std::time::Duration;

use rustc_hash::FxHashMap;

use super::ClientEvent;
use super::codec::{Spoken, SpokenFrame};
#[cfg(feature = "kcp")]
use super::link::FLUSH;
use super::link::{ClientContext, HEARTBEAT, Handlers, Link, Resuming, Wire};
use crate::cluster::Error;
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp::{self, KcpCodec};
use crate::cluster::packet::{PacketCodec, PacketOptions};
#[cfg(feature = "kcp")]
use crate::codec::{Codec, Decoded};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::{ConnectError, FailedConnect};
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::ws::{self, Close, CloseCode};

/// The clients of a reactor, by their tokens.
#[derive(Default)]
pub(super) struct ClientReactor {
    clients: FxHashMap<u64, Dialled>,
}

/// A client.
pub(super) struct Dialled {
    pub(super) link: Link,
    pub(super) handlers: Handlers,
}

impl ClientReactor {
    pub(super) fn client(&mut self, token: u64) -> Option<&mut Dialled> {
        self.clients.get_mut(&token)
    }

    pub(super) fn add(&mut self, token: u64, client: Dialled, reactor: &mut Reactor<'_, Self>) {
        self.clients.insert(token, client);
        self.dial(token, reactor);
    }

    pub(super) fn close(&mut self, token: u64, reactor: &mut Reactor<'_, Self>) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let link = &mut client.link;
        link.is_closing = true;
        match link.conn {
            // It goes when the connection has ended.
            Some(conn) => {
                reactor.with(conn, |conn, _| {
                    // Before a WebSocket is open, nobody waits.
                    if link.opened.is_some() {
                        link.leave(conn);
                    }
                    Wire::close(conn);
                });
            }
            None => {
                if let Some(mut client) = self.clients.remove(&token) {
                    client.link.fail_calls();
                }
            }
        }
    }

    fn dial(&mut self, token: u64, reactor: &mut Reactor<'_, Self>) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        if let Err(error) = reactor.connect(client.link.gate().connect.clone()) {
            self.failed(token, &error, reactor);
        }
    }

    /// Notes that an attempt has failed.
    fn failed(&mut self, token: u64, error: &ConnectError, reactor: &mut Reactor<'_, Self>) {
        let Some(Dialled { link, .. }) = self.clients.get_mut(&token) else {
            return;
        };
        link.conn = None;
        let to = link.to().to_owned();
        link.turn();
        let delay = match (&link.first, &link.reconnect) {
            (None, Some(policy)) if !link.is_closing => Some(link.backoff.after_failure(policy)),
            _ => None,
        };
        if let Some(first) = link.first.take() {
            let _ = first.send(Err(Error::backend(
                "gate",
                format!("no connection to {to}: {error}"),
            )));
        }
        let event = ClientEvent::ConnectFailed {
            error,
            retry_in: delay,
        };
        self.tell_end(token, event, delay, reactor);
    }

    /// Tells that there is no connection, and dials again after the delay, if there is one.
    fn tell_end(
        &mut self,
        token: u64,
        event: ClientEvent<'_>,
        delay: Option<Duration>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        // Before the application is called, which may panic.
        if let Some(delay) = delay {
            reactor.schedule(delay, move |handler, reactor| {
                handler.dial(token, reactor);
            });
        }
        if let Some(Dialled { link, handlers }) = self.clients.get_mut(&token) {
            handlers.tell(&mut link.context(None), event);
            if delay.is_none() || link.is_closing {
                link.fail_calls();
                self.clients.remove(&token);
            }
        }
    }
}

impl Dialled {
    /// Runs a function with the context of this client.
    pub(super) fn with<R>(
        &mut self,
        reactor: &mut Reactor<'_, ClientReactor>,
        f: impl FnOnce(&mut ClientContext<'_>) -> R,
    ) -> R {
        let link = &mut self.link;
        let Some(conn) = link.conn.filter(|_| link.opened.is_some()) else {
            return f(&mut link.context(None));
        };
        let mut f = Some(f);
        let done = reactor.with(conn, |conn, _| {
            f.take().map(|f| f(&mut link.context(Some(conn))))
        });
        match (done.flatten(), f) {
            (Some(done), _) => done,
            (None, Some(f)) => f(&mut link.context(None)),
            (None, None) => unreachable!("it was called"),
        }
    }

    /// Begins on a connection over which packets can be sent.
    fn opened(&mut self, conn: &mut Conn<'_, ClientReactor>) -> Action {
        let Self { link, handlers } = self;
        if link.is_closing {
            return Action::Close;
        }
        link.opened = Some(conn.now());
        link.unanswered = 0;
        link.goodbye = None;
        if !link.heartbeat.is_zero() {
            conn.set_interval(link.heartbeat, HEARTBEAT);
        }
        if !link.begin(conn) {
            return Action::Continue;
        }
        link.set_connected(true);
        let again = std::mem::replace(&mut link.was_connected, true);
        if let Some(first) = link.first.take() {
            let _ = first.send(Ok(()));
        }
        let event = ClientEvent::Connected { again };
        handlers.tell(&mut link.context(Some(conn)), event);
        Action::Continue
    }

    /// Leaves, if the gate wants it and nothing is under way.
    fn part(&self) -> Action {
        match self.link.has_parted() {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_message(
        &mut self,
        conn: &mut Conn<'_, ClientReactor>,
        message: ws::Message<'_>,
    ) -> Action {
        let Self { link, handlers } = self;
        let ws::Message::Binary(message) = message else {
            let close = Close::new(CloseCode::UNSUPPORTED, "packets are binary messages");
            return conn.send(close).into();
        };
        let packets = link.packets;
        match packets.decode_message(&message) {
            Ok(frame) => {
                link.receive(handlers, conn, frame);
                self.part()
            }
            Err(error) => {
                let problem = error.to_string();
                conn.send(Close::new(CloseCode::PROTOCOL, &problem)).into()
            }
        }
    }
}

#[cfg(feature = "kcp")]
impl Dialled {
    /// Takes a datagram of KCP, and handles the packets that it brings.
    fn on_datagram(&mut self, conn: &mut Conn<'_, ClientReactor>, datagram: &[u8]) -> Action {
        if over_kcp::receive(conn, datagram).is_err() {
            return Action::Close;
        }
        let Self { link, handlers } = self;
        while let Spoken::Kcp(kcp) = conn.codec_mut()
            && let Some(mut input) = kcp.take_input()
        {
            let mut packets = kcp.packets.clone();
            let mut handled = 0;
            loop {
                match packets.decode(&mut input[handled..]) {
                    Ok(Decoded::Frame { frame, consumed }) => {
                        link.receive(handlers, conn, frame);
                        handled += consumed;
                    }
                    Ok(_) => break,
                    Err(error) => {
                        log::warn!(target: "epicycle::cluster", "{} sends what is no packet: {error}", link.to());
                        return Action::Close;
                    }
                }
            }
            if let Spoken::Kcp(kcp) = conn.codec_mut() {
                kcp.packets = packets;
                kcp.keep(input, handled);
            }
        }
        self.settle(conn)
    }

    /// Sends what is due over KCP.
    fn settle(&self, conn: &mut Conn<'_, ClientReactor>) -> Action {
        match over_kcp::settle(conn, FLUSH) {
            Ok(()) => self.part(),
            Err(_) => {
                log::info!(target: "epicycle::cluster", "{} acknowledges nothing, and is given up", self.link.to());
                Action::Close
            }
        }
    }
}

impl EventHandler for ClientReactor {
    type Codec = Spoken;
    /// The token.
    type Session = u64;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Spoken {
        let client = token_of(info.origin()).and_then(|token| self.clients.get(&token));
        let packets = client.map_or_else(PacketOptions::default, |client| client.link.packets);
        if client.is_some_and(|client| client.link.gate().upgrade.is_some()) {
            let max = packets.max_packet();
            let limits = ws::Limits::default().max_frame(max).max_message(max);
            return ws::ClientCodec::new(limits).into();
        }
        #[cfg(feature = "kcp")]
        if let Some(options) = client.and_then(|client| client.link.gate().kcp.clone()) {
            return KcpCodec::client(options, packets).into();
        }
        PacketCodec::new(packets).into()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<u64> {
        let token = token_of(conn.origin())?;
        let client = self.clients.get_mut(&token)?;
        client.link.conn = Some(conn.id());
        client.link.opened = None;
        match &client.link.gate().upgrade {
            Some((host, target)) => conn.send(ws::Handshake::new(host, target)).ok()?,
            None => {
                if let Action::Close = client.opened(conn) {
                    conn.close();
                }
            }
        }
        Some(token)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        token: &mut u64,
        frame: SpokenFrame<'_>,
    ) -> Action {
        let Some(client) = self.clients.get_mut(token) else {
            return Action::Close;
        };
        match frame {
            SpokenFrame::Packets(frame) => {
                client.link.receive(&mut client.handlers, conn, frame);
                client.part()
            }
            #[cfg(feature = "kcp")]
            SpokenFrame::Kcp(datagram) => client.on_datagram(conn, datagram),
            #[cfg(not(feature = "kcp"))]
            SpokenFrame::Kcp(never) => match never {},
            SpokenFrame::Socket(ws::Event::Opened(_)) => client.opened(conn),
            SpokenFrame::Socket(ws::Event::Message(message)) => client.on_message(conn, message),
            SpokenFrame::Socket(ws::Event::Pong(_) | ws::Event::Closed(_)) => Action::Continue,
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, token: &mut u64, timer: u64) -> Action {
        let Some(client) = self.clients.get_mut(token) else {
            return Action::Close;
        };
        #[cfg(feature = "kcp")]
        if timer == FLUSH {
            return client.settle(conn);
        }
        let Dialled { link, handlers } = client;
        if !link.on_timer(handlers, conn, timer) {
            log::info!(target: "epicycle::cluster", "{} is silent, and is given up", link.to());
            conn.abort();
        }
        client.part()
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        _info: &Closed,
        token: u64,
        reason: CloseReason,
    ) {
        let now = reactor.now();
        let Some(Dialled { link, .. }) = self.clients.get_mut(&token) else {
            return;
        };
        let Some(opened) = link.opened.take() else {
            // The WebSocket did not open.
            let error = ConnectError::Negotiation(reason.to_string().into());
            return self.failed(token, &error, reactor);
        };
        link.conn = None;
        link.set_connected(false);
        if !link.calls.is_empty() {
            reactor.schedule(link.call_timeout, move |handler, reactor| {
                if let Some(client) = handler.clients.get_mut(&token) {
                    client.link.fail_late(reactor.now());
                }
            });
        }
        // The gate may not have got the token, and then it is still good.
        if let Some(Resuming { token: text, last }) = link.resuming.take() {
            (link.resume_token, link.count) = (Some(text), last);
            let error = ConnectError::Negotiation(reason.to_string().into());
            return self.failed(token, &error, reactor);
        }
        link.turn();
        let lasted = now.saturating_duration_since(opened);
        let policy = link.reconnect.filter(|_| !link.is_closing);
        let delay = match link.goodbye.take() {
            Some(goodbye) => goodbye.retry_in.filter(|_| !link.is_closing),
            None => policy.map(|policy| link.backoff.after_connection(lasted, &policy)),
        };
        if link.resume_token.is_none() || delay.is_none() {
            link.fail_calls();
        }
        let event = ClientEvent::Disconnected { reason: &reason };
        self.tell_end(token, event, delay, reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.failed(failed.token, &failed.error, reactor);
    }
}

fn token_of(origin: Origin) -> Option<u64> {
    match origin {
        Origin::Connected { token } => Some(token),
        _ => None,
    }
}
