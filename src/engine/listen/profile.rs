//! The settings that a listener gives to its connections.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Listen;

/// The settings of a listener's connections.
#[derive(Clone, Debug)]
pub(crate) struct ListenProfile {
    pub(crate) label: Box<str>,
}

impl ListenProfile {
    /// Returns the profile of a listener, unless all its settings are the default ones.
    pub(crate) fn of(listen: &Listen) -> Option<Self> {
        (!listen.label.is_empty()).then(|| Self {
            label: listen.label.clone(),
        })
    }
}

/// The profiles of an engine's listeners, by their numbers. A profile is there before the first connection of its listener,
/// and stays when the listener goes, as connections may still arrive from it.
#[derive(Debug, Default)]
pub(crate) struct ListenProfiles(RwLock<HashMap<usize, Arc<ListenProfile>>>);

impl ListenProfiles {
    pub(crate) fn insert(&self, listener: usize, profile: Option<ListenProfile>) {
        if let Some(profile) = profile {
            self.0.write().insert(listener, Arc::new(profile));
        }
    }
}

/// A reactor's copy of the profiles that it has needed, which it reads without a lock.
#[derive(Debug, Default)]
pub(crate) struct KnownProfiles(HashMap<usize, Option<Arc<ListenProfile>>>);

impl KnownProfiles {
    /// Returns the profile of a listener, unless all its settings are the default ones.
    pub(crate) fn get(&mut self, listener: usize, all: &ListenProfiles) -> Option<&ListenProfile> {
        let profile = self.0.entry(listener);
        let profile = profile.or_insert_with(|| all.0.read().get(&listener).cloned());
        profile.as_deref()
    }
}
