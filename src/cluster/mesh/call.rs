//! Calls of services.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::transporter::{Channel, Done, MeshRequest};
use crate::balance::KeyHash;
use crate::cluster::Error;
use crate::cluster::codec::{Codec, DecodeBody, EncodeBody};
use crate::engine::reactor_thread;

/// The time after its timeout that a transporter has to tell the end of a call, for those who wait.
const GRACE: Duration = Duration::from_secs(1);

/// A call of a service that is not sent yet, and its settings.
#[must_use = "it is sent by `wait` or `then`"]
pub struct MeshCall<'a, A: ?Sized, R> {
    channel: Result<Arc<dyn Channel>, Error>,
    codec: &'a Codec,
    path: String,
    arg: &'a A,
    timeout: Duration,
    key: Option<u64>,
    is_idempotent: bool,
    result: PhantomData<fn() -> R>,
}

impl<'a, A: EncodeBody + ?Sized, R: DecodeBody> MeshCall<'a, A, R> {
    pub(super) fn new(
        channel: Result<Arc<dyn Channel>, Error>,
        codec: &'a Codec,
        timeout: Duration,
        path: &str,
        arg: &'a A,
    ) -> Self {
        Self {
            channel,
            codec,
            path: path.to_owned(),
            arg,
            timeout,
            key: None,
            is_idempotent: false,
            result: PhantomData,
        }
    }

    /// Sets the time within which the reply must arrive. Default: the client's
    /// [`call_timeout`](super::MeshClientBuilder::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the key by which a balancer of keys, such as [`HashRing`](crate::balance::HashRing), picks the instance: the same key
    /// gets the same instance as long as that is up.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(KeyHash::Xxh3.of(key.as_ref()));
        self
    }

    /// Marks that the call may be carried out more than once. If a connection ends before the reply, it goes to another instance.
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Sends the call and waits for the reply. It blocks the thread.
    ///
    /// # Errors
    ///
    /// [`Error::NotFoundEndpoint`] if no instance takes calls, [`Error::Timeout`] if there is no reply in time, [`Error::LinkDown`] if
    /// the connection ended, or no instance was reached within [`max_wait`](crate::rpc::MultiClientBuilder::max_wait), 5 s or three
    /// quarters of the client's call timeout if that is less, [`Error::Busy`] if too many calls wait or the instance is overloaded,
    /// [`Error::InvalidArgument`] if the path names no method, [`Error::Codec`] if argument or reply cannot be encoded or decoded, and
    /// [`Error::Service`] with the error of the handler. On a reactor's thread it fails at once with [`Error::IllegalRequest`]: use
    /// [`then`](Self::then) there.
    pub fn wait(self) -> Result<R, Error> {
        if reactor_thread::is_current() {
            return Err(Error::IllegalRequest {
                what: "`wait` would hold up all connections of this reactor; use `then`",
            });
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let (codec, timeout) = (self.codec, self.timeout);
        self.send(Box::new(move |result| {
            // There is room for the only result.
            let _ = sender.send(result);
        }));
        let body = match receiver.recv_timeout(timeout.saturating_add(GRACE)) {
            Ok(result) => result?,
            // A transporter that forgets a call drops its end.
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::Timeout {
                    what: "a call of a service".into(),
                    after: timeout,
                });
            }
        };
        codec.decode(&body)
    }

    /// Sends the call. Returns at once. `callback` gets the result, exactly once: on a reactor of the client, or on this thread if the
    /// call cannot be sent. It must not block.
    pub fn then(self, callback: impl FnOnce(Result<R, Error>) + Send + 'static) {
        let codec = self.codec.clone();
        self.send(Box::new(move |result| {
            callback(result.and_then(|body| codec.decode(&body)));
        }));
    }

    fn send(self, done: Done) {
        let body = self.codec.encode(self.arg);
        let (channel, body) = match (self.channel, body) {
            (Ok(channel), Ok(body)) => (channel, body.into()),
            (Err(error), _) | (_, Err(error)) => return done(Err(error)),
        };
        let request = MeshRequest {
            path: self.path,
            codec: self.codec.clone(),
            body,
            timeout: self.timeout,
            key: self.key,
            is_idempotent: self.is_idempotent,
        };
        channel.call(request, done);
    }
}

impl<A: ?Sized, R> fmt::Debug for MeshCall<'_, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshCall")
            .field("path", &self.path)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
