//! What a connection remembers about itself, a bit each.

/// The kernel has input, or the end of it.
pub(super) const READABLE: u32 = 1 << 0;
/// The kernel has room for output.
pub(super) const WRITABLE: u32 = 1 << 1;
/// An event said that the peer ended its stream: a short read no longer proves the socket drained.
pub(super) const READ_CLOSED: u32 = 1 << 2;
/// The end of the input was read.
pub(super) const PEER_EOF: u32 = 1 << 3;
/// The handler paused reads.
pub(super) const PAUSED: u32 = 1 << 4;
/// Output went above the high-water mark, or a write was refused, and it has not fallen to the low-water mark since.
pub(super) const CONGESTED: u32 = 1 << 5;
/// It has fallen since, and `on_drain` has not been called yet.
pub(super) const DRAIN_DUE: u32 = 1 << 6;
/// The handler asked for FIN once everything is sent.
pub(super) const SHUT_WRITE: u32 = 1 << 7;
/// FIN is sent.
pub(super) const FIN_SENT: u32 = 1 << 8;
/// On the reactor's ready list.
pub(super) const QUEUED: u32 = 1 << 9;
/// On the reactor's flush list.
pub(super) const DIRTY: u32 = 1 << 10;
/// A frame has been decoded: no handshake timeout any more.
pub(super) const GREETED: u32 = 1 << 11;
/// Not in the phase `Open` any more.
pub(super) const CLOSING: u32 = 1 << 12;
/// A part of its input is to be sent back from where it lies.
pub(super) const LENT: u32 = 1 << 13;
/// Connecting or shaking hands; it stays when that fails.
pub(super) const OPENING: u32 = 1 << 14;
/// Encrypted: what the kernel gives and takes is not what the application reads and writes.
pub(super) const SEALED: u32 = 1 << 15;
/// The stream has accepted output that the kernel has not taken yet.
pub(super) const TAIL: u32 = 1 << 16;
/// The handler wants the socket for itself.
pub(super) const DETACHING: u32 = 1 << 17;
/// The front of the output waits for a part of a file to be read.
pub(super) const AWAITS_FILE: u32 = 1 << 18;
/// Joined with another connection, or about to be: its bytes go there, not to the handler.
pub(super) const PIPED: u32 = 1 << 19;
/// A session over datagrams: it has no stream of its own.
pub(super) const DATAGRAM: u32 = 1 << 20;

/// The codec wants to be asked again only when something has been sent.
pub(super) const HELD: u32 = 1 << 21;
/// The engine shuts down and waits for the answers that are owed or awaited here.
pub(super) const RETIRING: u32 = 1 << 22;
/// It closes since all has been said, and has time for that as long as the peer takes some of it.
pub(super) const UNHURRIED: u32 = 1 << 23;

/// The handler owes an answer, and has not given it at once.
pub(super) const OWES: u32 = 1 << 25;

/// It is not read while its output is congested.
pub(super) const PAUSES_READS: u32 = 1 << 24;

/// A write was refused although little waits: `on_drain` is due when nothing does.
pub(super) const AWAITS_EMPTY: u32 = 1 << 25;

/// The connection is broken: nothing can be sent any more, but what arrived before is still read.
pub(super) const BROKEN: u32 = 1 << 26;

/// What makes a connection with input more than a matter of reading it.
pub(super) const EXTRAORDINARY: u32 = PEER_EOF
    | PAUSED
    | CONGESTED
    | DRAIN_DUE
    | SHUT_WRITE
    | QUEUED
    | CLOSING
    | OPENING
    | SEALED
    | TAIL
    | DETACHING
    | PIPED
    | DATAGRAM
    | HELD;

/// The handler gets no frame, however little output waits.
pub(super) const NO_FRAMES: u32 = CLOSING | PAUSED | OPENING | DETACHING | PIPED | HELD;

/// Writes are refused.
pub(super) const NO_WRITES: u32 = CLOSING | SHUT_WRITE | OPENING | DETACHING | PIPED;
