//! The keys of the tables of `crypto`.

use super::Effect::{self, Sets};
use super::{Keys, set};
use crate::cluster::config::{CryptoConfig, KeysConfig};

/// The tables. Older versions of due have those of the other direction by themselves.
pub(super) const TABLES: [&str; 8] = [
    "crypto.rsa.encryptor.",
    "crypto.rsa.decryptor.",
    "crypto.rsa.signer.",
    "crypto.rsa.verifier.",
    "crypto.ecc.encryptor.",
    "crypto.ecc.decryptor.",
    "crypto.ecc.signer.",
    "crypto.ecc.verifier.",
];

pub(super) const KEYS: Keys<KeysConfig> = &[
    (
        "hash",
        Sets(|keys, value| set(&mut keys.hash, value.optional()?)),
    ),
    (
        "padding",
        Sets(|keys, value| set(&mut keys.padding, value.optional()?)),
    ),
    (
        "label",
        Sets(|keys, value| set(&mut keys.label, value.optional()?)),
    ),
    (
        "delimiter",
        Sets(|keys, value| set(&mut keys.delimiter, value.optional()?)),
    ),
    (
        "s1",
        Sets(|keys, value| set(&mut keys.s1, value.optional()?)),
    ),
    (
        "s2",
        Sets(|keys, value| set(&mut keys.s2, value.optional()?)),
    ),
    (
        "publicKey",
        Sets(|keys, value| set(&mut keys.public_key, value.optional()?)),
    ),
    (
        "privateKey",
        Sets(|keys, value| set(&mut keys.private_key, value.optional()?)),
    ),
    (
        "blockSize",
        Effect::None("a block is as large as the key allows"),
    ),
];

/// Returns the table that a key is in, and its name there.
pub(super) fn table<'c, 'p>(
    config: &'c mut CryptoConfig,
    path: &'p str,
) -> Option<(&'c mut KeysConfig, &'p str)> {
    let found = TABLES.iter().position(|table| path.starts_with(table))?;
    let key = &path[TABLES[found].len()..];
    let keys = match found {
        0 | 1 => &mut config.rsa_cipher,
        2 | 3 => &mut config.rsa_signer,
        4 | 5 => &mut config.ecc_cipher,
        _ => &mut config.ecc_signer,
    };
    Some((keys, key))
}
