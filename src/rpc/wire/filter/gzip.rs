use std::borrow::Cow;
use std::io::Write;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc, Decompress, FlushDecompress, Status};

use super::{Filter, FilterError};

/// Compression with gzip (RFC 1952). The default id is `g`.
///
/// Teleport flushes its stream without finishing it, so its output ends without a checksum. Such a stream is accepted.
/// This filter writes complete streams. It reads one member, and refuses bytes after it.
#[derive(Clone, Debug)]
pub struct Gzip {
    id: u8,
    name: String,
    level: Compression,
}

/// The end of Teleport's stream: an empty stored block, which a compressor writes on a flush.
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Gzip {
    /// Returns a filter with a compression level from 0, none, to 9, the best. The default is 6.
    pub fn with_level(level: u32) -> Self {
        Self::named(b'g', "gzip", level)
    }

    /// Returns a filter with a custom id and name, to register several levels.
    pub fn named(id: u8, name: impl Into<String>, level: u32) -> Self {
        Self {
            id,
            name: name.into(),
            level: Compression::new(level.min(9)),
        }
    }
}

impl Default for Gzip {
    fn default() -> Self {
        Self::with_level(6)
    }
}

impl Filter for Gzip {
    fn id(&self) -> u8 {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(32 + bytes.len() / 2), self.level);
        let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
        packed.map_err(|error| FilterError::Other(error.into()))
    }

    fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, max: usize) -> Result<Cow<'a, [u8]>, FilterError> {
        // This decoder reads only the header: it does not report how and where the stream ends.
        let header = GzDecoder::new(&bytes[..]);
        if header.header().is_none() {
            return corrupt("the bytes do not begin with a gzip header");
        }
        let deflated = header.into_inner();
        let (inflated, rest) = inflate(deflated, max)?;
        match rest {
            Some(trailer) => check(&inflated, trailer)?,
            None if deflated.ends_with(&FLUSHED) => {}
            None => return corrupt("the gzip stream is truncated"),
        }
        Ok(Cow::Owned(inflated))
    }
}

/// Inflates to at most `max` bytes. Also returns the bytes after the stream's end, if it has an end.
fn inflate(deflated: &[u8], max: usize) -> Result<(Vec<u8>, Option<&[u8]>), FilterError> {
    let mut state = Decompress::new(false);
    let mut inflated = Vec::with_capacity(max.min(4 * deflated.len()));
    loop {
        // One byte more than allowed shows that there is more.
        if inflated.len() == inflated.capacity() {
            let room = (max + 1).saturating_sub(inflated.len());
            inflated.reserve_exact(room.min(inflated.len().max(512)));
        }
        let rest = &deflated[state.total_in() as usize..];
        let before = (state.total_in(), state.total_out());
        let status = state
            .decompress_vec(rest, &mut inflated, FlushDecompress::None)
            .map_err(|_| FilterError::Corrupt {
                what: "the compressed data is invalid",
            })?;
        if inflated.len() > max {
            return Err(FilterError::TooLong { max });
        }
        if status == Status::StreamEnd {
            return Ok((inflated, Some(&deflated[state.total_in() as usize..])));
        }
        let stands_still = before == (state.total_in(), state.total_out());
        if stands_still && inflated.len() < inflated.capacity() {
            return Ok((inflated, None));
        }
    }
}

/// Compares the checksum and the length at the end of a stream with its output, as far as they are present.
fn check(inflated: &[u8], trailer: &[u8]) -> Result<(), FilterError> {
    let mut crc = Crc::new();
    crc.update(inflated);
    let mut due = [0; 8];
    due[..4].copy_from_slice(&crc.sum().to_le_bytes());
    // The length is modulo 2^32.
    due[4..].copy_from_slice(&(inflated.len() as u32).to_le_bytes());
    if trailer.len() > due.len() {
        return corrupt("there are bytes after the end of the gzip stream");
    }
    if !due.starts_with(trailer) {
        return corrupt("the checksum of the gzip stream is wrong");
    }
    Ok(())
}

fn corrupt<T>(what: &'static str) -> Result<T, FilterError> {
    Err(FilterError::Corrupt { what })
}
