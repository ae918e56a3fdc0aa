//! Records the callbacks of each connection, and checks them as they come and at the end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use epicycle::testing::{Ending, Peer, Simulation};
use epicycle::{CloseReason, Closed, Conn, ConnId, EventHandler};

/// The book of a reactor's connections, which its handler writes and its test reads.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Rc<RefCell<Vec<Life>>>);

/// One connection, in the order in which they opened.
pub(crate) struct Life {
    pub(crate) id: ConnId,
    /// The last octets of the address: the number of the peer.
    pub(crate) peer: usize,
    pub(crate) frames: usize,
    /// What the handler wrote and the engine took.
    pub(crate) written: Vec<u8>,
    /// It knows what it wrote; a codec that converses says more.
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

    /// A callback of an open connection other than the first; gives the number of its peer and of the frame.
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

    /// The number of a connection's peer.
    pub(crate) fn peer_of(&self, id: ConnId) -> usize {
        let lives = self.0.borrow();
        let life = lives.iter().find(|life| life.id == id);
        life.expect("it was open").peer
    }

    /// Checks what must hold whatever has happened, once the engine has ended.
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

/// Which peer it is: the simulation gives them addresses from 10.0.0.1 on.
fn number<H: EventHandler>(conn: &Conn<'_, H>) -> usize {
    match conn.peer_addr().ip() {
        Some(std::net::IpAddr::V4(ip)) => (u32::from(ip) & 0xff_ffff) as usize - 1,
        other => panic!("{other:?} is nobody's address"),
    }
}
