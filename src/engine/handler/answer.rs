//! Answers that are given later.

use std::fmt;
use std::mem;

use super::converse::is_owed;
use super::handle::ConnTask;
use super::{Conn, EventHandler, Handle, HandleError};
use crate::codec::{Codec, Encode};
use crate::engine::conn::close::CloseReason;

/// An answer that the handler owes, for whoever is to give it: see [`Conn::defer_answer`].
///
/// Dropped without having been given, be it by a panic or by a full queue, it fails the request visibly: a codec that
/// knows of answers sends one that says so, HTTP's a 500, and the connection closes with
/// [`CloseReason::Unanswered`]. Neither that nor the answer itself needs room in the reactor's mailbox.
#[must_use = "dropping it fails the request"]
pub struct Answer<H: EventHandler> {
    handle: Handle<H>,
    deferral: Option<u64>,
    otherwise: Option<Box<dyn ConnTask<H>>>,
    is_given: bool,
}

impl<H: EventHandler> Conn<'_, H> {
    /// Takes the answer to the frame at hand out of the callback, to give it later and from any thread.
    ///
    /// Until it is given, the [answer timeout](crate::Server::answer_timeout) takes the place of the idle timeout, and a
    /// shutdown and the end of the peer's stream wait for it.
    ///
    /// With a codec that [converses](Codec::CONVERSES) it is for what is owed now: once that is answered otherwise it has no
    /// effect, and neither has one that is taken when nothing is owed. With any other codec each stands for an answer of its own.
    ///
    /// So a handler with such a codec, HTTP's say, may still answer in the same callback when the job was rejected, and the
    /// dropped `Answer` does nothing: the documentation of the module `http` has an example. With other codecs
    /// [`Answer::otherwise`] says what is sent then.
    ///
    /// ```
    /// # use epicycle::codec::Lines;
    /// # use epicycle::{Action, Conn, EventHandler, WorkerPool};
    /// struct Slow {
    ///     pool: WorkerPool,
    /// }
    ///
    /// impl EventHandler for Slow {
    /// #   type Codec = Lines;
    /// #   type Session = ();
    /// #   fn codec(&mut self) -> Lines { Lines::new() }
    /// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), path: &[u8]) -> Action {
    ///         let answer = conn.defer_answer();
    ///         let path = String::from_utf8_lossy(path).into_owned();
    ///         // A job that is rejected or panics drops the answer, which closes the connection.
    ///         let _ = self.pool.submit(move || {
    ///             let text = std::fs::read_to_string(path).unwrap_or_default();
    ///             let _ = answer.send(text.lines().next().unwrap_or_default().to_owned());
    ///         });
    ///         Action::Continue
    ///     }
    /// }
    /// ```
    pub fn defer_answer(&mut self) -> Answer<H> {
        let deferral = if H::Codec::CONVERSES {
            is_owed(&self.link.state, self.codec).then(|| self.deferral())
        } else {
            self.link.extras.get_or_insert_default().deferred += 1;
            self.owe();
            None
        };
        Answer {
            handle: self.handle(),
            deferral,
            otherwise: None,
            is_given: false,
        }
    }

    /// The number of what is owed now.
    fn deferral(&mut self) -> u64 {
        self.owe();
        let extras = self.link.extras.get_or_insert_default();
        *extras.deferral.get_or_insert_with(|| {
            self.cx.deferrals += 1;
            self.cx.deferrals
        })
    }

    /// Whether a deferred answer is to what is owed now.
    fn is_due(&self, deferral: Option<u64>) -> bool {
        let current = self.link.extras.as_ref().map(|extras| extras.deferral);
        !H::Codec::CONVERSES || (deferral.is_some() && current == Some(deferral))
    }

    /// One answer fewer is to come. What waited for the last goes on.
    fn settle_deferred(&mut self) {
        let Some(extras) = &mut self.link.extras else {
            return;
        };
        extras.deferred = extras.deferred.saturating_sub(1);
        if H::Codec::CONVERSES || extras.deferred > 0 {
            return;
        }
        let state = &self.link.state;
        // One whose bytes go elsewhere from now on takes the end of the peer's stream along.
        if state.is_open() && state.saw_peer_eof() && !state.is_leaving() {
            self.close_unhurried(CloseReason::Peer);
        }
        self.settle();
    }
}

/// A deferred answer is given by a task, or has been dropped.
pub(crate) fn settle<H: EventHandler>(
    handler: &mut H,
    conn: &mut Conn<'_, H>,
    session: &mut H::Session,
    deferral: Option<u64>,
    task: Option<Box<dyn ConnTask<H>>>,
) {
    match task {
        _ if !conn.is_due(deferral) => {
            log::debug!(target: "epicycle::conn", "{}: an answer to what was answered already", conn.name());
        }
        Some(task) => task.run(handler, conn, session),
        None if conn.is_open() => {
            let reason = CloseReason::Unanswered;
            log::warn!(target: "epicycle::conn", "{}: closing, since {reason}", conn.name());
            conn.begin_close(reason);
        }
        None => {}
    }
    conn.settle_deferred();
}

impl<H: EventHandler> Answer<H> {
    /// What is to be done in place of closing, on the reactor's thread, when it is dropped without having been given.
    ///
    /// ```
    /// # use epicycle::codec::Lines;
    /// # use epicycle::{Action, Conn, EventHandler};
    /// # fn defer<H: EventHandler<Codec = Lines>>(conn: &mut Conn<'_, H>) {
    /// let answer = conn.defer_answer().otherwise(|_handler, conn, _session| {
    ///     let _ = conn.send("sorry, that did not work");
    /// });
    /// # }
    /// ```
    pub fn otherwise(
        mut self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Self {
        self.otherwise = Some(Box::new(task));
        self
    }

    /// The way to its connection.
    pub fn handle(&self) -> &Handle<H> {
        &self.handle
    }

    /// Gives the answer: encodes it with the connection's codec, on the reactor's thread, and writes it. One that is refused
    /// then closes the connection as [`Action::Refused`](crate::Action::Refused) does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Closed`] when the connection is closed, or the engine has ended.
    pub fn send<T>(self, item: T) -> Result<(), HandleError>
    where
        T: Send + 'static,
        H::Codec: Encode<T>,
    {
        self.run(move |_, conn, _| {
            if let Err(error) = conn.send(item) {
                conn.give_up(error);
            }
        })
    }

    /// Gives the answer by `task`, on the reactor's thread, with the handler, the connection and its session. What it
    /// leaves owed it may defer anew. The task is dropped if the connection has closed by then, or the request been answered.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn run(
        mut self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.settle(Some(Box::new(task)))
    }

    fn settle(&mut self, task: Option<Box<dyn ConnTask<H>>>) -> Result<(), HandleError> {
        if mem::replace(&mut self.is_given, true) {
            return Ok(());
        }
        self.handle.answer(self.deferral, task)
    }
}

impl<H: EventHandler> Drop for Answer<H> {
    fn drop(&mut self) {
        let otherwise = self.otherwise.take();
        // A connection that is closed waits for nothing.
        let _ = self.settle(otherwise);
    }
}

impl<H: EventHandler> fmt::Debug for Answer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.handle.id()).finish()
    }
}
