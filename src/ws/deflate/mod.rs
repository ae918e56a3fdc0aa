//! permessage-deflate (RFC 7692).

mod compress;
mod inflate;
mod negotiate;

pub(super) use self::compress::Compressor;
pub(super) use self::inflate::Inflater;
pub use self::negotiate::DeflateOptions;
pub(super) use self::negotiate::{Agreed, EXTENSIONS, NAME};

/// The bytes at the end of a flushed message, which are omitted on the wire (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
