use serde::Serialize;
use serde_json::json;

use crate::Bytes;
use crate::http::StatusCode;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// The methods of the path, if the method is not among them.
    pub(super) allow: Option<String>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        // What is told has texts as keys and no numbers that JSON does not have.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self {
            status,
            content_type: "application/json",
            body: body.into(),
            allow: None,
        }
    }

    pub(super) fn problem(status: StatusCode, problem: &str) -> Self {
        Self::json(status, &json!({"error": problem}))
    }
}
