//! Authenticated encryption: AES-GCM with a random nonce for each text.

use std::fmt;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};

use crate::rpc::wire::{Codec, Kind};

/// A key and its name.
pub(super) struct Key {
    pub(super) id: String,
    cipher: Cipher,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

pub(super) const NONCE: usize = 12;

/// The place of a text. It opens at no other one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) part: Part,
    pub(super) kind: Kind,
    /// True if the side that dialled has sent it.
    pub(super) is_from_dialler: bool,
    pub(super) codec: Codec,
    pub(super) uri: &'a [u8],
    pub(super) seq: &'a [u8],
}

/// The part of a message.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Part {
    Body = 1,
    Query = 2,
}

impl Place<'_> {
    /// Returns the place as bytes, which no other place has.
    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"epicycle rpc secure 1".to_vec();
        let Codec(codec) = self.codec;
        let direction = u8::from(self.is_from_dialler);
        bytes.extend([self.part as u8, self.kind as u8, direction, codec]);
        for field in [self.uri, self.seq] {
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(field);
        }
        bytes
    }
}

impl Key {
    /// Returns `None` unless the key has 16, 24 or 32 bytes.
    pub(super) fn new(id: String, key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Box::new(KeyInit::new_from_slice(key).ok()?)),
            24 => Cipher::Aes192(Box::new(KeyInit::new_from_slice(key).ok()?)),
            32 => Cipher::Aes256(Box::new(KeyInit::new_from_slice(key).ok()?)),
            _ => return None,
        };
        Some(Self { id, cipher })
    }

    /// Encrypts a text. Returns the nonce, the ciphertext and its tag. Returns `None` if the text is longer than AES-GCM
    /// allows (64 GiB).
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE],
        plain: &[u8],
        place: Place<'_>,
    ) -> Option<Vec<u8>> {
        let (aad, msg) = (&place.bytes()[..], plain);
        let payload = Payload { msg, aad };
        let (bytes, nonce) = (nonce, nonce.into());
        let sealed = match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(&nonce, payload),
            Cipher::Aes192(cipher) => cipher.encrypt(&nonce, payload),
            Cipher::Aes256(cipher) => cipher.encrypt(&nonce, payload),
        };
        Some([&bytes[..], &sealed.ok()?].concat())
    }

    /// Decrypts a text that was sealed with this key for this place. Returns `None` for anything else.
    pub(super) fn open(&self, sealed: &[u8], place: Place<'_>) -> Option<Vec<u8>> {
        let (nonce, msg) = sealed.split_first_chunk::<NONCE>()?;
        let aad = &place.bytes()[..];
        let (payload, nonce) = (Payload { msg, aad }, (*nonce).into());
        let plain = match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt(&nonce, payload),
            Cipher::Aes192(cipher) => cipher.decrypt(&nonce, payload),
            Cipher::Aes256(cipher) => cipher.decrypt(&nonce, payload),
        };
        plain.ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
