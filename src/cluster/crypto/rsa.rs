//! RSA: encryption in blocks, and signatures.

use std::fmt;

use ::rsa::pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey};
use ::rsa::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding,
};
use ::rsa::traits::PublicKeyParts;
use ::rsa::{Oaep, Pkcs1v15Encrypt, Pkcs1v15Sign, PrivateKey, Pss, PublicKey};

use super::hash::with_hash;
use super::{Cipher, CryptoError, Hash, Signer, pem};

/// The padding of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RsaPadding {
    /// PKCS#1 v1.5, the default of due: a block holds the size of the key less 11 bytes.
    #[default]
    Pkcs1v15,
    /// OAEP: a block holds the size of the key less two hashes and 2 bytes.
    Oaep {
        /// The hash, which MGF1 has too.
        hash: Hash,
        /// The label, which both sides must have.
        label: Vec<u8>,
    },
}

impl RsaPadding {
    /// Returns the bytes of data in a block.
    fn room(&self, key: &PublicKey) -> Result<usize, CryptoError> {
        let taken = match self {
            RsaPadding::Pkcs1v15 => 11,
            RsaPadding::Oaep { hash, .. } => 2 * hash.len() + 2,
        };
        let size = key.size();
        let room = size.checked_sub(taken).filter(|room| *room > 0);
        room.ok_or_else(|| CryptoError::Key {
            problem: format!(
                "{} bits are too few for this hash; take a longer key or a shorter hash",
                size * 8
            ),
        })
    }
}

/// RSA. Data that is longer than a block is cut into blocks, each of which is encrypted by itself, as due does it.
///
/// A decryption is a private-key operation for each block, which takes about as long as thousands of packets without a cipher do. So
/// a client can make the node work hard by sending little: use it for a login only, and [`SecureChannel`](super::SecureChannel) for the
/// packets. RUSTSEC-2023-0071 tells that the time of a decryption may tell of the key to somebody who measures many. Decryption is
/// blinded here, and with [`RsaPadding::Pkcs1v15`] the result of a wrong padding looks like any other data.
#[derive(Clone)]
pub struct RsaCipher {
    to: Option<PublicKey>,
    own: Option<PrivateKey>,
    padding: RsaPadding,
}

impl RsaCipher {
    /// Returns a cipher without keys.
    pub fn new(padding: RsaPadding) -> Self {
        Self {
            to: None,
            own: None,
            padding,
        }
    }

    /// Sets the public key of the receiver: PEM in PKCS#1 or PKCS#8, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read, or is too short for the hash.
    pub fn encrypt_to(mut self, key: &str) -> Result<Self, CryptoError> {
        let key = public_key(key)?;
        self.padding.room(&key)?;
        self.to = Some(key);
        Ok(self)
    }

    /// Sets the private key of this side: PEM in PKCS#1 or PKCS#8, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// As [`encrypt_to`](Self::encrypt_to).
    pub fn decrypt_with(mut self, key: &str) -> Result<Self, CryptoError> {
        let key = private_key(key)?;
        self.padding.room(key.as_public_key())?;
        self.own = Some(key);
        Ok(self)
    }
}

impl Cipher for RsaCipher {
    fn name(&self) -> &str {
        "rsa"
    }

    fn encrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "RsaCipher::encrypt_to";
        let key = self.to.as_ref().ok_or(CryptoError::NoKey { method })?;
        let room = self.padding.room(key)?;
        let mut encrypted = Vec::with_capacity(data.len().div_ceil(room) * key.size());
        let mut rng = rand::rng();
        for block in data.chunks(room) {
            let block = match &self.padding {
                RsaPadding::Pkcs1v15 => key.encrypt(&mut rng, Pkcs1v15Encrypt, block),
                RsaPadding::Oaep { hash, label } => {
                    with_hash!(hash, D => key.encrypt(&mut rng, Oaep::<D>::new_with_label(label.clone()), block))
                }
            };
            encrypted.extend(block.map_err(failed)?);
        }
        Ok(encrypted)
    }

    fn decrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "RsaCipher::decrypt_with";
        let key = self.own.as_ref().ok_or(CryptoError::NoKey { method })?;
        let size = key.as_public_key().size();
        if !data.len().is_multiple_of(size) {
            return Err(CryptoError::Refused);
        }
        let mut decrypted = Vec::with_capacity(data.len());
        for block in data.chunks_exact(size) {
            let block = match &self.padding {
                RsaPadding::Pkcs1v15 => key.decrypt(Pkcs1v15Encrypt, block),
                RsaPadding::Oaep { hash, label } => {
                    with_hash!(hash, D => key.decrypt(Oaep::<D>::new_with_label(label.clone()), block))
                }
            };
            // The reason of a failure would help an attacker.
            decrypted.extend(block.map_err(|_| CryptoError::Refused)?);
        }
        Ok(decrypted)
    }
}

/// The form of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RsaSignature {
    /// PSS with a salt as long as the hash: the default of due.
    #[default]
    Pss,
    /// PKCS#1 v1.5.
    Pkcs1v15,
}

/// Signatures by RSA.
#[derive(Clone)]
pub struct RsaSigner {
    of: Option<PublicKey>,
    own: Option<PrivateKey>,
    form: RsaSignature,
    hash: Hash,
}

impl RsaSigner {
    /// Returns a signer without keys.
    pub fn new(form: RsaSignature, hash: Hash) -> Self {
        Self {
            of: None,
            own: None,
            form,
            hash,
        }
    }

    /// Sets the public key of the other side, whose signatures are verified: PEM, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read.
    pub fn verify_with(mut self, key: &str) -> Result<Self, CryptoError> {
        self.of = Some(public_key(key)?);
        Ok(self)
    }

    /// Sets the private key of this side: PEM, as text or as the path of a file.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Key`] if it cannot be read.
    pub fn sign_with(mut self, key: &str) -> Result<Self, CryptoError> {
        self.own = Some(private_key(key)?);
        Ok(self)
    }
}

impl Signer for RsaSigner {
    fn name(&self) -> &str {
        "rsa"
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let method = "RsaSigner::sign_with";
        let key = self.own.as_ref().ok_or(CryptoError::NoKey { method })?;
        let digest = self.hash.of(data);
        let signature = match self.form {
            RsaSignature::Pss => with_hash!(self.hash, D => key.sign(Pss::<D>::new(), &digest)),
            RsaSignature::Pkcs1v15 => {
                with_hash!(self.hash, D => key.sign(Pkcs1v15Sign::new::<D>(), &digest))
            }
        };
        signature.map_err(failed)
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<bool, CryptoError> {
        let method = "RsaSigner::verify_with";
        let key = self.of.as_ref().ok_or(CryptoError::NoKey { method })?;
        let digest = self.hash.of(data);
        let verified = match self.form {
            RsaSignature::Pss => {
                with_hash!(self.hash, D => key.verify(Pss::<D>::new(), &digest, signature))
            }
            RsaSignature::Pkcs1v15 => {
                with_hash!(self.hash, D => key.verify(Pkcs1v15Sign::new::<D>(), &digest, signature))
            }
        };
        Ok(verified.is_ok())
    }
}

/// Returns a new key pair, private and public, in PEM (PKCS#8). A key of 2,048 bits takes a second.
///
/// # Errors
///
/// [`CryptoError::Failed`] for fewer than 2,048 bits or more than 8,192.
pub fn generate_rsa(bits: usize) -> Result<(String, String), CryptoError> {
    if !(2048..=8192).contains(&bits) {
        let problem = format!("{bits} bits are not from 2,048 to 8,192");
        return Err(CryptoError::Failed { problem });
    }
    let key = PrivateKey::new(&mut rand::rng(), bits).map_err(failed)?;
    let public = key.as_public_key().to_public_key_pem(LineEnding::LF);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(failed)?;
    Ok((private.to_string(), public.map_err(failed)?))
}

fn public_key(key: &str) -> Result<PublicKey, CryptoError> {
    let text = pem::read(key)?;
    let key = match text.contains("BEGIN RSA PUBLIC KEY") {
        true => PublicKey::from_pkcs1_pem(&text).map_err(|error| error.to_string()),
        false => PublicKey::from_public_key_pem(&text).map_err(|error| error.to_string()),
    };
    key.map_err(|error| pem::wrong("a public RSA key in PEM", error))
}

fn private_key(key: &str) -> Result<PrivateKey, CryptoError> {
    let text = pem::read(key)?;
    let key = match text.contains("BEGIN RSA PRIVATE KEY") {
        true => PrivateKey::from_pkcs1_pem(&text).map_err(|error| error.to_string()),
        false => PrivateKey::from_pkcs8_pem(&text).map_err(|error| error.to_string()),
    };
    key.map_err(|error| pem::wrong("a private RSA key in PEM, without a password", error))
}

fn failed(error: impl fmt::Display) -> CryptoError {
    let problem = error.to_string();
    CryptoError::Failed { problem }
}

impl fmt::Debug for RsaCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaCipher")
            .field("padding", &self.padding)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RsaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaSigner")
            .field("form", &self.form)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}
