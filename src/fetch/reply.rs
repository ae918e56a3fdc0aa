//! The receiver of a response.

use std::fmt;
use std::sync::Arc;

use ::http::Response;
use bytes::Bytes;

use super::body::Feed;
use super::error::FetchError;
use crate::panic;

/// Called with the response, exactly once.
pub(super) type Done = Box<dyn FnOnce(Result<Response<Bytes>, FetchError>) + Send>;

/// The receiver of a response. It gets an answer in any case: an error if it is dropped without one.
pub(super) struct Reply {
    done: Option<Done>,
    way: Way,
}

enum Way {
    /// `done` is called at the end.
    Whole {
        head: Option<Response<Bytes>>,
        body: Vec<u8>,
        max: u64,
    },
    /// `done` is called with the head. The body goes to a reader.
    Stream(Arc<Feed>),
}

/// The next step of the connection after a part of the body.
#[derive(Debug)]
pub(super) enum Next {
    Continue,
    /// The reader is slower than the server.
    Pause,
    Refuse(FetchError),
}

impl Reply {
    pub(super) fn whole(max: u64, done: Done) -> Self {
        Self {
            done: Some(done),
            way: Way::Whole {
                head: None,
                body: Vec::new(),
                max,
            },
        }
    }

    pub(super) fn stream(feed: Arc<Feed>, done: Done) -> Self {
        Self {
            done: Some(done),
            way: Way::Stream(feed),
        }
    }

    /// Takes the head, and the length of the body if that is known.
    pub(super) fn begin(&mut self, response: Response<Bytes>, length: Option<u64>) -> Next {
        match &mut self.way {
            Way::Whole { max, .. } if length.is_some_and(|length| length > *max) => {
                Next::Refuse(FetchError::TooLong { max: *max })
            }
            Way::Whole { head, .. } => {
                *head = Some(response);
                Next::Continue
            }
            Way::Stream(_) => {
                self.tell(Ok(response));
                Next::Continue
            }
        }
    }

    pub(super) fn body(&mut self, bytes: &[u8]) -> Next {
        match &mut self.way {
            Way::Whole { body, max, .. } => {
                if (body.len() + bytes.len()) as u64 > *max {
                    return Next::Refuse(FetchError::TooLong { max: *max });
                }
                body.extend_from_slice(bytes);
                Next::Continue
            }
            Way::Stream(feed) => match feed.push(bytes) {
                true => Next::Continue,
                false => Next::Pause,
            },
        }
    }

    pub(super) fn end(mut self) {
        match &mut self.way {
            Way::Whole { head, body, .. } => {
                if let Some(head) = head.take() {
                    let body = Bytes::from(std::mem::take(body));
                    self.tell(Ok(head.map(|_| body)));
                }
            }
            Way::Stream(feed) => feed.end(Ok(())),
        }
    }

    pub(super) fn fail(mut self, error: FetchError) {
        self.give_up(error);
    }

    fn give_up(&mut self, error: FetchError) {
        match (&self.way, self.done.is_some()) {
            (_, true) => self.tell(Err(error)),
            (Way::Stream(feed), false) => feed.end(Err(error)),
            (Way::Whole { .. }, false) => {}
        }
    }

    fn tell(&mut self, result: Result<Response<Bytes>, FetchError>) {
        if let Some(done) = self.done.take() {
            panic::catch("epicycle::fetch", "the receiver of a response", || {
                done(result);
            });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.give_up(FetchError::Stopped);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}
