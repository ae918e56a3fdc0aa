//! The events of a poll.

use mio::Token;

/// An event of the kernel or of a simulation.
pub(super) trait Event {
    fn token(&self) -> Token;
    fn is_readable(&self) -> bool;
    fn is_writable(&self) -> bool;
    fn is_read_closed(&self) -> bool;
    /// Returns true if there is urgent data.
    fn is_priority(&self) -> bool;
    fn is_error(&self) -> bool;
}

impl Event for mio::event::Event {
    #[inline]
    fn token(&self) -> Token {
        self.token()
    }

    #[inline]
    fn is_readable(&self) -> bool {
        self.is_readable()
    }

    #[inline]
    fn is_writable(&self) -> bool {
        self.is_writable()
    }

    #[inline]
    fn is_read_closed(&self) -> bool {
        self.is_read_closed()
    }

    #[inline]
    fn is_priority(&self) -> bool {
        self.is_priority()
    }

    #[inline]
    fn is_error(&self) -> bool {
        self.is_error()
    }
}
