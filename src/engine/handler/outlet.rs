use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::{fmt, ptr};

use bytes::Bytes;

use super::{Completion, HandleError, Moment, WriteError};
use crate::engine::slots::ConnId;

/// An outlet writes to a connection from any thread, and does not name the type of the connection's handler.
///
/// So one registry can hold the connections of several engines. [`Conn::outlet`](crate::Conn::outlet) and
/// [`Handle::outlet`](crate::Handle::outlet) return one. It takes 24 bytes, and a clone counts one reference. Two outlets
/// are equal if they belong to the same connection of the same engine. So the registry may be a `HashSet<Outlet>`, and each
/// session keeps its outlet, with which `on_close` removes it.
///
/// It works as a [`Handle`](crate::Handle) does: a request goes through the reactor's mailbox and runs on the reactor's
/// thread, and requests of one thread run in order. After the connection has closed, an outlet returns
/// [`HandleError::Closed`]. It never reaches another connection.
///
/// An outlet writes bytes as they are, because it does not know the codec. [`encode_to_vec`](crate::codec::encode_to_vec)
/// makes the bytes of a frame, once for any number of connections.
///
/// # Examples
///
/// ```
/// use epicycle::{Bytes, Outlet};
///
/// /// Sends a message to all members, and forgets those that have left.
/// fn tell(members: &mut Vec<Outlet>, message: impl Into<Bytes>) {
///     let message = message.into();
///     members.retain(|member| {
///         // A member whose reactor has too much to do misses this message.
///         let _ = member.write(message.clone());
///         member.is_open()
///     });
/// }
/// # tell(&mut Vec::new(), "hello");
/// ```
#[derive(Clone)]
pub struct Outlet {
    id: ConnId,
    engine: Arc<dyn OutletTarget>,
}

/// The requests to a connection that do not depend on the type of its handler.
pub(super) trait OutletTarget: Send + Sync {
    fn is_open(&self, id: ConnId) -> bool;

    fn write(&self, id: ConnId, bytes: Bytes) -> Result<(), HandleError>;

    /// Writes, and reports the result at `moment`.
    fn write_then(
        &self,
        id: ConnId,
        bytes: Bytes,
        moment: Moment,
        done: Completion,
    ) -> Result<(), HandleError>;

    fn close(&self, id: ConnId) -> Result<(), HandleError>;

    fn abort(&self, id: ConnId) -> Result<(), HandleError>;
}

impl Outlet {
    pub(super) fn new(id: ConnId, engine: Arc<dyn OutletTarget>) -> Self {
        Self { id, engine }
    }

    /// Returns the connection's identifier. A connection of another engine can have the same one.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Returns true if the connection is open. It may close at any moment.
    pub fn is_open(&self) -> bool {
        self.engine.is_open(self.id)
    }

    /// Writes as [`Handle::write`](crate::Handle::write) does.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<(), HandleError> {
        self.engine.write(self.id, bytes.into())
    }

    /// Writes, and reports the result as [`Handle::write_accepted`](crate::Handle::write_accepted) does.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted. `done` is then not called.
    pub fn write_accepted(
        &self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.engine
            .write_then(self.id, bytes.into(), Moment::Accepted, Box::new(done))
    }

    /// Writes, and reports the result as [`Handle::write_flushed`](crate::Handle::write_flushed) does.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted. `done` is then not called.
    pub fn write_flushed(
        &self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.engine
            .write_then(self.id, bytes.into(), Moment::Flushed, Box::new(done))
    }

    /// Closes the connection once all output is sent.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn close(&self) -> Result<(), HandleError> {
        self.engine.close(self.id)
    }

    /// Closes the connection with RST.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn abort(&self) -> Result<(), HandleError> {
        self.engine.abort(self.id)
    }

    /// Returns the address of its engine's state, which no other engine has while the outlet exists.
    fn engine_addr(&self) -> *const () {
        Arc::as_ptr(&self.engine).cast()
    }
}

impl PartialEq for Outlet {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && ptr::eq(self.engine_addr(), other.engine_addr())
    }
}

impl Eq for Outlet {}

impl Hash for Outlet {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.id.hash(state);
        self.engine_addr().hash(state);
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outlet").field(&self.id).finish()
    }
}
