//! A reverse proxy for HTTP, which streams both ways and holds little of it: one connection to the origin for each request.

use std::collections::HashMap;

use epicycle::codec::{self, encode_to_vec};
use epicycle::http::client::{ClientRequest, ResponsePart, StreamCodec};
use epicycle::http::{
    Chunk, HeaderBlock, Headers, HttpStreamCodec, RequestPart, ServerRequest, ServerResponse,
    StatusCode, Trailers,
};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, Connect, EventHandler, FailedConnect,
    Origin, Reactor, WriteError,
};

codec::one_of! {
    pub(crate) enum Side {
        Client(HttpStreamCodec),
        Origin(StreamCodec),
    }
    pub(crate) enum Part;
    impl Encode<ServerResponse<'_>> for Client;
    impl Encode<ClientRequest<'_>> for Origin;
    impl Encode<Chunk<'_>> for Client | Origin;
    impl Encode<Trailers<'_>> for Client | Origin;
}

pub(crate) struct Proxy {
    origin: Connect,
    /// The requests whose connection to the origin is being made, by its token: the identifier of the client's connection.
    waiting: HashMap<u64, Waiting>,
    /// The headers that are passed on.
    block: HeaderBlock,
}

struct Waiting {
    client: ConnId,
    /// The head, and the codec that has encoded it.
    head: Vec<u8>,
    codec: StreamCodec,
}

impl EventHandler for Proxy {
    type Codec = Side;
    /// The connection at the other end of the exchange.
    type Session = Option<ConnId>;
    const HANDLES_FIN: bool = true;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Side {
        match info.origin() {
            Origin::Connected { .. } => StreamCodec::default().into(),
            _ => HttpStreamCodec::default().manual_continue().into(),
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Option<ConnId>> {
        let Origin::Connected { token } = conn.origin() else {
            return Some(None);
        };
        // If the client has left, the connection is refused.
        let Waiting {
            client,
            head,
            codec,
        } = self.waiting.remove(&token)?;
        conn.switch(codec);
        if conn.write(&head).is_err() {
            conn.abort();
        }
        let origin = conn.id();
        conn.with(client, |client, other| {
            *other = Some(origin);
            client.resume_reads();
        })?;
        Some(Some(client))
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        other: &mut Option<ConnId>,
        part: Part<'_>,
    ) -> Action {
        match part {
            Part::Client(RequestPart::Head(request)) => return self.dial(conn, &request),
            Part::Client(RequestPart::Body(bytes)) | Part::Origin(ResponsePart::Body(bytes)) => {
                pass(conn, *other, |other| other.send(Chunk(bytes)));
            }
            Part::Client(RequestPart::End(trailers)) => {
                let sent = self.gather(trailers);
                pass(conn, *other, |other| other.send(Trailers(sent?)));
            }
            Part::Origin(ResponsePart::Interim(response) | ResponsePart::Head(response)) => {
                let headers = self.gather(response.headers());
                pass(conn, *other, |client| {
                    client.send(ServerResponse::relayed(&response).block(headers?))
                });
            }
            Part::Origin(ResponsePart::End(trailers)) => {
                let sent = self.gather(trailers);
                pass(conn, *other, |client| client.send(Trailers(sent?)));
                if let Some(client) = other.take() {
                    conn.with(client, |client, origin| {
                        *origin = None;
                        client.resume_reads();
                    });
                }
                return Action::Close;
            }
            _ => return Action::Close,
        }
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, other: &mut Option<ConnId>) -> Action {
        if let Some(other) = *other {
            conn.with(other, |other, _| other.resume_reads());
        }
        Action::Continue
    }

    /// A client that ends its stream has left, as most proxies see it.
    fn on_fin(&mut self, conn: &mut Conn<'_, Self>, _: &mut Option<ConnId>) -> Action {
        match conn.codec() {
            Side::Client(_) => Action::Close,
            Side::Origin(_) => Action::Continue,
        }
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        other: Option<ConnId>,
        _: CloseReason,
    ) {
        self.waiting.remove(&info.id.as_u64());
        if let Some(other) = other {
            reactor.with(other, |other, gone| {
                *gone = None;
                match other.codec() {
                    Side::Client(_) => fail(other),
                    Side::Origin(_) => other.abort(),
                }
            });
        }
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        if let Some(waiting) = self.waiting.remove(&failed.token) {
            reactor.with(waiting.client, |client, _| fail(client));
        }
    }
}

impl Proxy {
    pub(crate) fn to(origin: Connect) -> Self {
        Self {
            origin,
            waiting: HashMap::new(),
            block: HeaderBlock::new(),
        }
    }

    #[allow(dead_code, reason = "only the simulation looks inside")]
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn gather(&mut self, headers: Headers<'_>) -> Result<&HeaderBlock, WriteError> {
        self.block.fill(headers.end_to_end())?;
        Ok(&self.block)
    }

    fn dial(&mut self, client: &mut Conn<'_, Self>, request: &ServerRequest<'_>) -> Action {
        let mut codec = StreamCodec::default();
        let head = self.gather(request.headers());
        let head = head
            .map(|block| encode_to_vec(&mut codec, ClientRequest::relayed(request).block(block)));
        let Ok(Ok(head)) = head else {
            return client
                .send(ServerResponse::new(StatusCode::BAD_REQUEST))
                .into();
        };
        let id = client.id();
        let connect = self.origin.clone().token(id.as_u64());
        if client.reactor().connect(connect).is_err() {
            fail(client);
            return Action::Continue;
        }
        client.pause_reads();
        self.waiting.insert(
            id.as_u64(),
            Waiting {
                client: id,
                head,
                codec,
            },
        );
        Action::Continue
    }
}

/// Sends to the other end of an exchange. Reads no more while that has no room.
fn pass(
    from: &mut Conn<'_, Proxy>,
    to: Option<ConnId>,
    send: impl FnOnce(&mut Conn<'_, Proxy>) -> Result<(), WriteError>,
) {
    let has_room = to.and_then(|to| {
        from.with(to, |to, _| {
            if send(to).is_err() {
                to.abort();
            }
            to.has_room()
        })
    });
    if has_room == Some(false) {
        from.pause_reads();
    }
}

/// Tells a client that the origin has failed. If the response has begun, only an abort shows that.
fn fail(client: &mut Conn<'_, Proxy>) {
    if client
        .send(ServerResponse::new(StatusCode::BAD_GATEWAY).close())
        .is_err()
    {
        client.abort();
    }
}
