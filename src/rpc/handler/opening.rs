//! Sessions that are not open yet: plugins may exchange messages first.

use super::{EARLY_TIME, Line, PeerHandler, Stage};
use crate::engine::handler::{Action, Conn, WriteError};
use crate::rpc::codec::{Ends, Greeting};
use crate::rpc::plugin::{Hooks, Next, guarded};
use crate::rpc::reply::local;
use crate::rpc::session::{Session, begin_setting_up};
use crate::rpc::wire::{Kind, Message, Status, code};

impl PeerHandler {
    /// Begins the handshake of what carries the messages. The session opens after it.
    pub(super) fn begin_greeting(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        line.stage = Stage::Greeting;
        self.limit_opening(conn, line);
        if let Err(error) = self.greet(conn, line) {
            let status = local(code::DIAL_FAILED, error.to_string());
            self.refuse_session(conn, line, status);
        }
    }

    /// Sends what is due in the handshake.
    pub(super) fn greet(&self, conn: &mut Conn<'_, Self>, line: &Line) -> Result<(), WriteError> {
        let session = &line.session;
        #[cfg(feature = "tls")]
        let is_tls = conn.tls().is_some();
        #[cfg(not(feature = "tls"))]
        let is_tls = false;
        conn.send(Greeting(Ends {
            local: &session.local_addr(),
            remote: &session.remote_addr(),
            is_tls,
        }))
    }

    /// Opens the session if the handshake has ended. Returns `None` if there is a message besides.
    fn on_greeting(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        is_message: bool,
    ) -> Option<Action> {
        if !is_message && let Err(error) = self.greet(conn, line) {
            return Some(error.into());
        }
        if !conn.codec().is_ready() {
            return Some(Action::Continue);
        }
        if conn.codec().only_answers() {
            line.session.set_only_answers();
        }
        self.open(conn, line, 0);
        self.carry_out(conn, line);
        match line.stage {
            Stage::Refused => Some(Action::Close),
            _ if is_message => None,
            _ => Some(Action::Continue),
        }
    }

    /// Asks the plugins, from this place on, and opens the session if none of them awaits a message.
    pub(super) fn open(&self, conn: &mut Conn<'_, Self>, line: &mut Line, from: usize) {
        let hook = match line.session.is_client() {
            true => Hooks::POST_DIAL,
            false => Hooks::POST_ACCEPT,
        };
        let rest = self.parts.plugins.with(hook);
        let setting_up = (line.token).map(|token| begin_setting_up(token, conn.id()));
        for (place, plugin) in rest.filter(|(place, _)| *place >= from) {
            let next = guarded(plugin, || match hook {
                Hooks::POST_DIAL => plugin.post_dial(&line.session),
                _ => plugin.post_accept(&line.session),
            });
            match next {
                Ok(Next::Go) => {}
                Ok(Next::Await) => return self.wait_early(conn, line, place),
                Err(status) => return self.refuse_session(conn, line, status),
            }
        }
        drop(setting_up);
        line.stage = Stage::Open;
        line.term = None;
        conn.codec_mut().conversation_mut().is_early = false;
        if line
            .token
            .is_some_and(|token| self.redials.has_session(token))
        {
            return self.go_on(conn, line);
        }
        line.begin_age(conn);
        self.settle_home(conn, line);
        let sessions = &self.parts.peer.shared.sessions;
        if let Some(other) = sessions.insert(&line.session) {
            other.close();
        }
        self.end_dial(line.token, Ok(line.session.clone()));
    }

    fn wait_early(&self, conn: &mut Conn<'_, Self>, line: &mut Line, place: usize) {
        // A peer has fewer plugins than that; a session stays small.
        line.stage = Stage::Early(place as u32);
        conn.codec_mut().conversation_mut().is_early = true;
        self.limit_opening(conn, line);
    }

    /// Limits the time until the session opens.
    fn limit_opening(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        if line.term.is_none() {
            line.term = conn.now().checked_add(EARLY_TIME);
            line.set_alarm(conn);
        }
    }

    /// Takes a message before the session is open. Returns `None` if the session has opened and has to take the message.
    #[cold]
    pub(super) fn on_early(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        message: &Message<'_>,
    ) -> Option<Action> {
        let is_message = !conn.codec_mut().take_greeting();
        if line.stage == Stage::Greeting {
            let action = self.on_greeting(conn, line, is_message);
            if action.is_some() || line.stage == Stage::Open {
                return action;
            }
        } else if !is_message {
            return Some(self.greet(conn, line).into());
        }
        Some(self.on_early_message(conn, line, message))
    }

    fn on_early_message(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        message: &Message<'_>,
    ) -> Action {
        let Stage::Early(place) = line.stage else {
            // It closes.
            return Action::Continue;
        };
        let place = place as usize;
        let session = &line.session;
        let next = match self.parts.plugins.get(place) {
            Some(plugin) => {
                let _setting_up = (line.token).map(|token| begin_setting_up(token, conn.id()));
                guarded(plugin, || plugin.early(session, message))
            }
            None => Ok(Next::Go),
        };
        match next {
            Ok(Next::Go) => self.open(conn, line, place + 1),
            Ok(Next::Await) => {}
            Err(status) => self.refuse_session(conn, line, status),
        }
        self.carry_out(conn, line);
        match line.stage {
            Stage::Refused => Action::Close,
            _ => Action::Continue,
        }
    }

    fn refuse_session(&self, conn: &mut Conn<'_, Self>, line: &mut Line, status: Status) {
        log::info!(target: "epicycle::rpc", "{}: the session is refused: {status}", conn.peer_addr());
        line.stage = Stage::Refused;
        if let Some(token) = line.token {
            self.redials.refused(token, &status);
        }
        if conn.codec().only_answers() {
            // The request with which the session was to open gets its answer.
            let mut reply = Message::new(Kind::Reply);
            reply.set_status(&status, usize::MAX);
            if let Err(error) = conn.send(&reply) {
                log::debug!(target: "epicycle::rpc", "{}: {error}", conn.peer_addr());
            }
        }
        self.end_dial(line.token, Err(status));
    }

    /// Tells whoever dialled the result, if the connection was dialled or taken over.
    pub(super) fn end_dial(&self, token: Option<u64>, result: Result<Session, Status>) {
        if let Some(token) = token {
            self.parts.peer.dials.end(token, result);
        }
    }

    /// Asks the plugins whether a message is read.
    #[inline]
    pub(super) fn before_read(&self, line: &Line) -> Result<(), Status> {
        let session = &line.session;
        (self.parts.plugins).run(Hooks::PRE_READ_HEADER, |plugin| {
            plugin.pre_read_header(session)
        })
    }
}
