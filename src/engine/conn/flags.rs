//! The phase of a connection and its flags, in one word.
//!
//! | Flag | Opening | Open | Flushing | AwaitingFin |
//! |---|---|---|---|---|
//! | `READABLE` `WRITABLE` `DOUBTFUL` `UNIX` `DATAGRAM` `SEALED` `TAIL` `QUEUED` `DIRTY` `PAUSES_READS` | yes | yes | yes | yes |
//! | `PEER_EOF` `GREETED` `PAUSED` `SHUT_WRITE` `CONGESTED` `AWAITS_EMPTY` `AWAITS_FILE` `DETACHING` `PIPED` `HELD` `OWES` `BROKEN` | | yes | yes | yes |
//! | `DRAIN_DUE` `AWAITS_RESPONSE` `DRAINING` | | yes | | |
//! | `TOLD` | | | yes | yes |
//!
//! A connection that is aborted or closed keeps the flags that it had, and none of them matters any more.
//!
//! [`ConnState::check`](super::ConnState::check) asserts this in debug builds.

use bitflags::bitflags;

/// A stage in the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connecting, or shaking hands: the application does not know of it yet.
    Opening,
    /// Frames flow both ways.
    Open,
    /// Closing: what was written is being sent, what arrives is dropped.
    Flushing,
    /// All is sent and FIN with it; waiting for the peer's FIN, so that no RST overtakes the data.
    AwaitingFin,
    /// To be closed at once, with RST.
    Aborted,
    /// Closed; the slot is freed at the end of the turn.
    Closed,
}

bitflags! {
    /// The phase, of which `Open` has no bit, and the flags.
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
        /// An event told of the end of the peer's stream, or of urgent data, at whose mark reads end: a short read no longer proves the
        /// socket drained.
        const DOUBTFUL = 1 << 7;
        /// A Unix socket: a short read does not prove it drained where the kernel has told of something that came along.
        const UNIX = 1 << 8;
        /// The end of the input was read.
        const PEER_EOF = 1 << 9;
        /// The handler paused reads.
        const PAUSED = 1 << 10;
        /// Output went above the high-water mark, or a write was refused, and it has not fallen to the low-water mark since.
        const CONGESTED = 1 << 11;
        /// It has fallen since, and `on_drain` has not been called yet.
        const DRAIN_DUE = 1 << 12;
        /// The handler asked for FIN once everything is sent.
        const SHUT_WRITE = 1 << 13;
        /// On the reactor's ready list.
        const QUEUED = 1 << 14;
        /// On the reactor's flush list.
        const DIRTY = 1 << 15;
        /// A frame has been decoded: no handshake timeout any more.
        const GREETED = 1 << 16;
        /// Encrypted: what the kernel gives and takes is not what the application reads and writes.
        const SEALED = 1 << 17;
        /// The stream has accepted output that the kernel has not taken yet.
        const TAIL = 1 << 18;
        /// The handler wants the socket for itself.
        const DETACHING = 1 << 19;
        /// The front of the output waits for a part of a file to be read.
        const AWAITS_FILE = 1 << 20;
        /// Joined with another connection, or about to be: its bytes go there, not to the handler.
        const PIPED = 1 << 21;
        /// A session over datagrams: it has no stream of its own.
        const DATAGRAM = 1 << 22;
        /// The codec wants to be asked again only when something has been sent.
        const HELD = 1 << 23;
        /// The engine shuts down and waits for the answers that are owed or awaited here.
        const DRAINING = 1 << 24;
        /// The handler owes an answer, and has not given it at once.
        const OWES = 1 << 25;
        /// The peer owes an answer, and has until `close_by` to begin it.
        const AWAITS_RESPONSE = 1 << 26;
        /// The handler has heard of the end.
        const TOLD = 1 << 27;
        /// It is not read while its output is congested.
        const PAUSES_READS = 1 << 28;
        /// A write was refused although little waits: `on_drain` is due when nothing does.
        const AWAITS_EMPTY = 1 << 29;
        /// The connection is broken: nothing can be sent any more, but what arrived before is still read.
        const BROKEN = 1 << 30;

        /// The phases in which the connection closes or has closed.
        const CLOSING = Self::FLUSHING.bits() | Self::AWAITING_FIN.bits() | Self::ABORTED.bits() | Self::CLOSED.bits();
        /// All phases but `Open`.
        const NOT_OPEN = Self::OPENING.bits() | Self::CLOSING.bits();
        /// Writes are refused.
        const NO_WRITES = Self::NOT_OPEN.bits() | Self::SHUT_WRITE.bits() | Self::DETACHING.bits() | Self::PIPED.bits();
        /// The handler gets no frame, however little output waits.
        const NO_FRAMES = Self::NOT_OPEN.bits() | Self::PAUSED.bits() | Self::DETACHING.bits() | Self::PIPED.bits() | Self::HELD.bits();
        /// A connection with input needs more than a read.
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

    /// The flags that must not be set in a phase.
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
                    | Self::DRAIN_DUE
                    | Self::AWAITS_RESPONSE
                    | Self::DRAINING
                    | Self::TOLD
            }
            Phase::Open => Self::TOLD,
            Phase::Flushing | Phase::AwaitingFin => {
                Self::DRAIN_DUE | Self::AWAITS_RESPONSE | Self::DRAINING
            }
            Phase::Aborted | Phase::Closed => Self::empty(),
        }
    }
}
