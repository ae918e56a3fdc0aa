use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::{Configuration, Mode, Source};
use crate::cluster::backends::{Consul, escape};
use crate::cluster::ending::Ending;
use crate::cluster::polled::watch_polled;
use crate::cluster::{Error, Watch};

/// Files in Consul, in the format of due: the key `config/FILE` holds the content. Watched by queries that Consul holds.
#[derive(Clone)]
pub struct ConsulSource {
    consul: Consul,
    /// With a slash at the end.
    prefix: String,
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    /// In base64.
    value: Option<String>,
}

impl ConsulSource {
    /// Returns the source at the path of due, `config`, for reading.
    pub fn new(consul: &Consul) -> Self {
        Self::with_path(consul, "config")
    }

    /// Returns the source at a path, for reading.
    pub fn with_path(consul: &Consul, path: &str) -> Self {
        Self {
            consul: consul.clone(),
            prefix: format!("{}/", path.trim_matches('/')),
            mode: Mode::default(),
        }
    }

    /// Sets the use of the source.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn key(&self, file: &str) -> String {
        let key = format!("{}{file}", self.prefix);
        let parts: Vec<_> = key.split('/').map(escape).collect();
        format!("/v1/kv/{}", parts.join("/"))
    }

    fn poll(&self, index: &mut u64, ending: &Ending) -> Result<Vec<Configuration>, Error> {
        let path = format!("{}?recurse=true", self.key(""));
        let found = self.consul.get::<Vec<Pair>>(&path, *index, ending)?;
        *index = found.index;
        let mut files = Vec::new();
        for pair in found.value.unwrap_or_default() {
            let Some(path) = pair.key.strip_prefix(&self.prefix) else {
                continue;
            };
            // A folder.
            if path.is_empty() || path.ends_with('/') {
                continue;
            }
            let content = BASE64_STANDARD.decode(pair.value.unwrap_or_default());
            let content = content.map_err(|error| {
                let problem = format!("the value of {} is no base64: {error}", pair.key);
                self.consul.error(problem)
            })?;
            files.push(Configuration::new(path, content));
        }
        Ok(files)
    }
}

impl Source for ConsulSource {
    fn name(&self) -> &str {
        "consul"
    }

    fn is_readable(&self) -> bool {
        self.mode.is_readable()
    }

    fn load(&self) -> Result<Vec<Configuration>, Error> {
        self.mode.check_read(self)?;
        self.poll(&mut 0, &Ending::default())
    }

    fn store(&self, file: &str, content: &[u8]) -> Result<(), Error> {
        self.mode.check_write(self)?;
        let key = self.key(super::check(file, content)?);
        match self.consul.put_bytes(&key, content)? {
            true => Ok(()),
            false => Err(self.consul.error("it stores no values")),
        }
    }

    fn watch(&self) -> Result<Watch<Vec<Configuration>>, Error> {
        self.mode.check_read(self)?;
        let own = self.clone();
        watch_polled("consul", move |index, ending| own.poll(index, ending))
    }
}

impl fmt::Debug for ConsulSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulSource")
            .field("consul", &self.consul)
            .field("prefix", &self.prefix)
            .field("mode", &self.mode)
            .finish()
    }
}
