//! Connections whose output is not only what the application writes: parts of files, and another
//! connection's input.

use super::ConnState;
use super::flags::Flags;

impl ConnState {
    /// Whether there is a backlog that can be offered to the kernel, if it has room.
    #[inline]
    pub(crate) fn has_sendable(&self) -> bool {
        self.out.backlog_len() > 0 && !self.has(Flags::AWAITS_FILE)
    }

    /// Tells whether the front of the output has yet to be read from a file.
    pub(crate) fn set_awaits_file(&mut self, awaits: bool) {
        self.put(Flags::AWAITS_FILE, awaits);
    }

    /// Whether chunks of a file are of use to it: it is open, or drains.
    pub(crate) fn still_sends(&self) -> bool {
        !self.is_closed() && !self.is_aborted()
    }

    /// Whether it ends without a drain.
    pub(crate) fn is_aborted(&self) -> bool {
        self.has(Flags::ABORTED)
    }

    /// Whether output waits anywhere on its way to the kernel.
    pub(crate) fn has_output(&self) -> bool {
        self.out.len() > 0 || self.has(Flags::TAIL)
    }

    /// Whether it is joined with another connection, or about to be.
    #[inline]
    pub(crate) fn is_piped(&self) -> bool {
        self.has(Flags::PIPED)
    }

    /// From now on frames are not decoded and the application's writes are refused.
    pub(crate) fn begin_pipe(&mut self) {
        self.put(Flags::PIPED, true);
    }

    /// Whether it can be joined: it is open, and its write side is too.
    pub(crate) fn can_be_piped(&self) -> bool {
        !self.has(Flags::NO_WRITES - Flags::PIPED)
    }

    /// It is joined with another connection: what the handler asked for so far is over.
    pub(crate) fn piped(&mut self) {
        self.put(Flags::PIPED | Flags::GREETED, true);
        self.put(
            Flags::PAUSED | Flags::CONGESTED | Flags::AWAITS_EMPTY | Flags::DRAIN_DUE | Flags::HELD,
            false,
        );
        self.on_input_consumed();
    }

    /// Whether input should be read for the joined connection.
    pub(crate) fn feeds_pipe(&self) -> bool {
        self.is_readable() && !self.has(Flags::CLOSING | Flags::PAUSED)
    }

    /// Whether what the joined connection has received can be sent here.
    pub(crate) fn takes_piped(&self) -> bool {
        !self.has(Flags::CLOSING | Flags::BROKEN) && !self.has_output()
    }

    /// Whether both directions are at their end, so that it closes once everything is sent.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.has(Flags::PEER_EOF) && self.has(Flags::SHUT_WRITE)
    }
}
