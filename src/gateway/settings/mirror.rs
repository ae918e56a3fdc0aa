use std::time::Duration;

/// The copy of requests to another pool. What its nodes answer is read and dropped.
///
/// A copy is sent once the whole request is here, and never again. It has connections of its own. Neither its slowness nor its
/// failure is seen by the client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorSettings {
    /// The name of the pool.
    pub pool: String,
    /// The requests that are copied, in percent: 1 to 100. Default: 100.
    pub percent: u8,
    /// The bytes of a body, at most 64 KiB. Requests with longer ones are not copied. Each request that is copied holds so much.
    /// Default: 64 KiB.
    pub max_body: usize,
    /// The copies under way, of all reactors together. Further ones are dropped and counted. Default: 100.
    pub max_in_flight: u32,
    /// The time that a copy may take. Default: 30 s.
    pub timeout: Duration,
}

impl MirrorSettings {
    /// The most bytes of a body.
    pub(crate) const MAX_BODY: usize = 64 << 10;

    /// Copies all requests to this pool.
    pub fn to(pool: impl Into<String>) -> Self {
        Self {
            pool: pool.into(),
            percent: 100,
            max_body: Self::MAX_BODY,
            max_in_flight: 100,
            timeout: Duration::from_secs(30),
        }
    }

    /// Sets the requests that are copied, in percent.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }
}
