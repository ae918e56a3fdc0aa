//! A body that another thread reads as it arrives.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::error::FetchError;
use crate::engine::reactor_thread;

/// The body of a response, as it arrives.
///
/// At most about 320 KiB are held ahead of the reader. Beyond that the connection is not read, so that the pace of the
/// reader is that of the server. If the body is dropped before its end, the connection closes.
///
/// A read returns an error if the response was cut short, or a timeout expired: it is a [`FetchError`] inside an
/// [`io::Error`]. A read that would block on the thread of a reactor returns [`FetchError::OnReactor`].
pub struct Body {
    feed: Arc<Feed>,
    signal: Box<dyn Fn(Signal) + Send + Sync>,
}

/// A reader's message to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// There is room again.
    Resume,
    /// Nobody reads any more.
    Abandon,
}

/// The bytes between a connection and its reader.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    is_paused: bool,
    end: Option<Result<(), FetchError>>,
}

/// Above this the connection is not read.
const HIGH_WATER: usize = 256 << 10;

/// At this it is read again.
const LOW_WATER: usize = 64 << 10;

impl Feed {
    /// Adds bytes. Returns false if the connection has to pause.
    pub(super) fn push(&self, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        state.bytes.extend(bytes);
        state.is_paused = state.bytes.len() > HIGH_WATER;
        self.changed.notify_one();
        !state.is_paused
    }

    pub(super) fn end(&self, end: Result<(), FetchError>) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        self.changed.notify_one();
    }
}

impl Body {
    pub(super) fn new(feed: Arc<Feed>, signal: impl Fn(Signal) + Send + Sync + 'static) -> Self {
        Self {
            feed,
            signal: Box::new(signal),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut state = self.feed.state.lock();
        while state.bytes.is_empty() {
            match &mut state.end {
                None if reactor_thread::is_current() => return Err(FetchError::OnReactor.into()),
                None => self.feed.changed.wait(&mut state),
                Some(Ok(())) => return Ok(0),
                Some(end) => {
                    // Further reads fail as well.
                    let error = std::mem::replace(end, Err(FetchError::Stopped));
                    return Err(error.err().unwrap_or(FetchError::Stopped).into());
                }
            }
        }
        // A `VecDeque` of bytes reads without an error, and not past its first half.
        let read = state.bytes.read(buf)?;
        let resumes = state.is_paused && state.bytes.len() <= LOW_WATER;
        if resumes {
            state.is_paused = false;
            if state.bytes.is_empty() {
                state.bytes.shrink_to(LOW_WATER);
            }
        }
        drop(state);
        if resumes {
            (self.signal)(Signal::Resume);
        }
        Ok(read)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.feed.state.lock().end.is_none() {
            (self.signal)(Signal::Abandon);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}
