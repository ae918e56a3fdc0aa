use std::borrow::Cow;

use md5::{Digest, Md5 as Hasher};

use super::{Filter, FilterError};

/// Appends the MD5 digest of the bytes, which has 16 bytes, and checks it on receipt. Its id is `m`.
///
/// It detects damage, not forgery: anyone who can change a message can also change its digest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Md5;

const DIGEST: usize = 16;

impl Filter for Md5 {
    fn id(&self) -> u8 {
        b'm'
    }

    fn name(&self) -> &str {
        "md5"
    }

    fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError> {
        let digest = Hasher::digest(&bytes);
        let mut packed = bytes.into_owned();
        packed.extend_from_slice(&digest);
        Ok(packed)
    }

    fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, max: usize) -> Result<Cow<'a, [u8]>, FilterError> {
        let Some((content, digest)) = bytes.split_last_chunk::<DIGEST>() else {
            return Err(FilterError::Corrupt {
                what: "there are fewer bytes than a digest has",
            });
        };
        if content.len() > max {
            return Err(FilterError::TooLong { max });
        }
        if Hasher::digest(content)[..] != digest[..] {
            return Err(FilterError::Corrupt {
                what: "the digest does not match the bytes",
            });
        }
        let len = content.len();
        Ok(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..len]),
            Cow::Owned(mut bytes) => {
                bytes.truncate(len);
                Cow::Owned(bytes)
            }
        })
    }
}
