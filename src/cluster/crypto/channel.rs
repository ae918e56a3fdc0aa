//! A channel with keys of its own for each connection: X25519 and ChaCha20-Poly1305.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::SystemRandom;

use super::CryptoError;

/// The length of a public key.
const KEY: usize = 32;

/// The length of the counter before what is sealed.
const COUNTER: usize = 8;

/// The first half of an agreement about keys: a public key to send to the other side.
///
/// Somebody who changes the public keys on their way can read everything. So sign the node's public key with a
/// [`Signer`](super::Signer) whose public half the client has got with the program, and let the client verify it.
///
/// ```
/// use epicycle::cluster::crypto::{Agreement, AgreementSide};
///
/// // The login has the client's public key, and its answer the node's.
/// let (client, node) = (Agreement::start()?, Agreement::start()?);
/// let (to_node, to_client) = (*client.public_key(), *node.public_key());
/// let mut client = client.finish(AgreementSide::Client, &to_client)?;
/// let mut node = node.finish(AgreementSide::Server, &to_node)?;
///
/// let sealed = client.seal(b"hello")?;
/// assert_eq!(node.open(&sealed)?, b"hello");
/// // What came once does not come again.
/// assert!(node.open(&sealed).is_err());
/// # Ok::<(), epicycle::cluster::crypto::CryptoError>(())
/// ```
pub struct Agreement {
    private: EphemeralPrivateKey,
    public: [u8; KEY],
}

/// The side of a connection. Each side seals with a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgreementSide {
    /// The one that connects.
    Client,
    /// The one that answers.
    Server,
}

impl Agreement {
    /// Makes a key for one connection.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Failed`] if the system has no random numbers.
    pub fn start() -> Result<Self, CryptoError> {
        let failed = |_| CryptoError::Failed {
            problem: "the system has no random numbers".to_owned(),
        };
        let private =
            EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(failed)?;
        let computed = private.compute_public_key().map_err(failed)?;
        let mut public = [0; KEY];
        public.copy_from_slice(computed.as_ref());
        Ok(Self { private, public })
    }

    /// Returns the public key, for the other side.
    pub fn public_key(&self) -> &[u8; KEY] {
        &self.public
    }

    /// Returns the channel with the side that has this public key.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Refused`] if it is no public key.
    pub fn finish(self, side: AgreementSide, other: &[u8]) -> Result<SecureChannel, CryptoError> {
        let theirs = UnparsedPublicKey::new(&X25519, other);
        let (client, server) = match side {
            AgreementSide::Client => (&self.public[..], other),
            AgreementSide::Server => (other, &self.public[..]),
        };
        let info = |label: &'static [u8]| [label, client, server];
        let (up, down) = (info(b"epicycle client"), info(b"epicycle server"));
        let keys = agree_ephemeral(self.private, &theirs, |secret| {
            let secret = Salt::new(HKDF_SHA256, b"epicycle secure channel 1").extract(secret);
            let key = |info: &[&[u8]; 3]| {
                let mut bytes = [0; KEY];
                secret
                    .expand(info, Length)
                    .and_then(|okm| okm.fill(&mut bytes))?;
                UnboundKey::new(&CHACHA20_POLY1305, &bytes).map(LessSafeKey::new)
            };
            Ok::<_, ring::error::Unspecified>((key(&up)?, key(&down)?))
        });
        let keys = keys.map_err(|_| CryptoError::Refused)?;
        let (up, down) = keys.map_err(|_| CryptoError::Refused)?;
        let (sealing, opening) = match side {
            AgreementSide::Client => (up, down),
            AgreementSide::Server => (down, up),
        };
        Ok(SecureChannel {
            sealing,
            opening,
            sent: 0,
            received: 0,
        })
    }
}

/// A channel that hides and authenticates the data of each packet, in order: data that was changed, repeated or is older than what
/// came before is refused. Data grows by 24 bytes: a counter and a tag.
///
/// The node keeps it in its state, by connection, and sends [`Raw`](crate::cluster::codec::Raw) data. One channel seals for one client,
/// so broadcasts and multicasts stay as they are.
pub struct SecureChannel {
    sealing: LessSafeKey,
    opening: LessSafeKey,
    sent: u64,
    received: u64,
}

impl SecureChannel {
    /// Returns the sealed data.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Failed`] if the data is too long.
    pub fn seal(&mut self, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let failed = |problem: &str| CryptoError::Failed {
            problem: problem.to_owned(),
        };
        // No connection lives that long, and a number must not come twice.
        self.sent = self
            .sent
            .checked_add(1)
            .ok_or_else(|| failed("all numbers are used up"))?;
        let mut sealed = Vec::with_capacity(COUNTER + data.len() + CHACHA20_POLY1305.tag_len());
        sealed.extend_from_slice(&self.sent.to_be_bytes());
        sealed.extend_from_slice(data);
        let tag = self.sealing.seal_in_place_separate_tag(
            nonce(self.sent),
            Aad::empty(),
            &mut sealed[COUNTER..],
        );
        let tag = tag.map_err(|_| failed("the data is too long"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Returns the data that the other side has sealed.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Refused`] if it was changed, repeated, or is older than what came before. The channel is as it was.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let (counter, data) = sealed.split_first_chunk().ok_or(CryptoError::Refused)?;
        let counter = u64::from_be_bytes(*counter);
        if counter <= self.received {
            return Err(CryptoError::Refused);
        }
        let mut opened = data.to_vec();
        let len = self
            .opening
            .open_in_place(nonce(counter), Aad::empty(), &mut opened);
        let len = len.map_err(|_| CryptoError::Refused)?.len();
        opened.truncate(len);
        self.received = counter;
        Ok(opened)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - COUNTER..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The length of a key, for the derivation.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY
    }
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreement").finish_non_exhaustive()
    }
}

impl fmt::Debug for SecureChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureChannel")
            .field("sent", &self.sent)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
