//! Echoed bytes, without framing.

use std::sync::Arc;

use epicycle::codec::Raw;
use epicycle::{Conn, WriteError};

use super::{Meaning, Wire, payload};
use crate::load::driver::Driver;

#[derive(Clone)]
pub(crate) struct Echo {
    payload: Arc<[u8]>,
}

impl Echo {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            payload: payload(size).into(),
        }
    }

    /// The bytes of a request.
    #[cfg(feature = "kcp")]
    pub(super) fn of(payload: Vec<u8>) -> Self {
        let payload = payload.into();
        Self { payload }
    }

    #[cfg(feature = "kcp")]
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Compares bytes that were received with what was sent. `state` is the number of bytes of the current answer before them.
    #[inline]
    pub(super) fn compare(&self, state: &mut usize, mut bytes: &[u8]) -> Meaning {
        let mut answers = 0;
        while !bytes.is_empty() {
            let wanted = &self.payload[*state..];
            let (now, rest) = bytes.split_at(bytes.len().min(wanted.len()));
            if now != &wanted[..now.len()] {
                return Meaning::Nonsense("other bytes came back than were sent");
            }
            *state += now.len();
            if *state == self.payload.len() {
                *state = 0;
                answers += 1;
            }
            bytes = rest;
        }
        match answers {
            0 => Meaning::Nothing,
            answers => Meaning::Right(answers),
        }
    }
}

impl Wire for Echo {
    type Codec = Raw;
    /// The number of bytes received of the current answer.
    type State = usize;

    fn codec(&self) -> Raw {
        Raw
    }

    fn greet(&self, _conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError> {
        Ok(true)
    }

    #[inline]
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>, _: &mut usize) -> Result<(), WriteError> {
        conn.write(&self.payload)
    }

    #[inline]
    fn interpret(
        &self,
        _: &mut Conn<'_, Driver<Self>>,
        state: &mut usize,
        bytes: &[u8],
    ) -> Meaning {
        self.compare(state, bytes)
    }
}
