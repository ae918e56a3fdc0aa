//! Values by the paths of URIs.

use rustc_hash::FxHashMap;

use super::wire::{Uri, UriError};

/// Values by path. The paths are the application's, so that no peer can choose them to collide.
pub(super) struct Paths<T> {
    entries: FxHashMap<Box<[u8]>, Entry<T>>,
}

struct Entry<T> {
    value: T,
    /// True if a URI of these bytes has this path: nothing in it is decoded.
    is_literal: bool,
}

impl<T> Paths<T> {
    /// Adds a value. Returns false if the path has one already.
    pub(super) fn insert(&mut self, path: &str, value: T) -> bool {
        let is_literal = Uri::parse(path).is_ok_and(|uri| uri.path() == path);
        if self.entries.contains_key(path.as_bytes()) {
            return false;
        }
        let entry = Entry { value, is_literal };
        self.entries.insert(path.as_bytes().into(), entry);
        true
    }

    /// Returns the value for the path of a URI.
    ///
    /// Most URIs are a path that needs no decoding. They are found by their bytes.
    ///
    /// # Errors
    ///
    /// Returns a [`UriError`] if the URI has no path, or is malformed.
    pub(super) fn find(&self, uri: &[u8]) -> Result<Option<&T>, UriError> {
        match self.entries.get(uri) {
            Some(entry) if entry.is_literal => Ok(Some(&entry.value)),
            _ => self.find_decoded(uri),
        }
    }

    #[cold]
    fn find_decoded(&self, uri: &[u8]) -> Result<Option<&T>, UriError> {
        let uri = Uri::parse(uri)?;
        let entry = self.entries.get(uri.path().as_bytes());
        Ok(entry.map(|entry| &entry.value))
    }

    /// Returns the value of a path.
    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let entry = self.entries.get(path.as_bytes())?;
        Some(&entry.value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.values_mut().map(|entry| &mut entry.value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.value)
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self {
            entries: FxHashMap::default(),
        }
    }
}
