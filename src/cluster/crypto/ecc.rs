//! Elliptic curves: ECIES in the layout of go-ethereum, and ECDSA with the numbers as decimals.

use std::fmt;

use aes::{Aes128, Aes192};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p256::elliptic_curve::Generate;
use p256::pkcs8::{DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use sha2::{Digest, Sha256, Sha384};

use super::{Cipher, CryptoError, Hash, Signer, decimal, pem};

/// The length of an initial counter block of AES.
const IV: usize = 16;

#[derive(Clone)]
enum Public {
    P256(p256::PublicKey),
    P384(p384::PublicKey),
}

#[derive(Clone)]
enum Private {
    P256(p256::SecretKey),
    P384(p384::SecretKey),
}

/// ECIES over P-256 (AES-128, SHA-256) or P-384 (AES-192, SHA-384), by the curve of the key, in the layout of go-ethereum and due:
/// uncompressed point, IV, AES-CTR, HMAC.
///
/// It has two operations of the curve for each packet, so it is for a login and not for every packet: see
/// [`SecureChannel`](super::SecureChannel).
#[derive(Clone, Default)]
pub struct EccCipher {
    to: Option<Public>,
    own: Option<Private>,
    kdf: Vec<u8>,
    mac: Vec<u8>,
}

impl EccCipher {
    /// Returns a cipher without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the public key of the receiver: PEM, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read, or is of another curve.
    pub fn encrypt_to(mut self, key: &str) -> Result<Self, CryptoError> {
        self.to = Some(public_key(key)?);
        Ok(self)
    }

    /// Sets the private key of this side: PEM in SEC1 or PKCS#8, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read, or is of another curve.
    pub fn decrypt_with(mut self, key: &str) -> Result<Self, CryptoError> {
        self.own = Some(private_key(key)?);
        Ok(self)
    }

    /// Sets what both sides know besides the keys: `s1` is a part of the derived keys, and `s2` of the MAC. Default: nothing.
    pub fn shared(mut self, s1: impl Into<Vec<u8>>, s2: impl Into<Vec<u8>>) -> Self {
        self.kdf = s1.into();
        self.mac = s2.into();
        self
    }
}

/// Defines ECIES on a curve.
macro_rules! ecies {
    ($seal:ident, $open:ident, $curve:ident, $point:literal, $Aes:ty, $D:ty) => {
        fn $seal(
            to: &$curve::PublicKey,
            data: &[u8],
            s1: &[u8],
            s2: &[u8],
        ) -> Result<Vec<u8>, CryptoError> {
            let once = $curve::SecretKey::generate_from_rng(&mut rand::rng());
            let shared = once.diffie_hellman(to);
            let (key, mac_key) = derive::<$D>(shared.raw_secret_bytes(), s1);
            let iv: [u8; IV] = rand::random();
            let mut sealed = Vec::with_capacity($point + IV + data.len() + mac_key.len());
            let point = $curve::Sec1Point::from(once.public_key());
            sealed.extend_from_slice(point.as_bytes());
            sealed.extend_from_slice(&iv);
            sealed.extend_from_slice(data);
            apply::<Ctr128BE<$Aes>>(&key, &iv, &mut sealed[$point + IV..])?;
            let tag = tag::<Hmac<$D>>(&mac_key, &sealed[$point..], s2)?;
            let tag = tag.finalize().into_bytes();
            sealed.extend_from_slice(&tag);
            Ok(sealed)
        }

        fn $open(
            own: &$curve::SecretKey,
            data: &[u8],
            s1: &[u8],
            s2: &[u8],
        ) -> Result<Vec<u8>, CryptoError> {
            let tag_len = <$D>::output_size();
            let parts = data.split_at_checked($point).and_then(|(point, rest)| {
                let (message, tag) = rest.split_at_checked(rest.len().checked_sub(tag_len)?)?;
                let (iv, data) = message.split_at_checked(IV)?;
                Some((point, message, iv, data, tag))
            });
            let (point, message, iv, data, given) = parts.ok_or(CryptoError::Refused)?;
            let from = $curve::PublicKey::from_sec1_bytes(point);
            let from = from.map_err(|_| CryptoError::Refused)?;
            let shared = own.diffie_hellman(&from);
            let (key, mac_key) = derive::<$D>(shared.raw_secret_bytes(), s1);
            let tag = tag::<Hmac<$D>>(&mac_key, message, s2)?;
            tag.verify_slice(given).map_err(|_| CryptoError::Refused)?;
            let mut opened = data.to_vec();
            apply::<Ctr128BE<$Aes>>(&key, iv, &mut opened)?;
            Ok(opened)
        }
    };
}

ecies!(seal_256, open_256, p256, 65, Aes128, Sha256);
ecies!(seal_384, open_384, p384, 97, Aes192, Sha384);

/// Returns the keys of the cipher and of the MAC. Both are half as long as the shared secret.
fn derive<D: Digest>(secret: &[u8], s1: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut keys = Vec::new();
    let mut counter = 1u32;
    while keys.len() < secret.len() {
        let hash = D::new().chain_update(counter.to_be_bytes());
        let hash = hash.chain_update(secret).chain_update(s1);
        keys.extend_from_slice(&hash.finalize());
        counter += 1;
    }
    keys.truncate(secret.len());
    let mac = D::digest(&keys[secret.len() / 2..]).to_vec();
    keys.truncate(secret.len() / 2);
    (keys, mac)
}

/// Encrypts or decrypts, which is the same.
fn apply<C: KeyIvInit + StreamCipher>(
    key: &[u8],
    iv: &[u8],
    data: &mut [u8],
) -> Result<(), CryptoError> {
    let mut cipher = C::new_from_slices(key, iv).map_err(failed)?;
    cipher.try_apply_keystream(data).map_err(failed)
}

fn tag<M: Mac + KeyInit>(key: &[u8], message: &[u8], s2: &[u8]) -> Result<M, CryptoError> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(failed)?;
    mac.update(message);
    mac.update(s2);
    Ok(mac)
}

impl Cipher for EccCipher {
    fn name(&self) -> &str {
        "ecc"
    }

    fn encrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "EccCipher::encrypt_to";
        match self.to.as_ref().ok_or(CryptoError::NoKey { method })? {
            Public::P256(to) => seal_256(to, data, &self.kdf, &self.mac),
            Public::P384(to) => seal_384(to, data, &self.kdf, &self.mac),
        }
    }

    fn decrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "EccCipher::decrypt_with";
        match self.own.as_ref().ok_or(CryptoError::NoKey { method })? {
            Private::P256(own) => open_256(own, data, &self.kdf, &self.mac),
            Private::P384(own) => open_384(own, data, &self.kdf, &self.mac),
        }
    }
}

/// Signatures by ECDSA over P-256 or P-384, as due writes them: `r` and `s` as decimals, and a delimiter between them.
#[derive(Clone)]
pub struct EccSigner {
    of: Option<Public>,
    own: Option<Private>,
    hash: Hash,
    delimiter: String,
}

impl EccSigner {
    /// Returns a signer without keys. The default of due for the delimiter is a space.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Failed`] if the delimiter is empty or has a digit.
    pub fn new(hash: Hash, delimiter: impl Into<String>) -> Result<Self, CryptoError> {
        let delimiter = delimiter.into();
        if delimiter.is_empty() || delimiter.bytes().any(|byte| byte.is_ascii_digit()) {
            let problem = "a delimiter has at least one character and no digits".to_owned();
            return Err(CryptoError::Failed { problem });
        }
        Ok(Self {
            of: None,
            own: None,
            hash,
            delimiter,
        })
    }

    /// Sets the public key of the other side, whose signatures are verified: PEM, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read, or is of another curve.
    pub fn verify_with(mut self, key: &str) -> Result<Self, CryptoError> {
        self.of = Some(public_key(key)?);
        Ok(self)
    }

    /// Sets the private key of this side: PEM in SEC1 or PKCS#8, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read, or is of another curve.
    pub fn sign_with(mut self, key: &str) -> Result<Self, CryptoError> {
        self.own = Some(private_key(key)?);
        Ok(self)
    }
}

impl Signer for EccSigner {
    fn name(&self) -> &str {
        "ecc"
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "EccSigner::sign_with";
        let digest = self.hash.of(data);
        let (r, s) = match self.own.as_ref().ok_or(CryptoError::NoKey { method })? {
            Private::P256(key) => {
                let key = p256::ecdsa::SigningKey::from(key);
                let signed: p256::ecdsa::Signature = key.sign_prehash(&digest).map_err(failed)?;
                let (r, s) = signed.split_bytes();
                (decimal::from_bytes(&r), decimal::from_bytes(&s))
            }
            Private::P384(key) => {
                let key = p384::ecdsa::SigningKey::from(key);
                let signed: p384::ecdsa::Signature = key.sign_prehash(&digest).map_err(failed)?;
                let (r, s) = signed.split_bytes();
                (decimal::from_bytes(&r), decimal::from_bytes(&s))
            }
        };
        Ok((r + &self.delimiter + &s).into_bytes())
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<bool, CryptoError> {
        let method = "EccSigner::verify_with";
        let digest = self.hash.of(data);
        let numbers = |len| {
            let text = std::str::from_utf8(signature).ok()?;
            let (r, s) = text.split_once(&self.delimiter)?;
            let (r, s) = (
                decimal::to_bytes(r.as_bytes(), len)?,
                decimal::to_bytes(s.as_bytes(), len)?,
            );
            Some([r, s].concat())
        };
        let is_right = match self.of.as_ref().ok_or(CryptoError::NoKey { method })? {
            Public::P256(key) => numbers(32).and_then(|numbers| {
                let signature = p256::ecdsa::Signature::from_slice(&numbers).ok()?;
                let key = p256::ecdsa::VerifyingKey::from(key);
                key.verify_prehash(&digest, &signature).ok()
            }),
            Public::P384(key) => numbers(48).and_then(|numbers| {
                let signature = p384::ecdsa::Signature::from_slice(&numbers).ok()?;
                let key = p384::ecdsa::VerifyingKey::from(key);
                key.verify_prehash(&digest, &signature).ok()
            }),
        };
        Ok(is_right.is_some())
    }
}

/// Returns a new key pair on P-256, private and public, in PEM (PKCS#8).
pub fn generate_ecc() -> (String, String) {
    let key = p256::SecretKey::generate_from_rng(&mut rand::rng());
    let private = key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string());
    let public = key.public_key().to_public_key_pem(LineEnding::LF);
    // A key that was just made has a form in PEM.
    (private.unwrap_or_default(), public.unwrap_or_default())
}

fn public_key(key: &str) -> Result<Public, CryptoError> {
    let text = pem::read(key)?;
    let first = p256::PublicKey::from_public_key_pem(&text).map(Public::P256);
    let second = || p384::PublicKey::from_public_key_pem(&text).map(Public::P384);
    let key = first.or_else(|_| second());
    key.map_err(|error| pem::wrong("a public key of P-256 or P-384 in PEM", error))
}

fn private_key(key: &str) -> Result<Private, CryptoError> {
    let text = pem::read(key)?;
    // openssl writes the parameters of the curve before the key.
    let text = match text.find("-----BEGIN EC PRIVATE KEY-----") {
        Some(begin) => &text[begin..],
        None => &text,
    };
    let first = p256::SecretKey::from_pem(text).map(Private::P256);
    let second = || p384::SecretKey::from_pem(text).map(Private::P384);
    let key = first.or_else(|_| second());
    key.map_err(|error| {
        pem::wrong(
            "a private key of P-256 or P-384 in PEM, without a password",
            error,
        )
    })
}

fn failed(error: impl fmt::Display) -> CryptoError {
    let problem = error.to_string();
    CryptoError::Failed { problem }
}

impl fmt::Debug for EccCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EccCipher").finish_non_exhaustive()
    }
}

impl fmt::Debug for EccSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EccSigner")
            .field("hash", &self.hash)
            .field("delimiter", &self.delimiter)
            .finish_non_exhaustive()
    }
}
