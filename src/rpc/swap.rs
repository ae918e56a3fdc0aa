//! The values that an application keeps with a session.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// A map of values of any type, kept with a [`Session`](super::Session).
///
/// ```
/// use epicycle::rpc::Swap;
///
/// let swap = Swap::default();
/// swap.set("user", 42u64);
/// assert_eq!(swap.get::<u64>("user").as_deref(), Some(&42));
/// assert!(swap.get::<String>("user").is_none());
/// ```
#[derive(Default)]
pub struct Swap {
    values: Mutex<HashMap<String, Value>>,
}

type Value = Arc<dyn Any + Send + Sync>;

impl Swap {
    /// Sets the value of a key. Returns true if it had one before.
    pub fn set(&self, key: impl Into<String>, value: impl Any + Send + Sync) -> bool {
        let (key, value) = (key.into(), Arc::new(value));
        // The old value is dropped without the lock, since its drop is the application's code.
        let old = self.values.lock().insert(key, value);
        old.is_some()
    }

    /// Returns the value of a key, if it has this type.
    pub fn get<T: Any + Send + Sync>(&self, key: &str) -> Option<Arc<T>> {
        let value = self.values.lock().get(key)?.clone();
        value.downcast().ok()
    }

    /// Removes a key. Returns true if it had a value.
    pub fn remove(&self, key: &str) -> bool {
        let old = self.values.lock().remove(key);
        old.is_some()
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.values.lock().len()
    }

    /// Returns true if there are no values.
    pub fn is_empty(&self) -> bool {
        self.values.lock().is_empty()
    }

    /// Copies all values of another map. The values themselves are shared.
    pub fn copy_from(&self, other: &Swap) {
        let others: Vec<_> = (other.values.lock().iter())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in others {
            let old = self.values.lock().insert(key, value);
            drop(old);
        }
    }
}

impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.lock().keys()).finish()
    }
}
