//! The handlers of the servers: each answers a request with its payload, and records opened and closed connections.

use std::marker::PhantomData;
use std::sync::Arc;

use epicycle::codec::{Codec, LengthField, Raw};
use epicycle::http::{HttpCodec, Limits, ServerRequest, ServerResponse};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Frame, Reactor};

use super::ledger::Ledger;

/// The longest payload that the length-field and the HTTP server accept, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 16 << 10;

/// The protocol of a server, with its answers.
pub(crate) trait Answering: 'static {
    type Codec: Codec;

    fn codec() -> Self::Codec;

    fn answer(
        conn: &mut Conn<'_, Counted<Self>>,
        frame: <Self::Codec as Codec>::Frame<'_>,
    ) -> Action
    where
        Self: Sized;
}

pub(crate) struct Echo;

impl Answering for Echo {
    type Codec = Raw;

    fn codec() -> Raw {
        Raw
    }

    fn answer(conn: &mut Conn<'_, Counted<Self>>, bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }
}

pub(crate) struct Frames;

impl Answering for Frames {
    type Codec = LengthField;

    fn codec() -> LengthField {
        let codec = LengthField::builder().max_frame(4 + MAX_PAYLOAD);
        codec.build().expect("has a length")
    }

    fn answer(conn: &mut Conn<'_, Counted<Self>>, frame: &[u8]) -> Action {
        conn.send(frame).into()
    }
}

pub(crate) struct Http;

impl Answering for Http {
    type Codec = HttpCodec;

    fn codec() -> HttpCodec {
        HttpCodec::new(
            Limits::default()
                .max_body(MAX_PAYLOAD as u64)
                .max_head(12 << 10),
        )
    }

    fn answer(conn: &mut Conn<'_, Counted<Self>>, request: ServerRequest<'_>) -> Action {
        conn.send(ServerResponse::ok().body(request.body())).into()
    }
}

/// The handler: answers requests, and records opened and closed connections.
pub(crate) struct Counted<P> {
    ledger: Arc<Ledger>,
    protocol: PhantomData<P>,
}

impl<P> Counted<P> {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            protocol: PhantomData,
        }
    }
}

impl<P: Answering> EventHandler for Counted<P> {
    type Codec = P::Codec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> P::Codec {
        P::codec()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        self.ledger.open();
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        P::answer(conn, frame)
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        closed: &Closed,
        (): (),
        reason: CloseReason,
    ) {
        self.ledger.close(closed, &reason);
    }
}
