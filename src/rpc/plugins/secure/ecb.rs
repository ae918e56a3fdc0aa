//! The encryption of Teleport's `secure` plugin: AES in ECB mode with PKCS #7 padding, as hexadecimal text.

use std::fmt;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};
use md5::{Digest, Md5};
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, skip_field, string};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::rpc::wire::Dialect;

/// A key of old peers.
pub(super) struct OldKey {
    cipher: Cipher,
    /// The key's name in messages: the MD5 of the key.
    version: String,
}

enum Cipher {
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
}

const BLOCK: usize = 16;

impl OldKey {
    /// Returns `None` unless the key has 16, 24 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Box::new(Aes128::new_from_slice(key).ok()?)),
            24 => Cipher::Aes192(Box::new(Aes192::new_from_slice(key).ok()?)),
            32 => Cipher::Aes256(Box::new(Aes256::new_from_slice(key).ok()?)),
            _ => return None,
        };
        Some(Self {
            cipher,
            version: hex::encode(Md5::digest(key)),
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Encrypts bytes. Returns hexadecimal text.
    pub(super) fn seal(&self, plain: &[u8]) -> String {
        let padding = BLOCK - plain.len() % BLOCK;
        let mut bytes = plain.to_vec();
        bytes.resize(plain.len() + padding, padding as u8);
        for block in blocks(&mut bytes) {
            match &self.cipher {
                Cipher::Aes128(cipher) => cipher.encrypt_block(block),
                Cipher::Aes192(cipher) => cipher.encrypt_block(block),
                Cipher::Aes256(cipher) => cipher.encrypt_block(block),
            }
        }
        hex::encode(bytes)
    }

    /// Decrypts text of this key. Returns `None` for anything else.
    pub(super) fn open(&self, version: &str, text: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = hex::decode(text).ok()?;
        if version != self.version || bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK) {
            return None;
        }
        for block in blocks(&mut bytes) {
            match &self.cipher {
                Cipher::Aes128(cipher) => cipher.decrypt_block(block),
                Cipher::Aes192(cipher) => cipher.decrypt_block(block),
                Cipher::Aes256(cipher) => cipher.decrypt_block(block),
            }
        }
        let padding = *bytes.last()?;
        let len = bytes.len().checked_sub(padding.into())?;
        let is_padded = (1..=BLOCK).contains(&padding.into())
            && bytes[len..].iter().all(|byte| *byte == padding);
        bytes.truncate(len);
        is_padded.then_some(bytes)
    }
}

fn blocks(bytes: &mut [u8]) -> impl Iterator<Item = &mut Block> {
    (bytes.chunks_exact_mut(BLOCK)).filter_map(|block| <&mut Block>::try_from(block).ok())
}

/// An encrypted body.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Envelope {
    #[serde(alias = "version")]
    pub(super) cipherversion: String,
    pub(super) ciphertext: String,
    #[serde(skip)]
    pub(super) dialect: Dialect,
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let version = match self.dialect {
            Dialect::V4_0 => "version",
            Dialect::V4_1 => "cipherversion",
        };
        let mut fields = serializer.serialize_struct("Envelope", 2)?;
        fields.serialize_field(version, &self.cipherversion)?;
        fields.serialize_field("ciphertext", &self.ciphertext)?;
        fields.end()
    }
}

impl prost::Message for Envelope {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        string::encode(1, &self.cipherversion, buf);
        string::encode(2, &self.ciphertext, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        match tag {
            1 => string::merge(wire_type, &mut self.cipherversion, buf, ctx),
            2 => string::merge(wire_type, &mut self.ciphertext, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        string::encoded_len(1, &self.cipherversion) + string::encoded_len(2, &self.ciphertext)
    }

    fn clear(&mut self) {
        self.cipherversion.clear();
        self.ciphertext.clear();
    }
}

impl fmt::Debug for OldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldKey").finish_non_exhaustive()
    }
}
