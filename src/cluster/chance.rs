//! The source of numbers that nobody may guess.

#[cfg(feature = "testing")]
use std::sync::Arc;

#[cfg(feature = "testing")]
use parking_lot::Mutex;

/// The source of nonces and keys: the system, or the seed of a simulated network, so that a seed always gives the same.
#[derive(Clone, Default)]
pub(in crate::cluster) struct Chance {
    #[cfg(feature = "testing")]
    seeded: Option<Arc<Mutex<fastrand::Rng>>>,
}

impl Chance {
    /// Returns a source that goes on from the random numbers of this thread. A simulated network has set their seed.
    #[cfg(feature = "testing")]
    pub(in crate::cluster) fn seeded() -> Self {
        let seeded = Arc::new(Mutex::new(fastrand::Rng::new()));
        Self {
            seeded: Some(seeded),
        }
    }

    pub(in crate::cluster) fn bytes<const N: usize>(&self) -> [u8; N] {
        #[cfg(feature = "testing")]
        if let Some(seeded) = &self.seeded {
            let mut bytes = [0; N];
            seeded.lock().fill(&mut bytes);
            return bytes;
        }
        rand::random()
    }
}
