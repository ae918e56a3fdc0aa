//! The application's checks of HTTP requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::http::StatusCode;

use crate::http::ServerRequest;
use crate::panic;

/// Looks at the head of a request, and may refuse it.
#[derive(Clone)]
pub(super) struct RequestCheck(Arc<Check>);

type Check = dyn Fn(&ServerRequest<'_>) -> Result<(), StatusCode> + Send + Sync;

impl RequestCheck {
    pub(super) fn new(
        check: impl Fn(&ServerRequest<'_>) -> Result<(), StatusCode> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(check))
    }

    /// Runs the check. Its panic refuses the request.
    pub(super) fn run(&self, request: &ServerRequest<'_>) -> Result<(), StatusCode> {
        let checked = catch_unwind(AssertUnwindSafe(|| (self.0)(request)));
        checked.unwrap_or_else(|payload| {
            panic::report("epicycle::rpc", "the check of a request", payload);
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}
