use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Configuration, Mode, Source};
use crate::cluster::backends::{Base64, Etcd, EtcdKeys, EtcdRecord};
use crate::cluster::{Error, Watch};

/// Files in etcd, in the format of due: the key `/config/FILE` holds the content.
#[derive(Clone)]
pub struct EtcdSource {
    etcd: Etcd,
    /// With a slash at each end.
    prefix: String,
    mode: Mode,
}

impl EtcdSource {
    /// Returns the source at the path of due, `/config`, for reading.
    pub fn new(etcd: &Etcd) -> Self {
        Self::with_path(etcd, "config")
    }

    /// Returns the source at a path, for reading.
    pub fn with_path(etcd: &Etcd, path: &str) -> Self {
        Self {
            etcd: etcd.clone(),
            prefix: format!("/{}/", path.trim_matches('/')),
            mode: Mode::default(),
        }
    }

    /// Sets the use of the source.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn keys(&self) -> EtcdKeys<Configuration> {
        EtcdKeys {
            etcd: self.etcd.clone(),
            prefix: self.prefix.clone(),
            read: Box::new(read),
        }
    }
}

fn read(prefix: &str, record: &EtcdRecord) -> Option<Configuration> {
    let key = std::str::from_utf8(&record.key.0).ok()?;
    Some(Configuration::new(
        key.strip_prefix(prefix)?,
        record.value.0.clone(),
    ))
}

impl Source for EtcdSource {
    fn name(&self) -> &str {
        "etcd"
    }

    fn is_readable(&self) -> bool {
        self.mode.is_readable()
    }

    fn load(&self) -> Result<Vec<Configuration>, Error> {
        self.mode.check_read(self)?;
        self.keys().list()
    }

    fn store(&self, file: &str, content: &[u8]) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Put {
            key: Base64,
            value: Base64,
        }
        #[derive(Deserialize)]
        struct Done {}

        self.mode.check_write(self)?;
        let put = Put {
            key: Base64(format!("{}{}", self.prefix, super::check(file, content)?).into_bytes()),
            value: Base64(content.to_vec()),
        };
        self.etcd.call::<Done>("/v3/kv/put", &put).map(drop)
    }

    fn watch(&self) -> Result<Watch<Vec<Configuration>>, Error> {
        self.mode.check_read(self)?;
        self.keys().watch()
    }
}

impl fmt::Debug for EtcdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSource")
            .field("etcd", &self.etcd)
            .field("prefix", &self.prefix)
            .field("mode", &self.mode)
            .finish()
    }
}
