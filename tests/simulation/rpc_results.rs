//! The results of RPC calls in a simulation, of which each call should have exactly one.

use std::sync::Arc;

use epicycle::rpc::{Status, code};
use parking_lot::Mutex;

/// The results of calls, by their numbers. Each should have one.
#[derive(Clone, Default)]
pub(super) struct Results(Arc<Mutex<Vec<Ends>>>);

pub(super) type Ends = Vec<Result<u64, Status>>;

impl Results {
    /// Returns the number of a new call, and the callback for its end.
    pub(super) fn expect(&self) -> (u64, impl FnOnce(Result<u64, Status>) + Send + 'static) {
        let mut results = self.0.lock();
        let number = results.len();
        results.push(Vec::new());
        let results = self.0.clone();
        let ended = move |result| results.lock()[number].push(result);
        (number as u64, ended)
    }

    pub(super) fn ends(&self, number: u64) -> Ends {
        self.0.lock()[number as usize].clone()
    }

    pub(super) fn has_ended(&self, number: u64) -> bool {
        !self.ends(number).is_empty()
    }

    /// Returns the number of calls that have ended.
    pub(super) fn ended(&self) -> usize {
        self.0.lock().iter().filter(|ends| !ends.is_empty()).count()
    }

    /// Returns the code with which a call ended.
    pub(super) fn code(&self, number: u64) -> i32 {
        match &self.ends(number)[..] {
            [Err(status)] => status.code,
            other => panic!("call {number} ended like this: {other:?}"),
        }
    }

    /// Checks that each call has ended once: with its own number, or with a status that a network and a peer can cause.
    /// Returns the number of calls.
    pub(super) fn check(&self) -> usize {
        let results = self.0.lock();
        for (number, ends) in results.iter().enumerate() {
            assert_eq!(ends.len(), 1, "call {number} ended like this: {ends:?}");
            match &ends[0] {
                Ok(echoed) => assert_eq!(*echoed, number as u64),
                Err(status) => assert!(
                    matches!(
                        status.code,
                        code::CONNECTION_CLOSED
                            | code::WRITE_FAILED
                            | code::NOT_FOUND
                            | code::HANDLE_TIMEOUT
                            | code::TOO_MANY_REQUESTS
                            | code::INTERNAL_SERVER_ERROR
                            | code::SERVICE_UNAVAILABLE
                    ),
                    "call {number}: {status}"
                ),
            }
        }
        results.len()
    }
}
