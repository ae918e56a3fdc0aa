//! Hashes, by name.

/// A hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub enum Hash {
    Sha1,
    Sha224,
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

/// Evaluates an expression with the type of a hash under a name.
macro_rules! with_hash {
    ($hash:expr, $D:ident => $body:expr) => {
        match $hash {
            $crate::cluster::crypto::Hash::Sha1 => {
                type $D = ::sha1::Sha1;
                $body
            }
            $crate::cluster::crypto::Hash::Sha224 => {
                type $D = ::sha2::Sha224;
                $body
            }
            $crate::cluster::crypto::Hash::Sha256 => {
                type $D = ::sha2::Sha256;
                $body
            }
            $crate::cluster::crypto::Hash::Sha384 => {
                type $D = ::sha2::Sha384;
                $body
            }
            $crate::cluster::crypto::Hash::Sha512 => {
                type $D = ::sha2::Sha512;
                $body
            }
        }
    };
}

pub(super) use with_hash;

impl Hash {
    pub(super) fn of(self, data: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        with_hash!(self, D => D::digest(data).to_vec())
    }

    /// Returns its length in bytes.
    pub(super) fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }
}
