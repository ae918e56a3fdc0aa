//! Ciphers and signatures for the data of packets, as due has them, and a channel that is fit for every packet.
//!
//! A node with a [cipher](crate::cluster::node::NodeBuilder::cipher) encrypts what it sends to clients, and decrypts what clients send.
//! Messages between servers stay as they are: the links have TLS and a secret for that.
//!
//! | | Use | Cost |
//! |---|---|---|
//! | [`RsaCipher`] | a few small packets, such as a login with a password, for clients that have RSA already | the most by far: a private-key operation for each block of what a client sends |
//! | [`EccCipher`] | the same, with ECIES as go-ethereum has it | two curve operations for each packet |
//! | [`SecureChannel`] | every packet of a connection | as TLS, after one agreement |
//! | [`RsaSigner`], [`EccSigner`] | proof of who has sent something | one operation of the key |
//!
//! TLS at the gate is better than all of them where clients can have it: it hides the routes too, and authenticates the server.
//!
//! ```
//! use epicycle::cluster::crypto::{EccCipher, Cipher, generate_ecc};
//!
//! let (private, public) = generate_ecc();
//! let client = EccCipher::new().encrypt_to(&public)?;
//! let node = EccCipher::new().decrypt_with(&private)?;
//! let data = client.encrypt(b"hello")?;
//! assert_eq!(node.decrypt(&data)?, b"hello");
//! # Ok::<(), epicycle::cluster::crypto::CryptoError>(())
//! ```

mod channel;
mod decimal;
mod ecc;
mod hash;
mod pem;
mod rsa;

use crate::error::error_messages;

pub use self::channel::{Agreement, AgreementSide, SecureChannel};
pub use self::ecc::{EccCipher, EccSigner, generate_ecc};
pub use self::hash::Hash;
pub use self::rsa::{RsaCipher, RsaPadding, RsaSignature, RsaSigner, generate_rsa};

/// Encrypts and decrypts the data of packets. It is called on the reactors, for several clients at once.
pub trait Cipher: Send + Sync + 'static {
    /// Returns its name, for logs.
    fn name(&self) -> &str;

    /// Returns the encrypted data.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoKey`] if it has no key for that, and [`CryptoError::Failed`].
    fn encrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError>;

    /// Returns the decrypted data. The peer chooses the bytes.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoKey`] if it has no key for that, and [`CryptoError::Refused`] if the data was not encrypted for it.
    fn decrypt(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError>;
}

/// Signs data, and verifies signatures.
pub trait Signer: Send + Sync + 'static {
    /// Returns its name, for logs.
    fn name(&self) -> &str;

    /// Returns the signature of data.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoKey`] if it has no private key, and [`CryptoError::Failed`].
    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, CryptoError>;

    /// Returns true if the signature is that of this data.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoKey`] if it has no public key. A malformed signature is not an error: it is wrong.
    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<bool, CryptoError>;
}

/// The reason why data cannot be encrypted, decrypted or signed. It never contains the data.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CryptoError {
    /// A key cannot be read.
    Key {
        /// The problem, with its remedy.
        problem: String,
    },
    /// The key for this is missing.
    NoKey {
        /// The method that sets it.
        method: &'static str,
    },
    /// The data was not encrypted for this key, or was changed.
    Refused,
    /// The operation failed.
    Failed {
        /// The problem.
        problem: String,
    },
}

error_messages! {
    CryptoError {
        CryptoError::Key { problem } => "the key: {problem}",
        CryptoError::NoKey { method } => "there is no key for this; set one by `{method}`",
        CryptoError::Refused => "the data was not encrypted for this key, or was changed",
        CryptoError::Failed { problem } => "the operation failed: {problem}",
    }
}

impl From<CryptoError> for super::Error {
    fn from(error: CryptoError) -> Self {
        super::Error::Codec(std::sync::Arc::new(error))
    }
}
