//! Echoed WebSocket messages.

use std::sync::Arc;

use epicycle::ws::{ClientCodec, Event, Handshake, Limits};
use epicycle::{Conn, WriteError};

use super::{Meaning, Wire, payload};
use crate::load::driver::Driver;
use crate::load::plan::Plan;
use crate::load::tally::Failure;

#[derive(Clone)]
pub(crate) struct Ws {
    handshake: Handshake,
    limits: Limits,
    payload: Arc<[u8]>,
}

impl Ws {
    pub(crate) fn new(plan: &Plan) -> Self {
        let path = plan.target.path.as_deref().unwrap_or("/");
        let mut handshake = Handshake::new(&plan.target.host, path);
        for (name, value) in &plan.headers {
            handshake = handshake.header(name, value);
        }
        let most = plan.size.max(1 << 20);
        Self {
            handshake,
            limits: Limits::default().max_frame(most).max_message(most),
            payload: payload(plan.size).into(),
        }
    }
}

impl Wire for Ws {
    type Codec = ClientCodec;
    type State = ();

    fn codec(&self) -> ClientCodec {
        ClientCodec::new(self.limits)
    }

    fn greet(&self, conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError> {
        conn.send(self.handshake.clone()).map(|()| false)
    }

    #[inline]
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>, (): &mut ()) -> Result<(), WriteError> {
        conn.send(&*self.payload)
    }

    #[inline]
    fn interpret(&self, _: &mut Conn<'_, Driver<Self>>, (): &mut (), event: Event<'_>) -> Meaning {
        match event {
            Event::Opened(_) => Meaning::Ready,
            Event::Message(message) if message.as_bytes() == &*self.payload => Meaning::Right(1),
            Event::Message(_) => {
                Meaning::Wrong(Failure::Wrong("another message came back than was sent"))
            }
            // `on_close` counts open requests.
            Event::Pong(_) | Event::Closed(_) => Meaning::Nothing,
        }
    }
}
