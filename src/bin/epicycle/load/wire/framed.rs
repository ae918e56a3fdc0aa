//! Echoed frames with a length field. The packets of a cluster are such frames, too.

use std::sync::Arc;

use epicycle::codec::LengthField;
use epicycle::{Conn, WriteError};

use super::{Meaning, Wire, payload};
use crate::load::driver::Driver;
use crate::load::tally::Failure;

/// A header without flags, route 1 and seq 1.
const PACKET_HEAD: &[u8] = &[0, 0, 1, 0, 1];

#[derive(Clone)]
pub(crate) struct Framed {
    codec: LengthField,
    payload: Arc<[u8]>,
}

impl Framed {
    pub(crate) fn new(size: usize) -> Result<Self, epicycle::Error> {
        Self::of(payload(size).into_vec())
    }

    /// Packets with so many bytes of data.
    pub(crate) fn packets(size: usize) -> Result<Self, epicycle::Error> {
        Self::of(packet(size))
    }

    fn of(payload: Vec<u8>) -> Result<Self, epicycle::Error> {
        // A wrong answer that is longer must still be read as a frame.
        let max = 4 + payload.len().max(LengthField::DEFAULT_MAX_REST);
        Ok(Self {
            codec: LengthField::builder().max_frame(max).build()?,
            payload: payload.into(),
        })
    }
}

/// Returns a packet with so many bytes of data, without the length before it.
pub(super) fn packet(size: usize) -> Vec<u8> {
    [PACKET_HEAD, &payload(size)].concat()
}

impl Wire for Framed {
    type Codec = LengthField;
    type State = ();

    fn codec(&self) -> LengthField {
        self.codec.clone()
    }

    fn greet(&self, _conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError> {
        Ok(true)
    }

    #[inline]
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>, (): &mut ()) -> Result<(), WriteError> {
        conn.send(&self.payload)
    }

    #[inline]
    fn interpret(&self, _: &mut Conn<'_, Driver<Self>>, (): &mut (), frame: &[u8]) -> Meaning {
        if frame == &*self.payload {
            Meaning::Right(1)
        } else {
            Meaning::Wrong(Failure::Wrong("another frame came back than was sent"))
        }
    }
}
