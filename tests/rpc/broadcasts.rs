//! Pushes to all sessions of a peer, and to some of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{
    Dialect, Filters, Limits, Message, Protocol, RawProtocol, Sink, WireError,
};
use epicycle::rpc::{Health, Peer, ProtocolChoice, Router, Session};
use epicycle::{Connect, Reconnect};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::ends::{dial, listening, start};
use crate::util::eventually;

/// A text that counts how often it is encoded.
struct Counted<'a>(&'a AtomicUsize);

impl Serialize for Counted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        "hello".serialize(serializer)
    }
}

/// The raw protocol, which counts the messages that it encodes.
struct CountedRaw {
    raw: RawProtocol,
    encoded: Arc<AtomicUsize>,
}

impl Protocol for CountedRaw {
    fn id(&self) -> u8 {
        b'c'
    }

    fn name(&self) -> &'static str {
        "counted"
    }

    fn decode<'a>(
        &mut self,
        src: &'a [u8],
        limits: &Limits,
        filters: &Filters,
    ) -> Result<Decoded<Message<'a>>, WireError> {
        self.raw.decode(src, limits, filters)
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        filters: &Filters,
        out: &mut dyn Sink,
    ) -> Result<(), WireError> {
        self.encoded.fetch_add(1, Ordering::SeqCst);
        self.raw.encode(message, filters, out)
    }
}

/// The number of pushes that each session of a client has received, by its address there.
type Received = Arc<Mutex<HashMap<String, usize>>>;

/// Returns a client whose sessions count pushes to `/news`.
fn counting_client() -> (Peer, Received) {
    let received = Received::default();
    let mut routes = Router::new();
    routes.push("/news", {
        let received = received.clone();
        move |ctx, text: String| {
            assert_eq!(text, "hello");
            let addr = ctx.session().local_addr().to_string();
            *received.lock().entry(addr).or_default() += 1;
            Ok(())
        }
    });
    (start(Peer::builder().routes(routes)), received)
}

fn total(received: &Received) -> usize {
    received.lock().values().sum()
}

#[test]
fn a_push_to_many_sessions_is_encoded_once_for_all_reactors() {
    const SESSIONS: usize = 40;
    let encoded = Arc::new(AtomicUsize::new(0));
    let protocol = ProtocolChoice::custom({
        let encoded = encoded.clone();
        move || CountedRaw {
            raw: RawProtocol::new(Dialect::V4_1),
            encoded: encoded.clone(),
        }
    });
    let server = Peer::builder().listen_with("tcp4://127.0.0.1:0", protocol);
    let server = server.reactors(2).start().expect("starts");
    let (client, received) = counting_client();
    for _ in 0..SESSIONS {
        dial(&client, &server);
    }
    eventually("all are accepted", || server.session_count() == SESSIONS);
    let bodies = AtomicUsize::new(0);

    server
        .broadcast("/news", &Counted(&bodies))
        .expect("is sent");
    eventually("all have it", || total(&received) == SESSIONS);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    assert_eq!(encoded.load(Ordering::SeqCst), 1);

    let group: Vec<Session> = server.sessions().into_iter().step_by(2).collect();
    server
        .broadcast_to(&group, "/news", &Counted(&bodies))
        .expect("is sent");
    eventually("the group has it", || {
        total(&received) == SESSIONS + group.len()
    });
    assert_eq!(bodies.load(Ordering::SeqCst), 2);
    assert_eq!(encoded.load(Ordering::SeqCst), 2);

    // Whatever had gone to others would be there before this one.
    server
        .broadcast("/news", &Counted(&bodies))
        .expect("is sent");
    eventually("all have it", || {
        total(&received) == 2 * SESSIONS + group.len()
    });
    for session in server.sessions() {
        let due = if group.contains(&session) { 3 } else { 2 };
        let addr = session.remote_addr().to_string();
        assert_eq!(received.lock().get(&addr), Some(&due));
    }
}

#[test]
fn a_push_to_a_group_counts_who_has_left_and_reaches_the_others() {
    let server = start(listening());
    let (client, received) = counting_client();
    let (gone, stays) = (dial(&client, &server), dial(&client, &server));
    eventually("both are accepted", || server.session_count() == 2);
    let group = server.sessions();
    gone.abort();
    eventually("one has left", || server.session_count() == 1);
    server
        .broadcast_to(&group, "/news", "hello")
        .expect("is sent");
    eventually("the other has it", || total(&received) == 1);
    let addr = stays.local_addr().to_string();
    assert_eq!(received.lock().get(&addr), Some(&1));
    assert_eq!(server.stats().peer.dropped_pushes, 1);
}

#[test]
fn a_push_to_a_group_waits_for_sessions_that_redial() {
    let pushes = Arc::new(AtomicUsize::new(0));
    let mut routes = Router::new();
    routes.push("/news", {
        let pushes = pushes.clone();
        move |_ctx, _: String| {
            pushes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let server = start(listening().routes(routes));
    let client = start(Peer::builder());
    let redials = Connect::to(&server.local_addrs()[0]).reconnect(Reconnect::default());
    let group = [
        client.dial(redials).expect("connects"),
        dial(&client, &server),
    ];
    client
        .broadcast_to(&group, "/news", "hello")
        .expect("is sent");
    eventually("both have come", || pushes.load(Ordering::SeqCst) == 2);
    // The connection ends on the other side. The push waits for the next one.
    eventually("both are accepted", || server.session_count() == 2);
    let end = group[0].local_addr().to_string();
    for session in server.sessions() {
        if session.remote_addr().to_string() == end {
            session.abort();
        }
    }
    eventually("the session redials", || {
        let session = &group[0];
        session.health() == Health::Redialling || session.local_addr().to_string() != end
    });
    client
        .broadcast_to(&group[..1], "/news", "hello")
        .expect("is sent");
    eventually("it has come", || pushes.load(Ordering::SeqCst) == 3);
}
