//! A push to many sessions.

use bytes::Bytes;
use parking_lot::Mutex;

use super::codec::Wire;
use super::outgoing::{Outgoing, WhenFull};
use super::wire::{Dialect, Message};

/// A push to many sessions of a peer, on any of its reactors.
pub(super) struct Broadcast {
    push: Message<'static>,
    pub(super) when_full: WhenFull,
    encoded: Mutex<Vec<Encoded>>,
}

/// The push as the connections of one kind send it, or the reason why they cannot.
struct Encoded {
    kind: (&'static str, &'static str, Dialect),
    bytes: Result<Bytes, String>,
}

impl Broadcast {
    pub(super) fn new(push: Message<'static>, when_full: WhenFull) -> Self {
        Self {
            push,
            when_full,
            encoded: Mutex::default(),
        }
    }

    /// Returns the push as the connection of this codec sends it. The first connection of a kind has it encoded.
    pub(super) fn encoded_for(&self, codec: &mut Wire) -> Result<Bytes, String> {
        let kind = codec.kind_of_messages();
        let mut encoded = self.encoded.lock();
        if let Some(found) = encoded.iter().find(|encoded| encoded.kind == kind) {
            return found.bytes.clone();
        }
        let bytes = codec.encode_inside(&self.push);
        let bytes = bytes.map_err(|error| error.to_string());
        encoded.push(Encoded {
            kind,
            bytes: bytes.clone(),
        });
        bytes
    }

    /// Returns a copy for one session.
    pub(super) fn outgoing(&self) -> Outgoing {
        Outgoing {
            message: self.push.clone(),
            has_own_seq: false,
            call: None,
            when_full: self.when_full,
            on_sent: None,
        }
    }
}
