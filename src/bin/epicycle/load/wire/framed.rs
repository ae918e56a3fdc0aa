//! Echoed frames with a length field.

use std::sync::Arc;

use epicycle::codec::LengthField;
use epicycle::{Conn, WriteError};

use super::{Meaning, Wire, payload};
use crate::load::driver::Driver;
use crate::load::tally::Failure;

#[derive(Clone)]
pub(crate) struct Framed {
    codec: LengthField,
    payload: Arc<[u8]>,
}

impl Framed {
    pub(crate) fn new(size: usize) -> Result<Self, epicycle::Error> {
        // A wrong answer that is longer must still be read as a frame.
        let max = 4 + size.max(LengthField::DEFAULT_MAX_REST);
        Ok(Self {
            codec: LengthField::builder().max_frame(max).build()?,
            payload: payload(size).into(),
        })
    }
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
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>) -> Result<(), WriteError> {
        conn.send(&self.payload)
    }

    #[inline]
    fn interpret(&self, (): &mut (), frame: &[u8]) -> Meaning {
        if frame == &*self.payload {
            Meaning::Right(1)
        } else {
            Meaning::Wrong(Failure::Wrong("another frame came back than was sent"))
        }
    }
}
