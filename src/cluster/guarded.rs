//! Calls of the application's code from threads on which somebody waits for the result.

use super::Error;
use crate::panic;

/// Calls a backend. A panic is logged, and is an error: nobody waits for ever for a result that does not come.
pub(super) fn guarded<R>(
    backend: &'static str,
    call: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    let mut result = None;
    panic::catch("epicycle::cluster", backend, || result = Some(call()));
    result.unwrap_or_else(|| {
        Err(Error::backend(
            backend,
            "it panicked; the log has the message",
        ))
    })
}
