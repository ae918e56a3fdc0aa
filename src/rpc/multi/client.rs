//! Clients, and the calls and pushes that are made with them.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flight::Request;
use super::options::Source;
use super::pool::Pool;
use super::stats::MultiStats;
use crate::balance::KeyHash;
use crate::engine::connect::Connect;
use crate::error::Error;
use crate::rpc::call::{
    CallFuture, Caller, CancelCall, Draft, Pending, call_settings, check_may_block, own_seq,
    settings,
};
use crate::rpc::outgoing::{CallState, Waiter};
use crate::rpc::reply::{FromReply, read};
use crate::rpc::session::Shared;
use crate::rpc::wire::{Codec, EncodeBody, Kind, Meta, Status};

/// A client of a service with several addresses: a pool of sessions, over which calls are spread.
///
/// It keeps sessions to each address, and dials further ones when all of an address have calls in flight. Each call goes to the
/// address that the [balancer](super::MultiClientBuilder::balancer) picks. An address that fails is ejected for a while and returns
/// slowly, and a circuit breaker stops calls to one of which too many fail. A call that has not reached an address goes to another
/// one. A call that may have run goes to another one only if it is [idempotent](MultiCall::idempotent), after a delay, and within
/// a budget, so that retries cannot overload a service that fails. Each call ends exactly once, by its deadline.
///
/// Clones stand for the same client. It does not keep its [`Peer`](crate::rpc::Peer) running. When the last clone is dropped, the
/// client closes as [`close`](Self::close) does.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::{MultiClient, Peer, Router};
///
/// let server = || {
///     let mut routes = Router::new();
///     routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
///     Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()
/// };
/// let (one, other) = (server()?, server()?);
///
/// let peer = Peer::builder().start()?;
/// let client = MultiClient::builder(&peer)
///     .to(&one.local_addrs()[0])
///     .to(&other.local_addrs()[0])
///     .build()?;
/// let sum: i64 = client.call("/math/add", &[1, 2, 3]).idempotent().wait()?;
/// assert_eq!(sum, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MultiClient(Arc<Handle>);

/// Closes the pool when it is dropped.
struct Handle(Arc<Pool>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl MultiClient {
    pub(super) fn of(pool: Arc<Pool>) -> Self {
        Self(Arc::new(Handle(pool)))
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.0.0
    }

    /// Prepares a call, as [`Session::call`](crate::rpc::Session::call) does. An address is picked when it is sent. If none is
    /// connected, it [waits](super::MultiClientBuilder::max_wait) for one.
    pub fn call<'a, A, R>(&'a self, uri: impl AsRef<str>, arg: &'a A) -> MultiCall<'a, A, R>
    where
        A: EncodeBody + ?Sized,
        R: FromReply,
    {
        let shared = self.pool().shared();
        MultiCall {
            pool: self.pool(),
            draft: Draft::new(shared, Kind::Call, uri.as_ref(), arg),
            timeout: shared.settings.call_timeout,
            deadline: None,
            key: None,
            is_idempotent: false,
            hedge: None,
            result: PhantomData,
        }
    }

    /// Sends a message that is not answered, to one address. Returns at once. If none is connected, it waits for one. A push that
    /// is accepted and not sent later is logged and [counted](MultiStats::dropped_pushes).
    ///
    /// # Errors
    ///
    /// As for [`Session::push`](crate::rpc::Session::push), [`TOO_MANY_REQUESTS`](crate::rpc::code::TOO_MANY_REQUESTS) if too many calls and
    /// pushes wait, and [`SERVICE_UNAVAILABLE`](crate::rpc::code::SERVICE_UNAVAILABLE) if all circuit breakers are open.
    pub fn push<A: EncodeBody + ?Sized>(
        &self,
        uri: impl AsRef<str>,
        body: &A,
    ) -> Result<(), Status> {
        self.prepare_push(uri, body).send()
    }

    /// Prepares a push that is more than a route and a body.
    pub fn prepare_push<'a, A>(&'a self, uri: impl AsRef<str>, body: &'a A) -> MultiPush<'a, A>
    where
        A: EncodeBody + ?Sized,
    {
        let shared = self.pool().shared();
        MultiPush {
            pool: self.pool(),
            draft: Draft::new(shared, Kind::Push, uri.as_ref(), body),
            key: None,
        }
    }

    /// Takes other addresses and host names, with their weights, in place of those that
    /// [`to`](super::MultiClientBuilder::to) gave: for a service whose addresses change. Those that stay keep their sessions and
    /// their state. The sessions of those that are gone close once their calls have ended. There may be none for a while: calls
    /// [wait](super::MultiClientBuilder::max_wait) then.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names a wrong address. Nothing has changed then.
    pub fn set_addresses(
        &self,
        addresses: impl IntoIterator<Item = (Connect, u32)>,
    ) -> Result<(), Error> {
        let sources = addresses.into_iter();
        let sources = sources.map(|(connect, weight)| Source { connect, weight });
        let sources: Vec<_> = sources.collect();
        sources.iter().try_for_each(Source::check)?;
        self.pool().set_sources(sources);
        Ok(())
    }

    /// Returns the statistics up to now.
    pub fn stats(&self) -> MultiStats {
        self.pool().stats()
    }

    /// Closes the client: new calls fail with [`CONNECTION_CLOSED`](crate::rpc::code::CONNECTION_CLOSED), those that were made end first, and
    /// then its sessions close. Returns at once.
    pub fn close(&self) {
        self.pool().close();
    }
}

/// A call of a [`MultiClient`] that is not sent yet, and its settings.
#[must_use = "it is sent by `wait`, `then`, `send` or `.await`"]
pub struct MultiCall<'a, A: ?Sized, R> {
    pool: &'a Arc<Pool>,
    draft: Draft<'a, A>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    key: Option<u64>,
    is_idempotent: bool,
    hedge: Option<Duration>,
    result: PhantomData<fn() -> R>,
}

/// A push of a [`MultiClient`] that is not sent yet, and its settings.
#[must_use = "it is sent by `send`"]
pub struct MultiPush<'a, A: ?Sized> {
    pool: &'a Arc<Pool>,
    draft: Draft<'a, A>,
    key: Option<u64>,
}

/// Defines the settings that calls and pushes share because an address is picked for them.
macro_rules! key_settings {
    () => {
        /// Sets the key by which a [`HashRing`](crate::balance::HashRing) or [`Rendezvous`](crate::balance::Rendezvous) picks the
        /// address: the same key gets the same address as long as that is up. If the address is being dialled, the call waits for it
        /// for up to 500 ms.
        pub fn key(self, key: impl AsRef<[u8]>) -> Self {
            self.key_hash(KeyHash::Xxh3.of(key.as_ref()))
        }

        /// Sets the hash of the key, as [`key`](Self::key) does with XXH3. It should be spread evenly over all numbers.
        pub fn key_hash(mut self, hash: u64) -> Self {
            self.key = Some(hash);
            self
        }
    };
}

impl<A: EncodeBody + ?Sized> MultiPush<'_, A> {
    settings!();
    own_seq!();
    key_settings!();

    /// Sends the push. Returns at once.
    ///
    /// # Errors
    ///
    /// As for [`MultiClient::push`], and [`WRITE_FAILED`](crate::rpc::code::WRITE_FAILED) for a filter that is not registered.
    pub fn send(self) -> Result<(), Status> {
        let (has_own_seq, key) = (self.draft.has_own_seq, self.key);
        self.pool.push(Request {
            message: self.draft.finish()?,
            has_own_seq,
            key,
            is_idempotent: false,
            hedge: None,
            deadline: None,
        })
    }
}

impl<A: EncodeBody + ?Sized, R: FromReply> MultiCall<'_, A, R> {
    settings!();
    own_seq!();
    key_settings!();
    call_settings!();

    /// Marks that the call may be carried out more than once. If a connection ends before the reply, the call goes to another
    /// address, within its timeout and the [budget](super::MultiClientBuilder::budget). Other calls fail with
    /// [`CONNECTION_CLOSED`](crate::rpc::code::CONNECTION_CLOSED) then, because it is not known whether the other side has carried them out.
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Sends the call to a second address as well if there is no reply after this time. The first reply counts, and the other
    /// attempt is cancelled. It counts as a retry in the [budget](super::MultiClientBuilder::budget), and makes the call
    /// [idempotent](Self::idempotent). A good time is one within which 95 % of the calls end.
    pub fn hedge(mut self, after: Duration) -> Self {
        self.hedge = Some(after);
        self.idempotent()
    }

    /// Sends the call. Returns at once.
    pub fn send(self) -> Pending<R> {
        let pool = self.pool.clone();
        let state = Arc::new(CallState::new());
        let number = self.dispatch(Waiter::state(state.clone()));
        let call = Arc::new(PoolCall { pool, number });
        Pending::new(Caller::Other(call), state)
    }

    /// Returns the number of the call. It is `None` if the call has ended already.
    fn dispatch(self, waiter: Waiter) -> Option<u64> {
        let (has_own_seq, timeout) = (self.draft.has_own_seq, self.timeout);
        match self.draft.finish() {
            Ok(message) => {
                let request = Request {
                    message,
                    has_own_seq,
                    key: self.key,
                    is_idempotent: self.is_idempotent,
                    hedge: self.hedge,
                    deadline: self.deadline,
                };
                Some(self.pool.call(request, timeout, waiter))
            }
            Err(status) => {
                waiter.settle(Err(status));
                None
            }
        }
    }
}

impl<A: EncodeBody + ?Sized, R: FromReply> IntoFuture for MultiCall<'_, A, R> {
    type Output = Result<R, Status>;
    type IntoFuture = CallFuture<R>;

    fn into_future(self) -> CallFuture<R> {
        self.send().into_future()
    }
}

/// A call that a pool makes.
struct PoolCall {
    pool: Arc<Pool>,
    number: Option<u64>,
}

impl CancelCall for PoolCall {
    fn cancel(&self) {
        if let Some(number) = self.number {
            self.pool.cancel(number);
        }
    }

    fn shared(&self) -> &Shared {
        self.pool.shared()
    }
}

impl fmt::Debug for MultiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiClient").field(&self.stats()).finish()
    }
}

impl<A: ?Sized, R> fmt::Debug for MultiCall<'_, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft.fmt(f)
    }
}

impl<A: ?Sized> fmt::Debug for MultiPush<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft.fmt(f)
    }
}
