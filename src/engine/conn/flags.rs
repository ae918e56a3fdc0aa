//! The phase of a connection and its flags, in one word.
//!
//! | Flag | Opening | Open | Flushing | AwaitingFin |
//! |---|---|---|---|---|
//! | `READABLE` `WRITABLE` `DOUBTFUL` `UNIX` `DATAGRAM` `SEALED` `TAIL` `QUEUED` `DIRTY` `PAUSES_READS` | yes | yes | yes | yes |
//! | `PEER_EOF` `GREETED` `PAUSED` `SHUT_WRITE` `CONGESTED` `AWAITS_EMPTY` `AWAITS_FILE` `DETACHING` `PIPED` `HELD` `OWES` `BROKEN` `COMPLETES` | | yes | yes | yes |
//! | `DRAIN_DUE` `AWAITS_RESPONSE` `DRAINING` | | yes | | |
//! | `CLOSE_NOTIFIED` | | | yes | yes |
//!
//! While a connection that was open before is in a TLS handshake, it has the phase `Opening` and may have the flags of an open
//! one.
//!
//! A connection that is aborted or closed keeps the flags that it had, and none of them matters any more.
//!
//! [`ConnState::check`](super::ConnState::check) asserts this in debug builds.

use bitflags::bitflags;

/// A stage in the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connecting or in the handshake. The application does not know the connection yet, unless TLS begins in mid-stream.
    Opening,
    /// Frames flow both ways.
    Open,
    /// Closing: output is being sent, and input is dropped.
    Flushing,
    /// All output and FIN are sent. The connection waits for the peer's FIN, so that no RST overtakes the data.
    AwaitingFin,
    /// To be closed at once, with RST.
    Aborted,
    /// Closed. The slot is freed at the end of the turn.
    Closed,
}

bitflags! {
    // No bit is left. A flag that is not asked for with every message goes to `Marks`.
    /// The phase and the flags. The phase `Open` has no bit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        const OPENING = 1 << 0;
        const FLUSHING = 1 << 1;
        const AWAITING_FIN = 1 << 2;
        const ABORTED = 1 << 3;
        const CLOSED = 1 << 4;
        /// The kernel has input, or the end of it.
        const READABLE = 1 << 5;
        /// The kernel has room for output.
        const WRITABLE = 1 << 6;
        /// An event reported the end of the peer's stream, or urgent data. Reads end at the mark of urgent data. So a
        /// short read no longer proves that the socket is drained.
        const DOUBTFUL = 1 << 7;
        /// A Unix socket. A short read does not prove that it is drained if the kernel delivered ancillary data with
        /// it.
        const UNIX = 1 << 8;
        /// The end of the input was read.
        const PEER_EOF = 1 << 9;
        /// The handler paused reads.
        const PAUSED = 1 << 10;
        /// Output went above the high-water mark, or a write was refused. Output has not fallen to the low-water mark
        /// since.
        const CONGESTED = 1 << 11;
        /// Output has fallen to the low-water mark since, and `on_drain` has not been called yet.
        const DRAIN_DUE = 1 << 12;
        /// The handler asked for FIN once all output is sent.
        const SHUT_WRITE = 1 << 13;
        /// On the reactor's ready list.
        const QUEUED = 1 << 14;
        /// On the reactor's flush list.
        const DIRTY = 1 << 15;
        /// A frame has been decoded, so the handshake timeout no longer applies.
        const GREETED = 1 << 16;
        /// Encrypted: the bytes of the kernel are not those of the application.
        const SEALED = 1 << 17;
        /// The stream has accepted output that the kernel has not taken yet.
        const TAIL = 1 << 18;
        /// The handler takes the socket out of the engine, or TLS begins on it, once all output is sent.
        const DETACHING = 1 << 19;
        /// The front of the output waits for a part of a file to be read.
        const AWAITS_FILE = 1 << 20;
        /// Piped to another connection, or about to be: the input goes there and not to the handler.
        const PIPED = 1 << 21;
        /// A UDP session. It has no stream of its own.
        const DATAGRAM = 1 << 22;
        /// The codec decodes no more until something has been sent.
        const HELD = 1 << 23;
        /// The engine shuts down and waits for the answers that are owed or awaited here.
        const DRAINING = 1 << 24;
        /// The handler owes an answer and has not given it at once.
        const OWES = 1 << 25;
        /// The peer owes an answer and has to begin it by `close_by`.
        const AWAITS_RESPONSE = 1 << 26;
        /// The handler has been notified of the end.
        const CLOSE_NOTIFIED = 1 << 27;
        /// Reads pause while the output is congested.
        const PAUSES_READS = 1 << 28;
        /// A write was refused although little output waits: `on_drain` is due when none waits.
        const AWAITS_EMPTY = 1 << 29;
        /// The connection is broken: nothing can be sent any more, but earlier input is still read.
        const BROKEN = 1 << 30;
        /// A completion waits for output to be sent.
        const COMPLETES = 1 << 31;

        /// The phases in which the connection closes or has closed.
        const CLOSING = Self::FLUSHING.bits() | Self::AWAITING_FIN.bits() | Self::ABORTED.bits() | Self::CLOSED.bits();
        /// All phases but `Open`.
        const NOT_OPEN = Self::OPENING.bits() | Self::CLOSING.bits();
        /// Writes are refused.
        const NO_WRITES = Self::NOT_OPEN.bits() | Self::SHUT_WRITE.bits() | Self::DETACHING.bits() | Self::PIPED.bits();
        /// The handler gets no frame, however little output waits.
        const NO_FRAMES = Self::NOT_OPEN.bits() | Self::PAUSED.bits() | Self::DETACHING.bits() | Self::PIPED.bits() | Self::HELD.bits();
        /// If any of these is set, a connection with input takes the slow path (`Served::serve_fully`). A new flag that the
        /// fast path must not skip belongs here.
        const EXTRAORDINARY = Self::NO_WRITES.bits()
            | Self::NO_FRAMES.bits()
            | Self::PEER_EOF.bits()
            | Self::CONGESTED.bits()
            | Self::DRAIN_DUE.bits()
            | Self::QUEUED.bits()
            | Self::SEALED.bits()
            | Self::TAIL.bits()
            | Self::DATAGRAM.bits();
    }
}

bitflags! {
    /// The marks that few steps ask for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Marks: u8 {
        /// It has not been open yet.
        const NEVER_OPENED = 1 << 0;
        /// FIN is sent.
        const FIN_SENT = 1 << 1;
        /// The drain may last as long as the peer takes output.
        const DRAINS_BY_PROGRESS = 1 << 2;
        /// The peer's FIN has arrived. Input before it may not have been read yet.
        const FIN_ARRIVED = 1 << 3;
        /// The handler was told of that.
        const FIN_TOLD = 1 << 4;
        /// The handler was told of the end of the peer's stream.
        const END_TOLD = 1 << 5;
        /// Events report that the kernel has room for output.
        const WATCHES_ROOM = 1 << 6;
    }
}

impl Flags {
    #[inline]
    pub(super) fn phase(self) -> Phase {
        let phase = self & Self::NOT_OPEN;
        if phase.is_empty() {
            Phase::Open
        } else if phase == Self::OPENING {
            Phase::Opening
        } else if phase == Self::FLUSHING {
            Phase::Flushing
        } else if phase == Self::AWAITING_FIN {
            Phase::AwaitingFin
        } else if phase == Self::ABORTED {
            Phase::Aborted
        } else {
            Phase::Closed
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.remove(Self::NOT_OPEN);
        self.insert(match phase {
            Phase::Open => Self::empty(),
            Phase::Opening => Self::OPENING,
            Phase::Flushing => Self::FLUSHING,
            Phase::AwaitingFin => Self::AWAITING_FIN,
            Phase::Aborted => Self::ABORTED,
            Phase::Closed => Self::CLOSED,
        });
    }

    /// Returns the flags that must not be set in a phase.
    #[cfg(debug_assertions)]
    pub(super) fn forbidden(phase: Phase) -> Self {
        match phase {
            Phase::Opening => {
                Self::PEER_EOF
                    | Self::GREETED
                    | Self::PAUSED
                    | Self::SHUT_WRITE
                    | Self::CONGESTED
                    | Self::AWAITS_EMPTY
                    | Self::AWAITS_FILE
                    | Self::DETACHING
                    | Self::PIPED
                    | Self::HELD
                    | Self::OWES
                    | Self::BROKEN
                    | Self::COMPLETES
                    | Self::DRAIN_DUE
                    | Self::AWAITS_RESPONSE
                    | Self::DRAINING
                    | Self::CLOSE_NOTIFIED
            }
            Phase::Open => Self::CLOSE_NOTIFIED,
            Phase::Flushing | Phase::AwaitingFin => {
                Self::DRAIN_DUE | Self::AWAITS_RESPONSE | Self::DRAINING
            }
            Phase::Aborted | Phase::Closed => Self::empty(),
        }
    }
}
