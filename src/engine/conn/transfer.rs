//! Output that the application does not write as bytes: parts of files, and the input of a piped connection.

use super::ConnState;
use super::flags::Flags;

impl ConnState {
    /// Returns true if there is a backlog that could be offered to the kernel.
    #[inline]
    pub(crate) fn has_sendable(&self) -> bool {
        self.out.backlog_len() > 0 && !self.has(Flags::AWAITS_FILE)
    }

    /// Sets if the front of the output still has to be read from a file.
    pub(crate) fn set_awaits_file(&mut self, awaits: bool) {
        self.put(Flags::AWAITS_FILE, awaits);
    }

    /// Returns true if it still sends: it is open or drains.
    pub(crate) fn still_sends(&self) -> bool {
        !self.is_closed() && !self.is_aborted()
    }

    /// Returns true if it ends without a drain.
    pub(crate) fn is_aborted(&self) -> bool {
        self.has(Flags::ABORTED)
    }

    /// Returns true if output waits anywhere on its way to the kernel.
    pub(crate) fn has_output(&self) -> bool {
        self.out.len() > 0 || self.has(Flags::TAIL)
    }

    /// Returns true if it is piped to another connection or about to be.
    #[inline]
    pub(crate) fn is_piped(&self) -> bool {
        self.has(Flags::PIPED)
    }

    /// From now on frames are not decoded and the application's writes are refused.
    pub(crate) fn begin_pipe(&mut self) {
        self.put(Flags::PIPED, true);
    }

    /// Returns true if it can be piped: it is open, and so is its write side.
    pub(crate) fn can_be_piped(&self) -> bool {
        !self.has(Flags::NO_WRITES - Flags::PIPED)
    }

    /// Records that it is piped. The requests of the handler up to now no longer apply.
    pub(crate) fn piped(&mut self) {
        self.put(Flags::PIPED | Flags::GREETED, true);
        self.put(
            Flags::PAUSED | Flags::CONGESTED | Flags::AWAITS_EMPTY | Flags::DRAIN_DUE | Flags::HELD,
            false,
        );
        self.on_input_consumed();
    }

    /// Returns true if input should be read for the piped connection.
    pub(crate) fn feeds_pipe(&self) -> bool {
        self.is_readable() && !self.has(Flags::CLOSING | Flags::PAUSED)
    }

    /// Returns true if the input of the piped connection can be sent here.
    pub(crate) fn takes_piped(&self) -> bool {
        !self.has(Flags::CLOSING | Flags::BROKEN) && !self.has_output()
    }

    /// Returns true if both directions have ended, so that it closes once all output is sent.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.has(Flags::PEER_EOF) && self.has(Flags::SHUT_WRITE)
    }
}
