//! Deferred answers.

use std::fmt;
use std::mem;

use super::converse::is_owed;
use super::handle::ConnTask;
use super::{Conn, EventHandler, Handle, HandleError};
use crate::codec::{Codec, Encode};
use crate::engine::conn::close::CloseReason;

/// An answer that the handler gives later. [`Conn::defer_answer`] returns it.
///
/// If it is dropped without an answer, by a panic or by a full queue, the request fails visibly. A codec that knows
/// of answers sends an error (HTTP: 500), and the connection closes with [`CloseReason::Unanswered`]. Neither this
/// error nor an answer needs room in the reactor's mailbox.
#[must_use = "dropping it fails the request"]
pub struct Answer<H: EventHandler> {
    handle: Handle<H>,
    deferral: Option<u64>,
    if_dropped: Option<Box<dyn ConnTask<H>>>,
    is_given: bool,
}

impl<H: EventHandler> Conn<'_, H> {
    /// Takes the answer to the current frame out of the callback. It can be given later, from any thread.
    ///
    /// Until then the [answer timeout](crate::Server::answer_timeout) replaces the idle timeout. A shutdown and the
    /// end of the peer's stream wait for the answer.
    ///
    /// With a codec that [converses](Codec::CONVERSES), the `Answer` is for the request that is owed an answer now.
    /// It has no effect once that request has been answered in another way, or if nothing was owed. With any other
    /// codec, each `Answer` stands for an answer of its own.
    ///
    /// So with a conversing codec such as HTTP, a handler may still answer in the same callback when the job was
    /// rejected. The dropped `Answer` then does nothing. The documentation of the module `http` has an example. With
    /// other codecs, [`Answer::if_dropped`] sets what is sent then.
    ///
    /// ```
    /// # use epicycle::codec::Lines;
    /// # use epicycle::{Action, Conn, ConnInfo, EventHandler, WorkerPool};
    /// struct Slow {
    ///     pool: WorkerPool,
    /// }
    ///
    /// impl EventHandler for Slow {
    /// #   type Codec = Lines;
    /// #   type Session = ();
    /// #   fn codec(&mut self, _: &ConnInfo<'_>) -> Lines { Lines::new() }
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
        let deferral = if self.codec.converses() {
            is_owed(&self.link.state, self.codec).then(|| self.deferral())
        } else {
            self.link.extras.get_or_insert_default().deferred += 1;
            Some(self.deferral())
        };
        Answer {
            handle: self.handle(),
            deferral,
            if_dropped: None,
            is_given: false,
        }
    }

    /// Returns the number of the request that is owed an answer now. With codecs that do not report owed answers, it is the
    /// number of all that are outstanding.
    fn deferral(&mut self) -> u64 {
        self.on_answer_owed();
        let extras = self.link.extras.get_or_insert_default();
        *extras.deferral.get_or_insert_with(|| {
            self.cx.deferrals += 1;
            self.cx.deferrals
        })
    }

    /// Returns true if a deferred answer belongs to a request that is owed an answer now.
    fn is_due(&self, deferral: Option<u64>) -> bool {
        let current = self.link.extras.as_ref().map(|extras| extras.deferral);
        deferral.is_some() && current == Some(deferral)
    }

    /// Counts one deferred answer as given. After the last one, the actions that waited for it follow.
    fn on_deferred_given(&mut self) {
        let Some(extras) = &mut self.link.extras else {
            return;
        };
        extras.deferred = extras.deferred.saturating_sub(1);
        if self.codec.converses() || extras.deferred > 0 {
            return;
        }
        let state = &self.link.state;
        // A connection that is being detached or piped passes the end of the peer's stream on.
        if state.is_open() && state.saw_peer_eof() && !state.is_leaving() {
            self.close_by_progress(CloseReason::Peer);
        }
        self.end_answer_waits();
    }
}

/// Runs the task that gives a deferred answer. Without a task the answer was dropped, and the connection closes.
pub(crate) fn complete<H: EventHandler>(
    handler: &mut H,
    conn: &mut Conn<'_, H>,
    session: &mut H::Session,
    deferral: Option<u64>,
    task: Option<Box<dyn ConnTask<H>>>,
) {
    match task {
        _ if !conn.is_due(deferral) => {
            log::debug!(target: "epicycle::conn", "{}: a deferred answer was dropped, since its request is already answered", conn.name());
        }
        Some(task) => task.run(handler, conn, session),
        None if conn.is_open() => {
            let reason = CloseReason::Unanswered;
            log::warn!(target: "epicycle::conn", "{}: closing, since {reason}", conn.name());
            conn.begin_close(reason);
        }
        None => {}
    }
    // The task may have switched to another codec, which owes nothing.
    if conn.is_due(deferral) {
        conn.on_deferred_given();
    }
}

impl<H: EventHandler> Answer<H> {
    /// Sets a task that runs on the reactor's thread if the answer is dropped. It replaces closing the connection.
    ///
    /// ```
    /// # use epicycle::codec::Lines;
    /// # use epicycle::{Action, Conn, EventHandler};
    /// # fn defer<H: EventHandler<Codec = Lines>>(conn: &mut Conn<'_, H>) {
    /// let answer = conn.defer_answer().if_dropped(|_handler, conn, _session| {
    ///     let _ = conn.send("sorry, that did not work");
    /// });
    /// # }
    /// ```
    pub fn if_dropped(
        mut self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Self {
        self.if_dropped = Some(Box::new(task));
        self
    }

    /// Returns the handle of its connection.
    pub fn handle(&self) -> &Handle<H> {
        &self.handle
    }

    /// Gives the answer. The item is encoded with the connection's codec on the reactor's thread, and written. If it
    /// is refused there, the connection closes as after [`Action::Refused`](crate::Action::Refused).
    ///
    /// # Errors
    ///
    /// [`HandleError::Closed`] if the connection is closed or the engine has ended.
    pub fn send<T>(self, item: T) -> Result<(), HandleError>
    where
        T: Send + 'static,
        H::Codec: Encode<T>,
    {
        self.run(move |_, conn, _| {
            if let Err(error) = conn.send(item) {
                conn.close_refused(error);
            }
        })
    }

    /// Gives the answer by running `task` on the reactor's thread, with the handler, the connection and its session.
    /// The task may defer the answer again. It is dropped if the connection has closed by then or the request has
    /// been answered.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn run(
        mut self,
        task: impl FnOnce(&mut H, &mut Conn<'_, H>, &mut H::Session) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.give(Some(Box::new(task)))
    }

    fn give(&mut self, task: Option<Box<dyn ConnTask<H>>>) -> Result<(), HandleError> {
        if mem::replace(&mut self.is_given, true) {
            return Ok(());
        }
        self.handle.answer(self.deferral, task)
    }
}

impl<H: EventHandler> Drop for Answer<H> {
    fn drop(&mut self) {
        let if_dropped = self.if_dropped.take();
        // On a closed connection nothing waits for the answer.
        let _ = self.give(if_dropped);
    }
}

impl<H: EventHandler> fmt::Debug for Answer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.handle.id()).finish()
    }
}
