//! Values by the paths of URIs.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::wire::{Uri, UriError};

/// Values by path. The paths are the application's, so that no peer can choose them to collide.
///
/// It is a hash table without removal. A lookup, which every call and push needs, costs half of one in a `HashMap`.
pub(super) struct Paths<T> {
    entries: Vec<Entry<T>>,
    /// The numbers of the entries, counted from 1, each at the hash of its path or at the next free place. 0 is a free place; at
    /// least half of them are. The length is a power of two.
    places: Vec<u32>,
}

struct Entry<T> {
    path: Box<[u8]>,
    value: T,
    /// True if a URI of these bytes has this path: nothing in it is decoded.
    is_literal: bool,
}

impl<T> Paths<T> {
    /// Adds a value. Returns false if the path has one already.
    pub(super) fn insert(&mut self, path: &str, value: T) -> bool {
        if self.entry(path.as_bytes()).is_some() {
            return false;
        }
        self.entries.push(Entry {
            path: path.as_bytes().into(),
            value,
            is_literal: Uri::parse(path).is_ok_and(|uri| uri.path() == path),
        });
        let (count, places) = (self.entries.len(), self.places.len());
        if 2 * count > places {
            self.places = vec![0; (2 * count).next_power_of_two()];
            (0..count).for_each(|at| self.set_place(at));
        } else {
            self.set_place(count - 1);
        }
        true
    }

    /// Puts the number of an entry at its place.
    fn set_place(&mut self, at: usize) {
        let mask = self.places.len() - 1;
        let mut place = hash(&self.entries[at].path) & mask;
        while self.places[place] != 0 {
            place = (place + 1) & mask;
        }
        self.places[place] = at as u32 + 1;
    }

    #[inline]
    fn entry(&self, path: &[u8]) -> Option<&Entry<T>> {
        let mask = self.places.len().checked_sub(1)?;
        let mut place = hash(path) & mask;
        loop {
            let number = *self.places.get(place)?;
            let entry = self.entries.get((number as usize).checked_sub(1)?)?;
            if *entry.path == *path {
                return Some(entry);
            }
            place = (place + 1) & mask;
        }
    }

    /// Returns the value for the path of a URI.
    ///
    /// Most URIs are a path that needs no decoding. They are found by their bytes.
    ///
    /// # Errors
    ///
    /// Returns a [`UriError`] if the URI has no path, or is malformed.
    #[inline]
    pub(super) fn find(&self, uri: &[u8]) -> Result<Option<&T>, UriError> {
        match self.entry(uri) {
            Some(entry) if entry.is_literal => Ok(Some(&entry.value)),
            _ => self.find_decoded(uri),
        }
    }

    #[cold]
    fn find_decoded(&self, uri: &[u8]) -> Result<Option<&T>, UriError> {
        let uri = Uri::parse(uri)?;
        let entry = self.entry(uri.path().as_bytes());
        Ok(entry.map(|entry| &entry.value))
    }

    /// Returns the value of a path.
    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let entry = self.entry(path.as_bytes())?;
        Some(&entry.value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            places: Vec::new(),
        }
    }
}

#[inline]
fn hash(path: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(path);
    hasher.finish() as usize
}
