use super::{CryptoConfig, KeysConfig};
use crate::cluster::crypto::{
    CryptoError, EccCipher, EccSigner, Hash, RsaCipher, RsaPadding, RsaSignature, RsaSigner,
};

impl CryptoConfig {
    /// Returns the cipher of `crypto.rsa.encryptor`, with the keys that are there.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] if a value or a key cannot be used.
    pub fn rsa_cipher(&self) -> Result<RsaCipher, CryptoError> {
        let keys = &self.rsa_cipher;
        let padding = match keys.padding.as_deref() {
            None => RsaPadding::Pkcs1v15,
            Some(name) if name.eq_ignore_ascii_case("normal") => RsaPadding::Pkcs1v15,
            Some(name) if name.eq_ignore_ascii_case("oaep") => RsaPadding::Oaep {
                hash: keys.hash()?,
                label: keys.label.clone().unwrap_or_default().into_bytes(),
            },
            Some(other) => return Err(wrong("padding", other, "NORMAL, OAEP")),
        };
        let mut cipher = RsaCipher::new(padding);
        if let Some(key) = &keys.public_key {
            cipher = cipher.encrypt_to(key)?;
        }
        if let Some(key) = &keys.private_key {
            cipher = cipher.decrypt_with(key)?;
        }
        Ok(cipher)
    }

    /// Returns the signer of `crypto.rsa.signer`, with the keys that are there.
    ///
    /// # Errors
    ///
    /// As [`rsa_cipher`](Self::rsa_cipher).
    pub fn rsa_signer(&self) -> Result<RsaSigner, CryptoError> {
        let keys = &self.rsa_signer;
        let form = match keys.padding.as_deref() {
            None => RsaSignature::Pss,
            Some(name) if name.eq_ignore_ascii_case("pss") => RsaSignature::Pss,
            Some(name) if name.eq_ignore_ascii_case("pkcs") => RsaSignature::Pkcs1v15,
            Some(other) => return Err(wrong("padding", other, "PSS, PKCS")),
        };
        let mut signer = RsaSigner::new(form, keys.hash()?);
        if let Some(key) = &keys.public_key {
            signer = signer.verify_with(key)?;
        }
        if let Some(key) = &keys.private_key {
            signer = signer.sign_with(key)?;
        }
        Ok(signer)
    }

    /// Returns the cipher of `crypto.ecc.encryptor`, with the keys that are there.
    ///
    /// # Errors
    ///
    /// As [`rsa_cipher`](Self::rsa_cipher).
    pub fn ecc_cipher(&self) -> Result<EccCipher, CryptoError> {
        let keys = &self.ecc_cipher;
        let shared = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut cipher = EccCipher::new().shared(shared(&keys.s1), shared(&keys.s2));
        if let Some(key) = &keys.public_key {
            cipher = cipher.encrypt_to(key)?;
        }
        if let Some(key) = &keys.private_key {
            cipher = cipher.decrypt_with(key)?;
        }
        Ok(cipher)
    }

    /// Returns the signer of `crypto.ecc.signer`, with the keys that are there.
    ///
    /// # Errors
    ///
    /// As [`rsa_cipher`](Self::rsa_cipher).
    pub fn ecc_signer(&self) -> Result<EccSigner, CryptoError> {
        let keys = &self.ecc_signer;
        let delimiter = keys.delimiter.as_deref().unwrap_or(" ");
        let mut signer = EccSigner::new(keys.hash()?, delimiter)?;
        if let Some(key) = &keys.public_key {
            signer = signer.verify_with(key)?;
        }
        if let Some(key) = &keys.private_key {
            signer = signer.sign_with(key)?;
        }
        Ok(signer)
    }
}

impl KeysConfig {
    /// Returns the hash. That of due is SHA-256, unless it is told another.
    fn hash(&self) -> Result<Hash, CryptoError> {
        match self.hash.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("sha1") => Ok(Hash::Sha1),
            Some("sha224") => Ok(Hash::Sha224),
            None | Some("sha256") => Ok(Hash::Sha256),
            Some("sha384") => Ok(Hash::Sha384),
            Some("sha512") => Ok(Hash::Sha512),
            Some(other) => {
                let known = "sha1, sha224, sha256, sha384, sha512";
                Err(wrong("hash", other, known))
            }
        }
    }
}

fn wrong(name: &str, value: &str, known: &str) -> CryptoError {
    let problem = format!("the {name} {value:?} is not one of {known}");
    CryptoError::Key { problem }
}
