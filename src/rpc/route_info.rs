//! Descriptions of routes.

use std::sync::Arc;

use super::wire::Kind;

/// A route, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteInfo {
    /// [`Kind::Call`] or [`Kind::Push`].
    pub kind: Kind,
    /// The path.
    pub path: Arc<str>,
    /// The name of the argument's Rust type.
    pub argument: &'static str,
    /// The name of the reply's Rust type. It is empty for a PUSH.
    pub reply: &'static str,
}
