use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{fmt, io};

use bytes::Bytes;

use super::context::Arrival;
use super::outlet::{Outlet, OutletTarget};
use super::{Conn, Engine, EventHandler, Reactor, WriteError};
use crate::addr::Endpoint;
use crate::codec::Encode;
use crate::engine::connect::resolve::LookupResult;
use crate::engine::connect::{Connect, DialId};
use crate::engine::listen::listeners::ListenerChange;
use crate::engine::mailbox::PushError;
use crate::engine::slots::ConnId;
use crate::engine::udp::sockets::UdpSockets;
use crate::error::error_messages;
use crate::panic;

/// A handle reaches a connection from any thread while the connection is open.
///
/// A request goes through the reactor's mailbox and runs on the reactor's thread. Requests of one thread run in
/// order. After the connection has closed, a handle returns [`HandleError::Closed`]. It never reaches another
/// connection.
///
/// An [`Outlet`] does the same without [`run`](Self::run) and [`send`](Self::send), and has no type of a handler.
pub struct Handle<H: EventHandler> {
    id: ConnId,
    engine: Engine<H>,
}

/// The reason for which a request to a reactor was not accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The connection is closed, or the engine has ended.
    Closed,
    /// The reactor's mailbox is full, because requests arrive faster than it handles them. Try again later, or raise
    /// [`Server::mailbox`](crate::Server::mailbox).
    MailboxFull,
    /// The engine has no reactor of that number.
    NoSuchReactor {
        /// The number that was given.
        reactor: usize,
        /// The number of reactors. They are counted from 0.
        reactors: usize,
    },
}

/// A callback that receives the result of a write.
pub(crate) type Completion = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// A task on a connection, if that is still open when the task runs.
pub(crate) trait ConnTask<H: EventHandler>: Any + Send {
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session);

    /// Called in place of `run` if the connection has closed before.
    fn on_closed(self: Box<Self>) {}
}

impl<H: EventHandler, F> ConnTask<H> for F
where
    F: FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
{
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session) {
        self(handler, conn, session);
    }
}

/// A task whose result is reported.
struct ReportingTask<F, D> {
    task: F,
    done: D,
}

impl<H: EventHandler, T, F, D> ConnTask<H> for ReportingTask<F, D>
where
    T: 'static,
    F: FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) -> T + Send + 'static,
    D: FnOnce(Result<T, HandleError>) + Send + 'static,
{
    fn run(self: Box<Self>, handler: &mut H, conn: &mut Conn<'_, H>, session: &mut H::Session) {
        let ReportingTask { task, done } = *self;
        // The panic closes the connection, as a panic in any callback does.
        match catch_unwind(AssertUnwindSafe(|| task(handler, conn, session))) {
            Ok(outcome) => complete(done, Ok(outcome)),
            Err(panic) => {
                complete(done, Err(HandleError::Closed));
                resume_unwind(panic);
            }
        }
    }

    fn on_closed(self: Box<Self>) {
        complete(self.done, Err(HandleError::Closed));
    }
}

/// Calls a completion. A panic of the completion does not affect the connection.
fn complete<T>(done: impl FnOnce(Result<T, HandleError>), outcome: Result<T, HandleError>) {
    panic::catch("epicycle::handler", "a completion", || done(outcome));
}

type ReactorTask<H> = Box<dyn FnOnce(&mut H, &mut Reactor<'_, H>) + Send>;

/// A request from another thread to a reactor.
pub(crate) enum Command<H: EventHandler> {
    /// Make an outbound connection.
    Connect(DialId, Box<Connect>, Endpoint),
    /// The addresses of an outbound connection's host, or the error of the lookup, with the number of the request.
    Resolved(DialId, u64, LookupResult),
    CancelConnect(DialId),
    /// Take over a socket that the main reactor accepted or the application supplied.
    Adopt(Arrival),
    Write(ConnId, Bytes),
    /// A write whose result is reported, when it is queued or when the kernel has taken it.
    WriteThen(ConnId, Bytes, Moment, Completion),
    Close(ConnId),
    Abort(ConnId),
    OnConn(ConnId, Box<dyn ConnTask<H>>),
    /// A deferred answer: the task that gives it, or `None` if it was dropped.
    Answer(ConnId, Option<u64>, Option<Box<dyn ConnTask<H>>>),
    OnReactor(ReactorTask<H>),
    Broadcast(Bytes),
    /// Open or close a listener of a reactor that accepts by itself, or close a UDP listener.
    ChangeListeners(ListenerChange),
    /// Serve further UDP sockets.
    AddUdpSockets(Box<UdpSockets>),
    StopAccepting,
    /// A part of a file has been read for a connection.
    FileRead(ConnId, io::Result<Vec<u8>>),
    Shutdown,
    /// No reactor waits for an answer any more, so the remaining connections drain.
    Settled,
}

/// The time at which a completion is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Accepted,
    Flushed,
}

impl<H: EventHandler> Handle<H> {
    pub(crate) fn new(id: ConnId, engine: Engine<H>) -> Self {
        Self { id, engine }
    }

    /// Returns the connection's identifier.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Returns the engine that the connection belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// Returns an outlet to the connection, for a registry of connections with different handlers.
    pub fn outlet(&self) -> Outlet {
        self.engine.outlet(self.id)
    }

    /// Returns true if the connection is open. It may close at any moment.
    pub fn is_open(&self) -> bool {
        self.engine.is_open(self.id)
    }

    /// Writes to the connection. A connection at its outbound limit drops the write. Use
    /// [`write_accepted`](Self::write_accepted) to be notified of that.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<(), HandleError> {
        self.engine.shared().write(self.id, bytes.into())
    }

    /// Writes, and calls `done` on the reactor's thread with the result: `Ok` once the connection has accepted the
    /// bytes, or the error. `done` is called exactly once.
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
            .shared()
            .write_then(self.id, bytes.into(), Moment::Accepted, Box::new(done))
    }

    /// Writes, and calls `done` on the reactor's thread once the kernel has taken the last of the bytes, or with an
    /// error when that can no longer happen. `done` is called exactly once.
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
            .shared()
            .write_then(self.id, bytes.into(), Moment::Flushed, Box::new(done))
    }

    /// Encodes an item with the connection's codec, on the reactor's thread, and writes it. An item that the codec or
    /// the outbound limit refuses there is logged and dropped. If the codec owes an answer, that answer would never
    /// be given, so the connection closes as after [`Action::Refused`](crate::Action::Refused).
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn send<T>(&self, item: T) -> Result<(), HandleError>
    where
        T: Send + 'static,
        H::Codec: Encode<T>,
    {
        self.run(move |_, conn, _| {
            if let Err(error) = conn.send(item) {
                conn.on_send_refused(error);
            }
        })
    }

    /// Runs `task` on the reactor's thread, with the handler, the connection and its session. The task is dropped if
    /// the connection has closed by then. Use [`run_then`](Self::run_then) to be notified of that.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn run(
        &self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(Command::OnConn(self.id, Box::new(task)))
    }

    /// Runs `task` as [`run`](Self::run) does, and then calls `done` with its result. `done` receives
    /// [`HandleError::Closed`] if the connection has closed before, or if `task` panicked. It is called exactly once,
    /// on the reactor's thread.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted. `done` is then not called.
    pub fn run_then<T: 'static>(
        &self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) -> T + Send + 'static,
        done: impl FnOnce(Result<T, HandleError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(Command::OnConn(
            self.id,
            Box::new(ReportingTask { task, done }),
        ))
    }

    /// Closes the connection once all output is sent.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn close(&self) -> Result<(), HandleError> {
        self.engine.shared().close(self.id)
    }

    /// Closes the connection with RST.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn abort(&self) -> Result<(), HandleError> {
        self.engine.shared().abort(self.id)
    }

    /// Sends a deferred answer to the reactor, also when the mailbox is full. There are no more of them than
    /// requests.
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

    /// Gives a task to the reactor, or returns it with the reason why the reactor does not take it.
    #[cfg(feature = "rpc")]
    pub(crate) fn give<T: ConnTask<H>>(&self, task: T) -> Result<(), (HandleError, Box<T>)> {
        if !self.is_open() {
            return Err((HandleError::Closed, Box::new(task)));
        }
        let mailbox = &self.engine.peer(self.id.reactor()).mailbox;
        let command = Command::OnConn(self.id, Box::new(task));
        mailbox.push(command).map_err(|refused| {
            let (why, command) = match refused {
                PushError::Full(command) => (HandleError::MailboxFull, command),
                PushError::Closed(command) => (HandleError::Closed, command),
            };
            if let Command::OnConn(_, task) = command
                && let Ok(task) = (task as Box<dyn Any>).downcast()
            {
                return (why, task);
            }
            unreachable!("the mailbox returns the task that it was given")
        })
    }

    fn request(&self, command: Command<H>) -> Result<(), HandleError> {
        self.engine.shared().request_on(self.id, command)
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
