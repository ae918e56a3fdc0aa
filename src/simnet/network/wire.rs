//! One simulated connection: what the kernel holds at the reactor's end, and what the peer is doing.

use std::collections::VecDeque;

/// How a simulated peer reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Whatever arrives, soon.
    #[default]
    Freely,
    /// So many bytes a second; 0 counts as 1.
    Slowly(u32),
    /// Not at all, so that it does not see the end of the stream either.
    Never,
}

/// How a connection has ended for its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It has not.
    #[default]
    Open,
    /// The stream came to its end (FIN), and all of it was read.
    Finished,
    /// It was reset (RST): the rest, if there was any, is lost.
    Reset,
}

/// A connection, as the simulated network has it.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// The slot whose events these are, once it is watched.
    pub(super) token: Option<usize>,
    /// Something has happened since events were last told of.
    pub(super) changed: bool,
    /// Received, and not read by the reactor.
    pub(super) arrived: VecDeque<u8>,
    /// The peer's FIN has arrived.
    pub(super) fin: bool,
    /// An event has told of it.
    pub(super) fin_told: bool,
    /// The connection is broken.
    pub(super) broken: bool,
    /// It is, and no call has said so yet.
    pub(super) error: bool,
    /// Taken from the reactor, and not read by the peer.
    pub(super) output: VecDeque<u8>,
    /// The most `output` can be.
    pub(super) room: usize,
    /// A write was refused or cut short: an event is owed.
    pub(super) wants_room: bool,
    /// FIN is behind the output.
    pub(super) shut: bool,
    /// Closing is to reset.
    pub(super) resets: bool,
    /// The reactor has closed it.
    pub(super) closed: bool,
    pub(super) reading: Reading,
    /// A look at the output is on the agenda.
    pub(super) will_read: bool,
    /// The peer keeps its own stream open when it sees the end of the other.
    pub(super) keeps_open: bool,
    /// The peer has sent FIN, or will behind what it has sent.
    pub(super) ended: bool,
    /// The peer has closed: what still comes is answered with RST.
    pub(super) gone: bool,
    pub(super) ending: Ending,
    /// When the last of what the peer has sent arrives.
    pub(super) last_arrival: u64,
    /// Bytes that are on their way from the peer.
    pub(super) in_flight: usize,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) read_closed: bool,
    pub(crate) error: bool,
}

impl Wire {
    /// The state of the socket, as a poll sees it: as Linux's `tcp_poll` has it.
    pub(super) fn readiness(&self) -> Option<Readiness> {
        let token = self.token.filter(|_| !self.closed)?;
        let ready = Readiness {
            token,
            readable: !self.arrived.is_empty() || self.fin || self.broken,
            writable: self.has_room() || self.shut || self.broken,
            read_closed: self.fin || self.broken,
            error: self.error,
        };
        (ready.readable || ready.writable).then_some(ready)
    }

    /// Whether there is enough room to tell of it: a third, as Linux has it.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() * 3 <= self.room * 2 && self.output.len() < self.room
    }

    /// Whether the peer would find something if it looked.
    pub(super) fn has_news(&self) -> bool {
        self.ending == Ending::Open
            && self.reading != Reading::Never
            && (!self.output.is_empty() || self.shut)
    }

    /// The connection is broken for the reactor's end; returns whether it was not yet.
    pub(super) fn break_off(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.broken = true;
        self.error = true;
        self.output.clear();
        true
    }
}
