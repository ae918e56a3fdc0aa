//! The encoding of answers, which both server codecs share.

use super::codec::HttpCodec;
use super::prepared::{Prepared, write_prepared};
use super::response::{Chunk, Continue, End, ServerResponse, Trailers};
use super::stream::HttpStreamCodec;
use super::write;
use crate::buf::outbox::Outbox;
use crate::codec::{Encode, FrameError};

macro_rules! answers_by {
    ($codec:ty) => {
        impl Encode<ServerResponse<'_>> for $codec {
            #[inline]
            fn encode(
                &mut self,
                response: ServerResponse<'_>,
                dst: &mut Outbox<'_>,
            ) -> Result<(), FrameError> {
                Ok(write::response(&mut self.exchange, &response, dst)?)
            }
        }

        impl Encode<&Prepared> for $codec {
            #[inline(always)]
            fn encode(
                &mut self,
                prepared: &Prepared,
                dst: &mut Outbox<'_>,
            ) -> Result<(), FrameError> {
                Ok(write_prepared(&mut self.exchange, prepared, dst)?)
            }
        }

        impl Encode<Chunk<'_>> for $codec {
            fn encode(&mut self, chunk: Chunk<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                Ok(write::chunk(&mut self.exchange, chunk.0, dst)?)
            }
        }

        impl Encode<End> for $codec {
            fn encode(&mut self, _: End, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                Ok(write::end(&mut self.exchange, None, dst)?)
            }
        }

        impl Encode<Trailers<'_>> for $codec {
            fn encode(
                &mut self,
                trailers: Trailers<'_>,
                dst: &mut Outbox<'_>,
            ) -> Result<(), FrameError> {
                Ok(write::end(&mut self.exchange, Some(trailers.0), dst)?)
            }
        }
    };
}

answers_by!(HttpCodec);
answers_by!(HttpStreamCodec);

/// Sends nothing if the client does not wait.
impl Encode<Continue> for HttpStreamCodec {
    fn encode(&mut self, _: Continue, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        if self.exchange.take_expectation() {
            dst.put(write::CONTINUE);
        }
        Ok(())
    }
}
