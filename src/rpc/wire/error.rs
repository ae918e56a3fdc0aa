use super::FilterError;
use crate::codec::FrameError;
use crate::error::error_messages;

/// The reason why bytes are not a message, or a message cannot be sent.
///
/// On receipt, the connection closes, since the start of the next message is unknown. On sending, no byte of the
/// message has been written, and the connection stays open.
#[non_exhaustive]
pub enum WireError {
    /// The message is longer than allowed.
    TooLong {
        /// The message's length in bytes, as announced by its size field.
        size: u64,
        /// The maximum length in bytes: [`Limits::message`](super::Limits::message).
        max: usize,
    },
    /// The size field announces less than the minimum of a message.
    TooShort {
        /// The announced size, in bytes.
        size: u64,
        /// The minimum size for this protocol, in bytes.
        min: usize,
    },
    /// The version byte is not that of this protocol.
    Version {
        /// The received byte.
        found: u8,
        /// The byte of this protocol.
        expected: u8,
    },
    /// The input begins as that of another protocol does. The other side has the wrong port, or one side the wrong options.
    OtherProtocol {
        /// The protocol that the other side seems to speak: `http`, `TLS` or `raw`.
        found: &'static str,
        /// The protocol of this side.
        expected: &'static str,
    },
    /// The message is not a CALL (1), REPLY (2) or PUSH (3).
    UnknownKind {
        /// The received type.
        kind: i64,
    },
    /// A length inside the message points beyond its end.
    Truncated {
        /// The field that the length belongs to.
        field: &'static str,
        /// The length, in bytes.
        len: u64,
        /// The number of bytes that remain in the message.
        left: usize,
    },
    /// The message has too many filters.
    TooManyFilters {
        /// The number of its filters.
        count: usize,
        /// The maximum number of filters.
        max: usize,
    },
    /// The message has a filter that is not registered on this side.
    UnknownFilter {
        /// The filter's id.
        id: u8,
    },
    /// A filter cannot be applied or undone.
    Filter {
        /// The filter's id.
        id: u8,
        /// The fault.
        error: FilterError,
    },
    /// The bytes violate the grammar of the protocol.
    Malformed {
        /// The protocol's name.
        protocol: &'static str,
        /// The fault.
        what: String,
    },
    /// A part of a message to send is longer than its length field can express.
    FieldTooLong {
        /// The name of the part.
        field: &'static str,
        /// The length in bytes.
        len: usize,
        /// The maximum length in bytes.
        max: usize,
    },
}

error_messages! {
    WireError {
        WireError::TooLong { size, max } =>
            "a message of {size} bytes, where at most {max} are allowed; the limit is `Limits::message`",
        WireError::TooShort { size, min } => "a size field of {size}, where a message has at least {min} bytes",
        WireError::Version { found, expected } =>
            "the version byte is {found:#04x}, not {expected:#04x}: the peer uses another protocol",
        WireError::OtherProtocol { found, expected } =>
            "the other side seems to speak {found}, where this side takes {expected}; check the port and the protocol on \
             both sides",
        WireError::UnknownKind { kind } => "a message of type {kind}, where CALL is 1, REPLY is 2 and PUSH is 3",
        WireError::Truncated { field, len, left } =>
            "a length of {len} for the {field}, where the message has {left} bytes left; the peer may use the other \
             dialect",
        WireError::TooManyFilters { count, max } =>
            "a message with {count} filters, where at most {max} are allowed; the limit is `Limits::filters`",
        WireError::UnknownFilter { id } =>
            "the filter {:?} ({id}) is unknown; register it on both sides" (char::from(*id)),
        WireError::Filter { id, error } => "the filter {:?}: {error}" (char::from(*id)),
        WireError::Malformed { protocol, what } => "a malformed {protocol} message: {what}",
        WireError::FieldTooLong { field, len, max } =>
            "a {field} of {len} bytes cannot be sent, as its length field ends at {max}; shorten it, or use another \
             protocol or dialect",
    }
    causes {
        WireError::Filter { error, .. } => error,
    }
}

impl From<WireError> for FrameError {
    #[cold]
    fn from(error: WireError) -> Self {
        match error {
            WireError::TooLong { size, max } => FrameError::TooLong { len: size, max },
            error => FrameError::Other(Box::new(error)),
        }
    }
}

/// The reason why a filter or a body codec cannot be registered, or found by its name.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// Another filter or codec has this id.
    DuplicateId {
        /// The kind of the item: `filter` or `codec`.
        what: &'static str,
        /// The id of both.
        id: u8,
        /// The name of the registered item.
        registered: String,
        /// The name of the refused item.
        refused: String,
    },
    /// Another filter or codec has this name.
    DuplicateName {
        /// The kind of the item: `filter` or `codec`.
        what: &'static str,
        /// The name of both.
        name: String,
    },
    /// The id 0 means that there is no codec.
    ReservedId {
        /// The name of the refused codec.
        refused: String,
    },
}

error_messages! {
    RegistryError {
        RegistryError::DuplicateId { what, id, registered, refused } =>
            "the {what} {refused:?} has the id {:?} ({id}), which {registered:?} already has; give it another id"
            (char::from(*id)),
        RegistryError::DuplicateName { what, name } => "there are two {what}s with the name {name:?}; rename one of them",
        RegistryError::ReservedId { refused } =>
            "the codec {refused:?} has the id 0, which means that there is no codec; give it another id",
    }
}
