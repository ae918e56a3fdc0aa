//! What a connection remembers about itself, a bit each: there are 32. What is asked alone, and not of every message, can be a
//! field of its own.

/// Gives each flag the next bit, so that no two share one.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[allow(
            non_camel_case_types,
            clippy::upper_case_acronyms,
            reason = "they are named as the flags are"
        )]
        enum Bit {
            $($name,)*
        }

        $(
            $(#[$doc])*
            pub(super) const $name: u32 = 1 << Bit::$name as u32;
        )*
    };
}

flags! {
    /// The kernel has input, or the end of it.
    READABLE,
    /// The kernel has room for output.
    WRITABLE,
    /// An event told of the end of the peer's stream, or of urgent data, at whose mark reads end: a short read no longer proves the
    /// socket drained.
    DOUBTFUL,
    /// A Unix socket: a short read does not prove it drained where the kernel has told of something that came along.
    UNIX,
    /// The end of the input was read.
    PEER_EOF,
    /// The handler paused reads.
    PAUSED,
    /// Output went above the high-water mark, or a write was refused, and it has not fallen to the low-water mark since.
    CONGESTED,
    /// It has fallen since, and `on_drain` has not been called yet.
    DRAIN_DUE,
    /// The handler asked for FIN once everything is sent.
    SHUT_WRITE,
    /// On the reactor's ready list.
    QUEUED,
    /// On the reactor's flush list.
    DIRTY,
    /// A frame has been decoded: no handshake timeout any more.
    GREETED,
    /// Not in the phase `Open` any more.
    CLOSING,
    /// Connecting or shaking hands; it stays when that fails.
    OPENING,
    /// Encrypted: what the kernel gives and takes is not what the application reads and writes.
    SEALED,
    /// The stream has accepted output that the kernel has not taken yet.
    TAIL,
    /// The handler wants the socket for itself.
    DETACHING,
    /// The front of the output waits for a part of a file to be read.
    AWAITS_FILE,
    /// Joined with another connection, or about to be: its bytes go there, not to the handler.
    PIPED,
    /// A session over datagrams: it has no stream of its own.
    DATAGRAM,
    /// The codec wants to be asked again only when something has been sent.
    HELD,
    /// The engine shuts down and waits for the answers that are owed or awaited here.
    DRAINING,
    /// The handler owes an answer, and has not given it at once.
    OWES,
    /// The peer owes an answer, and has until `close_by` to begin it.
    AWAITS_RESPONSE,
    /// The handler has heard of the end.
    TOLD,
    /// It is not read while its output is congested.
    PAUSES_READS,
    /// A write was refused although little waits: `on_drain` is due when nothing does.
    AWAITS_EMPTY,
    /// The connection is broken: nothing can be sent any more, but what arrived before is still read.
    BROKEN,
}

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
