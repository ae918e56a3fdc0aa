//! Records the callbacks of each connection, and checks them as they come and at the end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use epicycle::testing::{Ending, Peer, Simulation};
use epicycle::{CloseReason, Closed, Conn, ConnId, EventHandler};

/// The record of a reactor's connections. The handler writes it, and the test checks it.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Rc<RefCell<Vec<Life>>>);

/// The record of one connection.
pub(crate) struct Life {
    pub(crate) id: ConnId,
    /// The last octets of the address: the number of the peer.
    pub(crate) peer: usize,
    pub(crate) frames: usize,
    /// The bytes that the handler wrote and the engine accepted.
    pub(crate) written: Vec<u8>,
    /// True if only the handler writes. A codec that converses writes too.
    exact: bool,
    pub(crate) end: Option<(Closed, String)>,
}

impl Ledger {
    pub(crate) fn open<H: EventHandler>(&self, conn: &Conn<'_, H>) -> usize {
        let mut lives = self.0.borrow_mut();
        let id = conn.id();
        assert!(lives.iter().all(|life| life.id != id), "{id} opens twice");
        lives.push(Life {
            id,
            peer: number(conn),
            frames: 0,
            written: Vec::new(),
            exact: false,
            end: None,
        });
        lives.len() - 1
    }

    /// Records a callback of an open connection after `on_open`. Returns the number of its peer and of the frame.
    pub(crate) fn frame<H: EventHandler>(&self, conn: &Conn<'_, H>, life: usize) -> (usize, usize) {
        let mut lives = self.0.borrow_mut();
        let life = &mut lives[life];
        assert_eq!(life.id, conn.id(), "somebody else's session");
        assert!(life.end.is_none(), "a frame after on_close");
        life.frames += 1;
        (life.peer, life.frames - 1)
    }

    pub(crate) fn wrote(&self, life: usize, bytes: &[u8]) {
        let life = &mut self.0.borrow_mut()[life];
        life.written.extend(bytes);
        life.exact = true;
    }

    pub(crate) fn close(&self, info: &Closed, life: usize, reason: &CloseReason) {
        let mut lives = self.0.borrow_mut();
        let life = &mut lives[life];
        assert_eq!(life.id, info.id, "somebody else's session");
        assert!(life.end.is_none(), "closed twice");
        if life.exact {
            assert_eq!(
                info.bytes_out + info.unsent as u64,
                life.written.len() as u64,
                "bytes are missing from the account: {reason}"
            );
        }
        life.end = Some((info.clone(), reason.to_string()));
    }

    /// Returns the number of a connection's peer.
    pub(crate) fn peer_of(&self, id: ConnId) -> usize {
        let lives = self.0.borrow();
        let life = lives.iter().find(|life| life.id == id);
        life.expect("it was open").peer
    }

    /// Checks the invariants after the engine has ended.
    pub(crate) fn check<H: EventHandler>(&self, sim: &Simulation<H>, peers: &[Peer]) {
        let lives = self.0.borrow();
        let mut seen = HashMap::new();
        for life in lives.iter() {
            assert!(
                seen.insert(life.peer, ()).is_none(),
                "one peer, two connections"
            );
            let (closed, reason) = life.end.as_ref().expect("on_close was called");
            let received = sim.received(peers[life.peer]);
            if life.exact {
                assert!(
                    life.written.starts_with(received),
                    "peer {} received what was not written: {reason}",
                    life.peer
                );
            }
            if sim.ending(peers[life.peer]) == Ending::Finished {
                assert_eq!(
                    received.len() as u64,
                    closed.bytes_out,
                    "peer {} saw a clean end too early: {reason}",
                    life.peer
                );
                assert_eq!(closed.unsent, 0, "{reason}");
            }
        }
        let stats = sim.stats();
        assert_eq!(stats.connections, 0);
        assert_eq!(stats.closed, lives.len() as u64);
        assert_eq!(stats.buffered, 0, "buffers have leaked");
    }
}

/// Returns the number of a peer. The simulation assigns addresses from 10.0.0.1 on.
fn number<H: EventHandler>(conn: &Conn<'_, H>) -> usize {
    match conn.peer_addr().ip() {
        Some(std::net::IpAddr::V4(ip)) => (u32::from(ip) & 0xff_ffff) as usize - 1,
        other => panic!("{other:?} is nobody's address"),
    }
}
