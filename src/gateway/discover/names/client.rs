//! The connections to name servers: a socket for each question, and TCP for answers that are too long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::message::{self, Kind, Parsed};
use crate::addr::{Endpoint, Family};
use crate::codec::{self, LengthField, Raw};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::{Connect, FailedConnect};
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};

/// The time for an answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// The datagrams that may come instead of the answer.
const MAX_STRANGE: u32 = 64;

/// A question, and where its answer goes. If it is dropped, there is none.
pub(super) struct Question {
    pub(super) server: SocketAddr,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) over_tcp: bool,
    pub(super) answer: Sender<Parsed>,
}

codec::one_of! {
    /// Datagrams, or messages with their length in two bytes.
    pub(super) enum Wire {
        Datagrams(Raw),
        Stream(LengthField),
    }
    pub(super) enum WireFrame;
    impl Encode<&[u8]> for Datagrams | Stream;
}

/// Asks name servers.
#[derive(Default)]
pub(super) struct Asker {
    last: u64,
    questions: HashMap<u64, Question>,
}

/// A question that was sent.
pub(super) struct Sent {
    question: Question,
    id: u16,
    strange: u32,
}

impl Asker {
    pub(super) fn ask(&mut self, question: Question, reactor: &mut Reactor<'_, Self>) {
        self.last += 1;
        let (host, port) = (question.server.ip().to_string(), question.server.port());
        let family = Family::Any;
        let to = match question.over_tcp {
            true => Endpoint::Tcp { host, port, family },
            false => Endpoint::Udp { host, port, family },
        };
        // The kernel chooses another port for each socket, at random.
        let connect = Connect::to(to).token(self.last).timeout(TIMEOUT);
        match reactor.connect(connect) {
            Ok(_) => {
                self.questions.insert(self.last, question);
            }
            Err(error) => {
                let _ = question.answer.send(Parsed::Failed(error.to_string()));
            }
        }
    }
}

impl EventHandler for Asker {
    type Codec = Wire;
    type Session = Sent;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Wire {
        let question = match info.origin() {
            Origin::Connected { token, .. } => self.questions.get(&token),
            _ => None,
        };
        if question.is_some_and(|question| question.over_tcp) {
            let lengths = LengthField::builder().length(2).build();
            return lengths.unwrap_or_default().into();
        }
        Raw.into()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Sent> {
        let Origin::Connected { token, .. } = conn.origin() else {
            return None;
        };
        let question = self.questions.remove(&token)?;
        let id = rand::random();
        let sent = match message::query(id, &question.name, question.kind) {
            Ok(bytes) => conn.send(&bytes[..]).map_err(|error| error.to_string()),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = sent {
            let _ = question.answer.send(Parsed::Failed(problem));
            return None;
        }
        conn.set_timer(TIMEOUT, 0);
        Some(Sent {
            question,
            id,
            strange: 0,
        })
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, sent: &mut Sent, frame: WireFrame<'_>) -> Action {
        let (WireFrame::Datagrams(bytes) | WireFrame::Stream(bytes)) = frame;
        let question = &sent.question;
        match message::parse(bytes, sent.id, &question.name, question.kind) {
            Parsed::NotOurs if sent.strange < MAX_STRANGE => {
                sent.strange += 1;
                Action::Continue
            }
            Parsed::NotOurs => Action::Close,
            parsed => {
                let _ = question.answer.send(parsed);
                Action::Close
            }
        }
    }

    fn on_timer(&mut self, _: &mut Conn<'_, Self>, _: &mut Sent, _: u64) -> Action {
        Action::Close
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, sent: Sent, reason: CloseReason) {
        // Only the first one that is sent counts.
        let why = match reason {
            CloseReason::Local => format!("it has not answered within {TIMEOUT:?}"),
            other => other.to_string(),
        };
        let _ = sent.question.answer.send(Parsed::Failed(why));
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        if let Some(question) = self.questions.remove(&failed.token) {
            let _ = question
                .answer
                .send(Parsed::Failed(failed.error.to_string()));
        }
    }
}
