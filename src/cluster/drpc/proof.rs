use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{MAC, NONCE};
use crate::cluster::Error;

/// The secret that all servers of a cluster share. It is never sent: each side proves that it has it.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::Kind;
/// use epicycle::cluster::drpc::{Party, Role, Secret};
///
/// let secret = Secret::new(b"0123456789abcdef")?;
/// let dialler = Party { kind: Kind::Gate.code(), id: "gate-1", nonce: [1; 16] };
/// let listener = Party { kind: Kind::Node.code(), id: "node-1", nonce: [2; 16] };
/// let mac = secret.mac(Role::Dialler, &dialler, &listener);
/// assert!(secret.verify(&mac, Role::Dialler, &dialler, &listener));
/// // The proof of one side is not that of the other.
/// assert!(!secret.verify(&mac, Role::Listener, &dialler, &listener));
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

/// The side of a link that a proof is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// 1: the side that dials.
    Dialler,
    /// 2: the side that is dialled.
    Listener,
}

/// One side of a link, as a proof sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party<'a> {
    /// The number of its [`Kind`](crate::cluster::Kind).
    pub kind: u8,
    /// Its instance id.
    pub id: &'a str,
    /// Bytes that it chose for this link, and never used before.
    pub nonce: [u8; NONCE],
}

impl Secret {
    /// The minimum length of a secret, in bytes. Shorter ones can be guessed from a proof.
    pub const MIN: usize = 16;

    /// Returns a secret of these bytes.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if it is shorter than [`MIN`](Self::MIN).
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() < Self::MIN {
            let problem = format!(
                "{} bytes can be guessed; use at least {}, for example the output of `openssl rand -hex 32`",
                bytes.len(),
                Self::MIN
            );
            return Err(Error::argument("secret", problem));
        }
        let mac = Hmac::new_from_slice(bytes);
        let mac = mac.map_err(|error| Error::argument("secret", error.to_string()))?;
        Ok(Self(mac))
    }

    /// Returns the proof of one side of a link: HMAC-SHA256, with the secret as the key, over
    ///
    /// ```text
    /// role u8 | dialler's nonce | listener's nonce | dialler's kind u8, id length u32, id | the same of the listener
    /// ```
    pub fn mac(&self, role: Role, dialler: &Party<'_>, listener: &Party<'_>) -> [u8; MAC] {
        self.over(role, dialler, listener)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Returns true if the proof is right. It takes the same time for every wrong one.
    pub fn verify(
        &self,
        mac: &[u8; MAC],
        role: Role,
        dialler: &Party<'_>,
        listener: &Party<'_>,
    ) -> bool {
        let expected = self.over(role, dialler, listener);
        expected.verify_slice(mac).is_ok()
    }

    /// Returns a key for another purpose.
    pub(in crate::cluster) fn derive(&self, purpose: &[u8]) -> [u8; MAC] {
        self.over_purpose(purpose).finalize().into_bytes().into()
    }

    /// Returns true if these bytes are the key for that purpose. It takes the same time for all wrong ones of a length.
    #[cfg(feature = "grpc")]
    pub(in crate::cluster) fn is_derived(&self, key: &[u8], purpose: &[u8]) -> bool {
        self.over_purpose(purpose).verify_slice(key).is_ok()
    }

    fn over_purpose(&self, purpose: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // Proofs begin with 1 or 2.
        mac.update(&[0]);
        mac.update(purpose);
        mac
    }

    fn over(&self, role: Role, dialler: &Party<'_>, listener: &Party<'_>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let role = match role {
            Role::Dialler => 1,
            Role::Listener => 2,
        };
        mac.update(&[role]);
        mac.update(&dialler.nonce);
        mac.update(&listener.nonce);
        for party in [dialler, listener] {
            mac.update(&[party.kind]);
            // Without the length, parts of one id could pass for parts of the other.
            mac.update(&(party.id.len() as u32).to_be_bytes());
            mac.update(party.id.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
