//! The settings that a listener gives to its connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::Listen;
use crate::engine::conn::limits::Limits;
use crate::error::Error;

/// The settings of a listener's connections.
#[derive(Clone, Debug)]
pub(crate) struct ListenProfile {
    pub(crate) label: Box<str>,
    /// None if they are those of the server.
    pub(crate) limits: Option<Limits>,
}

impl ListenProfile {
    /// Returns the profile of a listener, unless all its settings are the default ones.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] if its limits cannot work together with those of the server.
    pub(crate) fn of(listen: &Listen, server: &Limits) -> Result<Option<Self>, Error> {
        let limits = Some(listen.limits.over(server)?).filter(|limits| limits != server);
        let is_default = listen.label.is_empty() && limits.is_none();
        Ok((!is_default).then(|| Self {
            label: listen.label.clone(),
            limits,
        }))
    }
}

/// The profiles of an engine's listeners, by their numbers. A profile is there before the first connection of its listener,
/// and stays when the listener goes, as connections may still arrive from it.
#[derive(Debug, Default)]
pub(crate) struct ListenProfiles {
    profiles: RwLock<HashMap<usize, Arc<ListenProfile>>>,
    /// False as long as no listener has a profile, so that most servers do not look for one with each connection.
    are_any: AtomicBool,
}

impl ListenProfiles {
    pub(crate) fn insert(&self, listener: usize, profile: Option<ListenProfile>) {
        if let Some(profile) = profile {
            self.profiles.write().insert(listener, Arc::new(profile));
            self.are_any.store(true, Ordering::Release);
        }
    }

    /// Forgets the profile of a listener that could not be opened.
    pub(crate) fn remove(&self, listener: usize) {
        self.profiles.write().remove(&listener);
    }
}

/// A reactor's copy of the profiles that it has needed, which it reads without a lock.
#[derive(Debug, Default)]
pub(crate) struct KnownProfiles(Vec<Option<Known>>);

/// A profile, unless all its settings are the default ones.
type Known = Option<Arc<ListenProfile>>;

impl KnownProfiles {
    /// Returns the profile of a listener, unless all its settings are the default ones.
    #[inline]
    pub(crate) fn get(&mut self, listener: usize, all: &ListenProfiles) -> Option<&ListenProfile> {
        match all.are_any.load(Ordering::Acquire) {
            true => self.look_up(listener, all),
            false => None,
        }
    }

    /// Returns the profile of a listener if [`get`](Self::get) has found one before, as it has for each listener of an open
    /// connection.
    pub(crate) fn known(&self, listener: usize) -> Option<&ListenProfile> {
        self.0.get(listener)?.as_ref()?.as_deref()
    }

    fn look_up(&mut self, listener: usize, all: &ListenProfiles) -> Option<&ListenProfile> {
        if self.0.len() <= listener {
            self.0.resize(listener + 1, None);
        }
        let known =
            self.0[listener].get_or_insert_with(|| all.profiles.read().get(&listener).cloned());
        known.as_deref()
    }
}
