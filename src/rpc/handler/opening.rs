//! Sessions that are not open yet: plugins may exchange messages first.

use super::{EARLY_TIME, Line, PeerHandler, Stage};
use crate::engine::handler::{Action, Conn};
use crate::rpc::plugin::{Hooks, Next, guarded};
use crate::rpc::session::{Session, begin_setting_up};
use crate::rpc::wire::{Message, Status};

impl PeerHandler {
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
            other.give_way();
        }
        self.end_dial(line.token, Ok(line.session.clone()));
    }

    fn wait_early(&self, conn: &mut Conn<'_, Self>, line: &mut Line, place: usize) {
        line.stage = Stage::Early(place);
        conn.codec_mut().conversation_mut().is_early = true;
        if line.term.is_none() {
            line.term = conn.now().checked_add(EARLY_TIME);
            line.set_alarm(conn);
        }
    }

    /// Takes a message before the session is open.
    pub(super) fn on_early(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        message: &Message<'_>,
    ) -> Action {
        let Stage::Early(place) = line.stage else {
            // It closes.
            return Action::Continue;
        };
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
