//! The encoding of frames.

#[cfg(feature = "rpc")]
use bytes::Bytes;

use super::header::{Header, MAX_HEADER, Opcode, Role};
use super::mask::Mask;
use crate::buf::outbox::Outbox;

/// The maximum size of a payload that is written in one piece with its header.
const SMALL: usize = 4 << 10;

/// The contents of a frame's header other than the length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) compressed: bool,
}

impl Kind {
    /// Returns the kind of a message in one frame, or of a control frame.
    #[inline]
    pub(super) fn whole(opcode: Opcode) -> Self {
        Self {
            opcode,
            fin: true,
            compressed: false,
        }
    }

    #[inline]
    fn header(self, len: usize, mask: Option<Mask>) -> Header {
        Header {
            fin: self.fin,
            rsv1: self.compressed,
            opcode: self.opcode,
            mask,
            len: len as u64,
        }
    }
}

/// Appends a frame. A client's frame is masked.
#[inline]
pub(super) fn put(role: Role, kind: Kind, payload: &[u8], dst: &mut Outbox<'_>) {
    if role == Role::Client {
        return put_masked(kind, payload, dst);
    }
    let header = kind.header(payload.len(), None);
    if payload.len() <= SMALL {
        return dst.put_with(MAX_HEADER + payload.len(), |room| {
            let size = header.write(room);
            room[size..size + payload.len()].copy_from_slice(payload);
            size + payload.len()
        });
    }
    dst.put_with(MAX_HEADER, |room| header.write(room));
    dst.put(payload);
}

/// Appends a server's frame. A long payload is not copied.
#[cfg(feature = "rpc")]
pub(super) fn put_shared(kind: Kind, payload: &Bytes, dst: &mut Outbox<'_>) {
    if payload.len() <= SMALL {
        return put(Role::Server, kind, payload, dst);
    }
    dst.put_with(MAX_HEADER, |room| {
        kind.header(payload.len(), None).write(room)
    });
    dst.put_shared(payload.clone());
}

fn put_masked(kind: Kind, payload: &[u8], dst: &mut Outbox<'_>) {
    let mask = Mask::random();
    let header = kind.header(payload.len(), Some(mask));
    // The length of each piece but the last is a multiple of 4 bytes, so each piece starts with the mask's first byte.
    let (first, rest) = payload.split_at(payload.len().min(SMALL));
    dst.put_with(MAX_HEADER + first.len(), |room| {
        let size = header.write(room);
        let place = &mut room[size..size + first.len()];
        place.copy_from_slice(first);
        mask.apply(place);
        size + first.len()
    });
    for piece in rest.chunks(SMALL) {
        dst.put_with(piece.len(), |room| {
            room.copy_from_slice(piece);
            mask.apply(room);
            piece.len()
        });
    }
}

/// Appends a frame to a vector, to be sent later.
pub(super) fn push(role: Role, kind: Kind, payload: &[u8], into: &mut Vec<u8>) {
    let mask = (role == Role::Client).then(Mask::random);
    let mut header = [0; MAX_HEADER];
    let size = kind.header(payload.len(), mask).write(&mut header);
    into.extend_from_slice(&header[..size]);
    let start = into.len();
    into.extend_from_slice(payload);
    if let Some(mask) = mask {
        mask.apply(&mut into[start..]);
    }
}
