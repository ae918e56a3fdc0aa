use super::FilterError;
use crate::codec::FrameError;
use crate::error::error_messages;

/// Why bytes are not a message, or a message cannot be sent.
///
/// On receipt it ends the connection: what follows on the stream cannot be told apart any more. On sending, nothing has
/// been written, and the connection goes on.
#[non_exhaustive]
pub enum WireError {
    /// The message is longer than allowed.
    TooLong {
        /// Its length in bytes, as announced by its size field.
        size: u64,
        /// The longest allowed, in bytes: [`Limits::message`](super::Limits::message).
        max: usize,
    },
    /// The size field announces less than any message has.
    TooShort {
        /// What it announces, in bytes.
        size: u64,
        /// The least that a message of this protocol has.
        min: usize,
    },
    /// The version byte is not this protocol's.
    Version {
        /// What stands in its place.
        found: u8,
        /// What this protocol has there.
        expected: u8,
    },
    /// The message is no CALL (1), REPLY (2) or PUSH (3).
    UnknownKind {
        /// The number in the place of its type.
        kind: i64,
    },
    /// A length inside the message leads beyond its end.
    Truncated {
        /// What the length belongs to.
        field: &'static str,
        /// The length, in bytes.
        len: u64,
        /// How many bytes the message has left for it.
        left: usize,
    },
    /// The message has more filters than allowed.
    TooManyFilters {
        /// How many it has.
        count: usize,
        /// The most allowed.
        max: usize,
    },
    /// The message has a filter that is not registered here.
    UnknownFilter {
        /// The filter's id.
        id: u8,
    },
    /// A filter cannot be applied or undone.
    Filter {
        /// The filter's id.
        id: u8,
        /// What is wrong.
        error: FilterError,
    },
    /// The bytes break the protocol's grammar.
    Malformed {
        /// The protocol's name.
        protocol: &'static str,
        /// What is wrong with them.
        what: String,
    },
    /// A part of a message to send is longer than its length field can say.
    FieldTooLong {
        /// Which part.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest possible, in bytes.
        max: usize,
    },
}

error_messages! {
    WireError {
        WireError::TooLong { size, max } =>
            "a message of {size} bytes, where at most {max} are allowed; the limit is `Limits::message`",
        WireError::TooShort { size, min } => "a size field of {size}, where a message has {min} bytes at the least",
        WireError::Version { found, expected } =>
            "the version byte is {found:#04x}, not {expected:#04x}: the peer speaks another protocol",
        WireError::UnknownKind { kind } => "a message of type {kind}, where CALL is 1, REPLY is 2 and PUSH is 3",
        WireError::Truncated { field, len, left } =>
            "a length of {len} for the {field}, where the message has {left} bytes left; the peer may speak the other \
             dialect",
        WireError::TooManyFilters { count, max } =>
            "a message with {count} filters, where at most {max} are allowed; the limit is `Limits::filters`",
        WireError::UnknownFilter { id } =>
            "the filter {:?} ({id}) is unknown; register it on both sides" (char::from(*id)),
        WireError::Filter { id, error } => "the filter {:?}: {error}" (char::from(*id)),
        WireError::Malformed { protocol, what } => "no {protocol} message: {what}",
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

/// Why a filter or a body codec cannot be registered, or found by its name.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// Another one has its id.
    DuplicateId {
        /// What was to be registered: `filter` or `codec`.
        what: &'static str,
        /// The id that both have.
        id: u8,
        /// The name of the one that is registered.
        registered: String,
        /// The name of the one that is refused.
        refused: String,
    },
    /// Another one has its name.
    DuplicateName {
        /// What was to be registered: `filter` or `codec`.
        what: &'static str,
        /// The name that both have.
        name: String,
    },
    /// The id 0 is that of no codec.
    ReservedId {
        /// The name of the codec that is refused.
        refused: String,
    },
}

error_messages! {
    RegistryError {
        RegistryError::DuplicateId { what, id, registered, refused } =>
            "the {what} {refused:?} has the id {:?} ({id}), which {registered:?} has already; give it another id"
            (char::from(*id)),
        RegistryError::DuplicateName { what, name } => "there are two {what}s of the name {name:?}; rename one of them",
        RegistryError::ReservedId { refused } =>
            "the codec {refused:?} has the id 0, which stands for no codec; give it another id",
    }
}
