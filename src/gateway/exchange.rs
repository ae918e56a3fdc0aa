//! An exchange: a request of a client, and what becomes of it.

use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::compress::Gzip;
use super::destination::NamedTarget;
use super::hooks::Head;
use super::pool::{Chosen, InPool};
use super::record::Notes;
use super::route::Route;
use super::users::Users;
use crate::balance::NodeId;
use crate::codec::Encode;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Conn, ConnTimer, EventHandler};
use crate::engine::slots::ConnId;
use crate::fetch::Ticket;
use crate::http::client::ClientRequest;
use crate::http::{Chunk, HeaderBlock, KeptHead, Trailers, Version};

/// An exchange. The session of the client's connection owns it.
pub(super) struct Exchange<X> {
    /// The request as the client sent it.
    pub(super) asked: Asked,
    /// The head for the node.
    pub(super) head: Head,
    pub(super) body: Body,
    pub(super) upload: Upload,
    pub(super) answer: Answer,
    /// The parts of the response that wait for others.
    pub(super) gathered: Option<Box<Gathered>>,
    pub(super) place: Place,
    pub(super) route: Option<Rc<Route>>,
    /// The number of the pool.
    pub(super) pool: Option<usize>,
    pub(super) chosen: Option<Chosen>,
    /// The target, if the client of a forward listener names it.
    pub(super) target: Option<NamedTarget>,
    /// True if the request is a `CONNECT`.
    pub(super) is_connect: bool,
    /// True if the request proves who sends it for the whole connection, which then serves nobody else.
    pub(super) is_private: bool,
    /// The nodes that have failed it.
    pub(super) tried: Vec<NodeId>,
    /// The node whose name stands in the record.
    pub(super) last_node: Option<NodeId>,
    /// The hash that the balancer may use.
    pub(super) key: u64,
    pub(super) retries: u32,
    /// The number of connections that ended before the request was written to them.
    pub(super) in_vain: u32,
    /// The protocol that the client asks to change to.
    pub(super) upgrade: Option<Box<str>>,
    /// The address of the client, as its proxies tell it. It stays the same for the whole exchange.
    pub(super) client: Option<IpAddr>,
    pub(super) expectation: Expectation,
    /// The fields that the client's `Connection` names.
    pub(super) nominated: Vec<Box<[u8]>>,
    /// The state of options that few routes have.
    pub(super) extras: Option<Box<Extras>>,
    /// True if the host is that of the node, whichever it is.
    pub(super) takes_nodes_host: bool,
    /// True if the client's connection takes no further request.
    pub(super) is_last: bool,
    /// True if the client's connection has a deadline for it. The settings may have changed since it was set.
    pub(super) has_deadline: bool,
    /// The hooks' own part, from the first hook on.
    pub(super) hook: Option<X>,
    pub(super) notes: Notes,
}

/// The state of options that few routes have.
#[derive(Default)]
pub(super) struct Extras {
    /// The name that the client has proved, and the users among which that was.
    pub(super) user: Option<(Box<str>, Users)>,
    /// True if the client takes gzip.
    pub(super) takes_gzip: bool,
    /// Compresses the body of the response.
    pub(super) gzip: Option<Box<Gzip>>,
    /// The body so far, if the request is to be copied.
    pub(super) copied_body: Option<Vec<u8>>,
    /// The cookie that keeps the client at its pool, as it is set.
    pub(super) cookie: Option<String>,
    /// Its place among the `max_in_flight` of its pool.
    pub(super) in_pool: Option<InPool>,
    /// The request, while the client's password is checked.
    pub(super) unchecked: Option<KeptHead>,
}

impl Extras {
    /// Returns the name that the client has proved.
    pub(super) fn user(extras: Option<&Self>) -> Option<&str> {
        let (user, _) = extras?.user.as_ref()?;
        Some(user)
    }
}

/// A request as the client sent it: its line and its host.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) is_http10: bool,
}

/// The memory of exchanges that have ended, for others. So most exchanges allocate none.
pub(super) struct Spare<X>(Vec<Box<Exchange<X>>>);

impl<X> Default for Spare<X> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<X> Spare<X> {
    /// The most exchanges that are kept.
    const MAX: usize = 256;

    /// The most bytes of texts that are kept for an exchange.
    const MAX_BYTES: usize = 4 << 10;

    /// Returns an empty exchange.
    pub(super) fn take(&mut self, notes: Notes) -> Box<Exchange<X>> {
        match self.0.pop() {
            Some(mut spare) => {
                spare.notes = notes;
                spare
            }
            None => Box::new(Exchange::empty(Asked::default(), Head::default(), notes)),
        }
    }

    /// Takes the memory of an exchange that has ended. All else is dropped.
    pub(super) fn put(&mut self, mut exchange: Box<Exchange<X>>) {
        let mut asked = mem::take(&mut exchange.asked);
        let mut head = mem::take(&mut exchange.head);
        let texts = [
            &mut asked.method,
            &mut asked.host,
            &mut asked.target,
            &mut head.method,
            &mut head.host,
            &mut head.target,
        ];
        let mut bytes = head.fields.capacity();
        for text in texts {
            text.clear();
            bytes += text.capacity();
        }
        head.fields.clear();
        if self.0.len() < Self::MAX && bytes <= Self::MAX_BYTES {
            let notes = Notes::at(exchange.notes.began, exchange.notes.unix_time);
            *exchange = Exchange::empty(asked, head, notes);
            self.0.push(exchange);
        }
    }
}

/// The framing of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Sized(u64),
    Chunked,
}

/// The progress of a request's body.
#[derive(Debug)]
pub(super) struct Upload {
    /// True once the client has sent all of it.
    pub(super) is_complete: bool,
    /// The bytes that the route still allows.
    pub(super) allowed: u64,
    /// The beginning of the body, as long as it is kept.
    pub(super) kept: Kept,
    /// The trailers of a complete body.
    pub(super) trailers: HeaderBlock,
}

/// The beginning of a request's body.
#[derive(Debug)]
pub(super) enum Kept {
    /// It is complete up to here, so that the request can be sent again.
    Whole(Vec<u8>),
    /// It was sent and is gone.
    Gone,
}

/// A client's wait for a `100 Continue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// It does not wait, or no longer.
    None,
    /// When this timer expires, the gateway itself says it.
    Awaited(ConnTimer),
    /// The gateway has said it, so the node's is not passed on.
    Met,
}

/// The progress of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing has come.
    Awaited,
    /// An interim response has come.
    Interim,
    /// The head was passed on.
    Begun,
}

/// Parts of a response that wait for others.
#[derive(Debug)]
pub(super) struct Gathered {
    /// The time for which the first of them waits.
    pub(super) interval: Duration,
    pub(super) bytes: Vec<u8>,
    /// Runs while there are some.
    pub(super) timer: Option<ConnTimer>,
}

/// Where an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its target is dialled once its end has come.
    Connecting,
    /// The dial with this token is under way, for a tunnel.
    Dialing(u64),
    /// It gathers its body first.
    Gathering,
    /// It waits for a connection.
    Waiting(Ticket),
    /// It has one.
    On { upstream: ConnId, reused: bool },
    /// Client and node have changed to another protocol.
    Tunnel,
    /// They have changed to WebSocket, and their frames are seen.
    Frames { upstream: ConnId },
    /// It has ended, or is about to take a place.
    Nowhere,
}

impl<X> Exchange<X> {
    /// Returns an exchange without a request. Its texts are empty.
    fn empty(asked: Asked, head: Head, notes: Notes) -> Self {
        Self {
            asked,
            head,
            body: Body::None,
            upload: Upload {
                is_complete: false,
                allowed: u64::MAX,
                kept: Kept::Whole(Vec::new()),
                trailers: HeaderBlock::new(),
            },
            answer: Answer::Awaited,
            gathered: None,
            place: Place::Nowhere,
            route: None,
            pool: None,
            chosen: None,
            target: None,
            is_connect: false,
            is_private: false,
            tried: Vec::new(),
            last_node: None,
            key: 0,
            retries: 0,
            in_vain: 0,
            upgrade: None,
            client: None,
            expectation: Expectation::None,
            nominated: Vec::new(),
            extras: None,
            takes_nodes_host: false,
            is_last: false,
            has_deadline: false,
            hook: None,
            notes,
        }
    }

    /// Returns the hooks' own part.
    pub(super) fn hook(&mut self) -> &mut X
    where
        X: Default,
    {
        self.hook.get_or_insert_default()
    }

    /// Returns true if the request may be carried out twice (RFC 9110, section 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        matches!(
            &*self.head.method,
            "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE"
        )
    }

    /// Returns true if the whole request, as far as it has come, can be sent again.
    pub(super) fn can_be_sent_again(&self) -> bool {
        matches!(self.upload.kept, Kept::Whole(_))
    }

    /// Writes the request to a connection, with as much of its body as has come.
    pub(super) fn write_to<H>(&self, upstream: &mut Conn<'_, H>) -> Result<(), WriteError>
    where
        H: EventHandler,
        H::Codec: for<'a> Encode<ClientRequest<'a>>
            + for<'a> Encode<Chunk<'a>>
            + for<'a> Encode<Trailers<'a>>,
    {
        let head = &self.head;
        let request =
            ClientRequest::new(&head.method, &head.host, &head.target).block(&head.fields);
        let request = match head.is_checked {
            true => request.received(),
            false => request,
        };
        let request = match self.body {
            Body::None => request,
            Body::Sized(len) => request.sized(len),
            Body::Chunked => request.streamed(),
        };
        upstream.send(match &self.upgrade {
            Some(protocol) => request.upgrade(protocol),
            None => request,
        })?;
        if let Kept::Whole(bytes) = &self.upload.kept
            && !bytes.is_empty()
        {
            upstream.send(Chunk(bytes))?;
        }
        if self.upload.is_complete && self.body == Body::Chunked {
            upstream.send(Trailers(&self.upload.trailers))?;
        }
        Ok(())
    }

    /// Takes back the timer after which the gateway itself says `100 Continue`. `client` is the client's connection.
    pub(super) fn stop_waiting<H: EventHandler>(&mut self, client: &mut Conn<'_, H>) {
        if let Expectation::Awaited(timer) = self.expectation {
            client.cancel_timer(timer);
            self.expectation = Expectation::None;
        }
    }

    /// Returns the connection that serves it.
    pub(super) fn upstream(&self) -> Option<ConnId> {
        match self.place {
            Place::On { upstream, .. } | Place::Frames { upstream } => Some(upstream),
            _ => None,
        }
    }

    pub(super) fn version(&self) -> Version {
        match self.asked.is_http10 {
            true => Version::Http10,
            false => Version::Http11,
        }
    }
}

impl Upload {
    /// Keeps a part of the body, if it stays within the limit.
    pub(super) fn keep(&mut self, part: &[u8], limit: usize) {
        if let Kept::Whole(bytes) = &mut self.kept {
            match bytes.len() + part.len() <= limit {
                true => bytes.extend_from_slice(part),
                false => self.kept = Kept::Gone,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Returns an exchange with a target of that length.
    fn exchange(len: usize) -> Box<Exchange<()>> {
        let mut exchange = Spare::default().take(Notes::at(Instant::now(), 0));
        let Exchange { asked, head, .. } = &mut *exchange;
        for text in [
            &mut asked.method,
            &mut asked.host,
            &mut head.method,
            &mut head.host,
            &mut head.target,
        ] {
            text.push_str("of another client");
        }
        asked.target.push_str(&"x".repeat(len));
        let pushed = head.fields.push("Cookie", "of another client");
        pushed.expect("it is sound");
        exchange.nominated.push(Box::from(*b"of another client"));
        exchange.upload.keep(b"of another client", 100);
        exchange.hook = Some(());
        exchange
    }

    #[test]
    fn an_exchange_gets_memory_of_another_one_but_nothing_else() {
        let mut spare = Spare::default();
        spare.put(exchange(100));
        let exchange = spare.take(Notes::at(Instant::now(), 0));
        assert!(spare.0.is_empty());
        let Exchange { asked, head, .. } = &*exchange;
        assert!(asked.target.capacity() >= 100);
        for text in [
            &asked.method,
            &asked.host,
            &asked.target,
            &head.method,
            &head.host,
            &head.target,
        ] {
            assert_eq!(text, "");
        }
        assert!(head.fields.is_empty());
        assert!(exchange.nominated.is_empty());
        assert!(exchange.hook.is_none());
        assert!(matches!(&exchange.upload.kept, Kept::Whole(bytes) if bytes.is_empty()));
    }

    #[test]
    fn the_memory_of_long_texts_and_of_many_is_not_kept() {
        let mut spare = Spare::default();
        spare.put(exchange(Spare::<()>::MAX_BYTES + 1));
        assert_eq!(spare.0.len(), 0);
        for _ in 0..Spare::<()>::MAX + 10 {
            spare.put(exchange(1));
        }
        assert_eq!(spare.0.len(), Spare::<()>::MAX);
    }
}
