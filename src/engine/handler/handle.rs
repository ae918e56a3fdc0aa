use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{fmt, io};

use bytes::Bytes;

use super::context::Arrival;
use super::{Conn, Engine, EventHandler, Reactor, WriteError};
use crate::addr::Endpoint;
use crate::codec::Encode;
use crate::engine::connect::resolve::LookupResult;
use crate::engine::connect::{Connect, DialId};
use crate::engine::mailbox::PushError;
use crate::engine::slots::ConnId;
use crate::error::error_messages;
use crate::panic;

/// A way to reach a connection from any thread, for as long as it is open.
///
/// What it is asked goes through the reactor's mailbox and happens on the reactor's thread, in the order
/// in which one thread asked. A handle that outlives its connection answers [`HandleError::Closed`]; it
/// never reaches another connection.
pub struct Handle<H: EventHandler> {
    id: ConnId,
    engine: Engine<H>,
}

/// Why a request to another thread was not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The connection is closed, or the engine has ended.
    Closed,
    /// The reactor's mailbox is full: it is asked faster than it works. Try again later, or give
    /// [`Server::mailbox`](crate::Server::mailbox) more room.
    MailboxFull,
    /// The engine has no reactor of that number.
    NoSuchReactor {
        /// The number that was given.
        reactor: usize,
        /// How many there are, counted from 0.
        reactors: usize,
    },
}

/// Called with what became of a write.
pub(crate) type Completion = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// Something to be done with a connection, if it is still there then.
pub(crate) trait ConnTask<H: EventHandler>: Send {
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session);

    /// The connection has closed before.
    fn miss(self: Box<Self>) {}
}

impl<H: EventHandler, F> ConnTask<H> for F
where
    F: FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send,
{
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session) {
        self(handler, conn, session);
    }
}

/// A task whose outcome is told.
struct Told<F, D> {
    task: F,
    done: D,
}

impl<H: EventHandler, T, F, D> ConnTask<H> for Told<F, D>
where
    F: FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) -> T + Send,
    D: FnOnce(Result<T, HandleError>) + Send,
{
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session) {
        let Told { task, done } = *self;
        // The panic closes the connection, as any of a callback's.
        match catch_unwind(AssertUnwindSafe(|| task(handler, conn, session))) {
            Ok(outcome) => tell(done, Ok(outcome)),
            Err(panic) => {
                tell(done, Err(HandleError::Closed));
                resume_unwind(panic);
            }
        }
    }

    fn miss(self: Box<Self>) {
        tell(self.done, Err(HandleError::Closed));
    }
}

/// Calls a completion; its panic does not concern the connection.
fn tell<T>(done: impl FnOnce(Result<T, HandleError>), outcome: Result<T, HandleError>) {
    panic::catch("epicycle::handler", "a completion", || done(outcome));
}

type ReactorTask<H> = Box<dyn FnOnce(&mut H, &mut Reactor<'_, H>) + Send>;

/// What a reactor is asked by other threads.
pub(crate) enum Command<H: EventHandler> {
    /// Make an outbound connection.
    Connect(DialId, Connect, Endpoint),
    /// The addresses of an outbound connection's host, or why there are none; with the number of the request.
    Resolved(DialId, u64, LookupResult),
    CancelConnect(DialId),
    /// Take over a socket: one that the main reactor accepted, or one that the application has.
    Adopt(Arrival),
    Write(ConnId, Bytes),
    /// A write whose fate is told: when it is queued, or when the kernel has it.
    WriteThen(ConnId, Bytes, Moment, Completion),
    Close(ConnId),
    Abort(ConnId),
    OnConn(ConnId, Box<dyn ConnTask<H>>),
    /// A deferred answer: how it is given, or that it was dropped.
    Answer(ConnId, Option<u64>, Option<Box<dyn ConnTask<H>>>),
    OnReactor(ReactorTask<H>),
    Broadcast(Bytes),
    StopAccepting,
    /// A part of a file has been read for a connection.
    FileRead(ConnId, io::Result<Vec<u8>>),
    Shutdown,
    /// No reactor waits for an answer any more: the rest is to drain.
    Settled,
}

/// The moment a completion is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Accepted,
    Flushed,
}

impl<H: EventHandler> Handle<H> {
    pub(crate) fn new(id: ConnId, engine: Engine<H>) -> Self {
        Self { id, engine }
    }

    /// The connection's identifier.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The engine the connection belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// Whether the connection is open, as far as this thread can tell: it may close at any moment.
    pub fn is_open(&self) -> bool {
        self.engine.is_open(self.id)
    }

    /// Writes to the connection. A connection at its outbound limit refuses the write when it gets
    /// there; [`write_accepted`](Self::write_accepted) tells.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<(), HandleError> {
        self.request(Command::Write(self.id, bytes.into()))
    }

    /// Writes, and calls `done` on the reactor's thread once the connection has taken the bytes to send,
    /// or with the reason why not. `done` is called exactly once.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken; `done` is not called then.
    pub fn write_accepted(
        &self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.write_then(bytes.into(), Moment::Accepted, Box::new(done))
    }

    /// Writes, and calls `done` on the reactor's thread once the kernel has taken the last of the bytes,
    /// or with an error when that cannot happen any more. `done` is called exactly once.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken; `done` is not called then.
    pub fn write_flushed(
        &self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.write_then(bytes.into(), Moment::Flushed, Box::new(done))
    }

    /// Encodes an item with the connection's codec, on the reactor's thread, and writes it. An item that is
    /// refused then, by the codec or at the outbound limit, is logged and dropped. Where the codec owes an answer, which would never be
    /// given, the connection closes as after [`Action::Refused`](crate::Action::Refused).
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
    pub fn send<T>(&self, item: T) -> Result<(), HandleError>
    where
        T: Send + 'static,
        H::Codec: Encode<T>,
    {
        self.run(move |_, conn, _| {
            if let Err(error) = conn.send(item) {
                conn.miss(error);
            }
        })
    }

    /// Runs `task` on the reactor's thread, with the handler, the connection and its session. It is
    /// dropped if the connection has closed by then, which [`run_then`](Self::run_then) tells.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
    pub fn run(
        &self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(Command::OnConn(self.id, Box::new(task)))
    }

    /// The same, and calls `done` behind it with what `task` has answered, or with [`HandleError::Closed`] when the
    /// connection has closed before, or because `task` panicked. `done` is called exactly once, on the reactor's thread.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken; `done` is not called then.
    pub fn run_then<T: 'static>(
        &self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) -> T + Send + 'static,
        done: impl FnOnce(Result<T, HandleError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(Command::OnConn(self.id, Box::new(Told { task, done })))
    }

    /// Closes the connection once everything written is sent.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
    pub fn close(&self) -> Result<(), HandleError> {
        self.request(Command::Close(self.id))
    }

    /// Closes the connection with RST.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
    pub fn abort(&self) -> Result<(), HandleError> {
        self.request(Command::Abort(self.id))
    }

    /// Settles a deferred answer, also when the mailbox is full: there are no more of them than requests.
    pub(super) fn answer(
        &self,
        deferral: Option<u64>,
        task: Option<Box<dyn ConnTask<H>>>,
    ) -> Result<(), HandleError> {
        if !self.is_open() {
            return Err(HandleError::Closed);
        }
        let command = Command::Answer(self.id, deferral, task);
        let mailbox = &self.engine.peer(self.id.reactor()).mailbox;
        Ok(mailbox.push_unbounded(command)?)
    }

    fn write_then(
        &self,
        bytes: Bytes,
        moment: Moment,
        done: Completion,
    ) -> Result<(), HandleError> {
        self.request(Command::WriteThen(self.id, bytes, moment, done))
    }

    fn request(&self, command: Command<H>) -> Result<(), HandleError> {
        if !self.is_open() {
            return Err(HandleError::Closed);
        }
        self.engine.request(self.id.reactor(), command)
    }
}

impl<H: EventHandler> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.engine.clone())
    }
}

impl<H: EventHandler> fmt::Debug for Handle<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.id).finish()
    }
}

impl<T> From<PushError<T>> for HandleError {
    fn from(error: PushError<T>) -> Self {
        match error {
            PushError::Full(_) => HandleError::MailboxFull,
            PushError::Closed(_) => HandleError::Closed,
        }
    }
}

error_messages! {
    HandleError {
        HandleError::Closed => "the connection is closed, or the engine has ended",
        HandleError::MailboxFull => "the reactor's mailbox is full; ask less often or raise the mailbox option",
        HandleError::NoSuchReactor { reactor, reactors } =>
            "there is no reactor {reactor}; the engine has {reactors}, counted from 0",
    }
}
