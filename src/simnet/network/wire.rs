//! One simulated connection: the kernel's state at the reactor's end, and the state of the peer.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

/// The pace at which a simulated peer reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Reads all bytes soon after they arrive.
    #[default]
    Freely,
    /// Reads this number of bytes a second; 0 counts as 1.
    Slowly(u32),
    /// Reads nothing, so that it does not see the end of the stream either.
    Never,
}

/// The state of a connection as its peer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The connection is open.
    #[default]
    Open,
    /// The stream has ended (FIN), and the peer has read all of it.
    Finished,
    /// The connection was reset (RST). Bytes that the peer had not read are lost.
    Reset,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Ip(SocketAddr),
    /// A Unix socket of the own host: its path, or its abstract name behind a NUL byte. Empty for a client.
    Unix(Box<[u8]>),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Far {
    /// A scripted peer of the test.
    Peer,
    /// A reactor's end, which is another connection with this number. The network moves the bytes between the two: it
    /// reads as the peer of one, and sends as the peer of the other.
    Twin(usize),
}

/// A connection of the simulated network.
#[derive(Debug)]
pub(super) struct Wire {
    /// The addresses of the reactor's host and of the peer's.
    pub(super) home: IpAddr,
    pub(super) away: IpAddr,
    pub(super) local: Place,
    pub(super) remote: Place,
    pub(super) far: Far,
    /// The reactor that owns this end. None until one does.
    pub(super) poller: Option<usize>,
    /// True until the SYN of this end is answered.
    pub(super) connecting: bool,
    /// The number of SYNs that were lost.
    pub(super) syns: u32,
    /// True if the host went down during the connection. This end is lost, and does nothing any more.
    pub(super) crashed: bool,
    /// The token of the reactor's slot, once the socket is registered.
    pub(super) token: Option<usize>,
    /// True if events report room for output.
    pub(super) watches_room: bool,
    /// True while an event is due.
    pub(super) changed: bool,
    /// Bytes that have arrived and the reactor has not read.
    pub(super) arrived: VecDeque<u8>,
    /// True once the peer's FIN has arrived.
    pub(super) fin: bool,
    /// True once an event has reported the FIN.
    pub(super) fin_reported: bool,
    /// True once the connection is broken.
    pub(super) broken: bool,
    /// The error of a broken connection, until a call returns it.
    pub(super) error: Option<ErrorKind>,
    /// Bytes accepted from the reactor that the peer has not read.
    pub(super) output: VecDeque<u8>,
    /// The capacity of `output`.
    pub(super) room: usize,
    /// True after a write was refused or cut short: an event has to report room.
    pub(super) wants_room: bool,
    /// True if a FIN follows the output.
    pub(super) shut: bool,
    /// True if the close resets the connection.
    pub(super) resets: bool,
    /// True once the reactor has closed its end.
    pub(super) closed: bool,
    pub(super) reading: Reading,
    /// True while a read of the peer is on the agenda.
    pub(super) will_read: bool,
    /// True if the peer keeps its own stream open after the end of the other.
    pub(super) keeps_open: bool,
    /// True once the peer has sent FIN, or has it planned after the bytes it has sent.
    pub(super) ended: bool,
    /// True once the peer has closed: it answers further bytes with RST.
    pub(super) gone: bool,
    pub(super) ending: Ending,
    /// The time at which the last of the peer's bytes arrives.
    pub(super) last_arrival: u64,
    /// The number of bytes on their way from the peer.
    pub(super) in_flight: usize,
}

/// An event of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) read_closed: bool,
    pub(crate) error: bool,
}

impl Wire {
    /// Creates a connection between two hosts, the reactor's and the peer's, with the address of each end.
    pub(super) fn new((home, away): (IpAddr, IpAddr), (local, remote): (Place, Place)) -> Self {
        Self {
            home,
            away,
            local,
            remote,
            far: Far::Peer,
            poller: None,
            connecting: false,
            syns: 0,
            crashed: false,
            token: None,
            watches_room: false,
            changed: false,
            arrived: VecDeque::new(),
            fin: false,
            fin_reported: false,
            broken: false,
            error: None,
            output: VecDeque::new(),
            room: 0,
            wants_room: false,
            shut: false,
            resets: false,
            closed: false,
            reading: Reading::Freely,
            will_read: false,
            keeps_open: false,
            ended: false,
            gone: false,
            ending: Ending::Open,
            last_arrival: 0,
            in_flight: 0,
        }
    }

    /// Returns true if this end can still break.
    pub(super) fn is_alive(&self) -> bool {
        !self.closed && !self.broken && !self.crashed
    }

    /// Returns the readiness of the socket, by the rules of Linux's `tcp_poll`, for an event. Returns `None` if it has none.
    pub(super) fn take_readiness(&mut self) -> Option<Readiness> {
        self.changed = false;
        let token = self.token.filter(|_| !self.closed && !self.connecting)?;
        let ready = Readiness {
            token,
            readable: !self.arrived.is_empty() || self.fin || self.broken,
            writable: self.watches_room && (self.has_room() || self.shut || self.broken),
            read_closed: self.fin || self.broken,
            error: self.error.is_some(),
        };
        let is_ready = ready.readable || ready.writable;
        self.fin_reported |= is_ready && ready.read_closed;
        is_ready.then_some(ready)
    }

    /// Returns true if enough of the send buffer is free to report it: a third, as on Linux.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() * 3 <= self.room * 2 && self.output.len() < self.room
    }

    /// Returns true if a read of the peer would find bytes or the end of the stream.
    pub(super) fn has_unread(&self) -> bool {
        self.ending == Ending::Open
            && self.reading != Reading::Never
            && (!self.output.is_empty() || self.shut)
    }

    /// Breaks the connection at the reactor's end. Returns false if it was broken already.
    pub(super) fn break_off(&mut self, error: ErrorKind) -> bool {
        if self.broken {
            return false;
        }
        self.broken = true;
        self.error = Some(error);
        self.output.clear();
        true
    }
}
