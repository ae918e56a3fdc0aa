/// A rule that chooses a pool by what a request says.
///
/// ```
/// use epicycle::gateway::settings::{PoolRule, RouteSettings};
///
/// let mut route = RouteSettings::split([("api", 95), ("canary", 5)]);
/// route.sticky = Some("release".to_owned());
/// route.when.push(PoolRule::header("X-Canary", "canary").value("yes"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolRule {
    /// The part of the request that is looked at.
    pub by: ChosenBy,
    /// The value that it must have, to the letter. `None` is any value, also an empty one.
    pub value: Option<String>,
    /// The pool of requests that fit.
    pub pool: String,
}

/// The part of a request by which a pool is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChosenBy {
    /// The field of that name.
    Header(String),
    /// The cookie of that name.
    Cookie(String),
}

impl PoolRule {
    /// Returns a rule for requests with this field.
    pub fn header(name: impl Into<String>, pool: impl Into<String>) -> Self {
        Self::new(ChosenBy::Header(name.into()), pool)
    }

    /// Returns a rule for requests with this cookie.
    pub fn cookie(name: impl Into<String>, pool: impl Into<String>) -> Self {
        Self::new(ChosenBy::Cookie(name.into()), pool)
    }

    fn new(by: ChosenBy, pool: impl Into<String>) -> Self {
        Self {
            by,
            value: None,
            pool: pool.into(),
        }
    }

    /// Sets the value that the field or the cookie must have.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}
