//! A proxy: it dials an origin for each client, and joins the two connections.

use std::collections::HashMap;

use epicycle::codec::Raw;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, Connect, EventHandler, FailedConnect,
    Origin, Reactor,
};

/// Relays each connection to the origin.
pub(crate) struct Relay {
    origin: String,
    /// The clients whose origin is being dialled, by the token of the dial.
    waiting: HashMap<u64, ConnId>,
    dials: u64,
    pub(crate) failed: Vec<String>,
    pub(crate) ended: Vec<String>,
}

/// The token of a client's dial. None for the connection to an origin.
pub(crate) type Session = Option<u64>;

impl Relay {
    pub(crate) fn to(origin: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            waiting: HashMap::new(),
            dials: 0,
            failed: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Returns true if no client waits for its origin.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl EventHandler for Relay {
    type Codec = Raw;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        if let Origin::Connected { token } = conn.origin() {
            // The client may have left meanwhile.
            let client = self.waiting.remove(&token)?;
            conn.pipe(client).ok()?;
            return Some(None);
        }
        self.dials += 1;
        let (engine, reactor) = (conn.engine().clone(), conn.id().reactor());
        let connect = Connect::to(&*self.origin).token(self.dials);
        engine.connect_on(reactor, connect).ok()?;
        self.waiting.insert(self.dials, conn.id());
        conn.pause_reads();
        Some(Some(self.dials))
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, _: &mut Session, _: &[u8]) -> Action {
        unreachable!("nothing is read before the connections are joined")
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        _: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        if let Some(dial) = session {
            self.waiting.remove(&dial);
            self.ended.push(reason.to_string());
        }
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.failed.push(failed.error.to_string());
        if let Some(client) = self.waiting.remove(&failed.token) {
            reactor.with(client, |client, _| client.abort());
        }
    }
}
