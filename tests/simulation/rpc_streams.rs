//! Streams between RPC peers: each ends exactly once on both sides, and no item is lost, doubled or out of order before that,
//! whatever the network and the other peer do.

use std::sync::Arc;
use std::time::Duration;

use epicycle::Connect;
use epicycle::rpc::{
    Peer, PeerBuilder, Receiver, Responder, Router, Sender, Session, Status, StreamHandle, code,
};
use epicycle::testing::{World, each_seed};
use fastrand::Rng;
use parking_lot::Mutex;

use super::world;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];

/// The items and the end that a reader has got.
#[derive(Debug, Default)]
struct Tale {
    /// For the messages of failures.
    what: String,
    items: Vec<u64>,
    ends: Vec<Result<(), Status>>,
    /// The items of a stream that ends well.
    expected: Option<Vec<u64>>,
}

/// The readers of all streams, on both sides.
#[derive(Clone, Default)]
struct Tales(Arc<Mutex<Vec<Arc<Mutex<Tale>>>>>);

impl Tales {
    fn begin(&self, what: String, expected: Option<Vec<u64>>) -> Arc<Mutex<Tale>> {
        let tale = Arc::new(Mutex::new(Tale {
            what,
            expected,
            ..Tale::default()
        }));
        self.0.lock().push(tale.clone());
        tale
    }

    fn read(&self, what: String, expected: Option<Vec<u64>>, rx: Receiver<u64>) -> StreamHandle {
        let tale = self.begin(what, expected);
        let ended = tale.clone();
        rx.on_item(
            move |item| tale.lock().items.push(item),
            move |end| ended.lock().ends.push(end),
        )
    }

    fn check(&self) -> usize {
        let tales = self.0.lock();
        for tale in &*tales {
            let tale = tale.lock();
            let what = &tale.what;
            assert_eq!(tale.ends.len(), 1, "{what}: {tale:?}");
            let count = tale.items.len();
            if let Some(expected) = &tale.expected {
                let is_begun = expected.get(..count) == Some(&tale.items[..]);
                assert!(is_begun, "{tale:?}");
                if tale.ends[0].is_ok() {
                    assert_eq!(count, expected.len(), "{tale:?}");
                }
            }
            if let Err(status) = &tale.ends[0] {
                assert!(
                    matches!(
                        status.code,
                        code::CONNECTION_CLOSED
                            | code::CANCELLED
                            | code::HANDLE_TIMEOUT
                            | code::TOO_MANY_REQUESTS
                            | code::SERVICE_UNAVAILABLE
                            | code::INTERNAL_SERVER_ERROR
                            | GIVEN_UP
                    ),
                    "{tale:?}"
                );
            }
        }
        tales.len()
    }
}

/// The code of streams that fail on purpose.
const GIVEN_UP: i32 = 1001;

/// Sends numbers as fast as their reader takes them, and then ends the items in one of several ways.
fn send_all(tx: Sender<u64>, mut rest: std::ops::Range<u64>, end: u64) {
    while let Some(next) = rest.next() {
        if tx.send(&next).is_err() {
            let rest = next..rest.end;
            return tx.when_room(move |tx| {
                if let Ok(tx) = tx {
                    send_all(tx, rest, end);
                }
            });
        }
    }
    match end % 4 {
        0 => tx.fail(Status::new(GIVEN_UP, "enough")),
        1 => drop(tx),
        _ => tx.finish(),
    }
}

/// The routes of both peers.
fn routes(tales: &Tales) -> Router {
    let mut routes = Router::new();
    routes.stream(
        "/feed",
        |_ctx, (count, end): (u64, u64), tx: Sender<u64>| send_all(tx, 0..count, end),
    );
    let readers = tales.clone();
    routes.stream(
        "/sum",
        move |_ctx, count: u64, (rx, reply): (Receiver<u64>, Responder<u64>)| {
            let tale = readers.begin("the reader of /sum".to_owned(), Some((0..count).collect()));
            let ended = tale.clone();
            rx.on_item(
                move |n| tale.lock().items.push(n),
                move |end| {
                    let mut tale = ended.lock();
                    tale.ends.push(end.clone());
                    reply.send(end.map(|()| tale.items.iter().sum()));
                },
            );
        },
    );
    type Both = (Sender<u64>, Receiver<u64>);
    routes.stream_async("/echo", |_ctx, _: (), (tx, mut rx): Both| async move {
        while let Some(n) = rx.next().await {
            tx.send_async(&n?).await?;
        }
        Ok(())
    });
    routes.call("/one", |_ctx, n: u64| Ok(n));
    routes
}

fn peer(rng: &mut Rng, tales: &Tales) -> PeerBuilder {
    Peer::builder()
        .routes(routes(tales))
        .reactors(rng.usize(1..=2))
        .stream_credit(rng.u32(1..20))
        .max_streams(rng.usize(2..20))
        .call_timeout(Duration::from_secs(5))
        .close_within(Duration::from_millis(rng.u64(100..3000)))
}

/// Opens a stream of one kind or another.
fn open(session: &Session, rng: &mut Rng, tales: &Tales) -> StreamHandle {
    let count = rng.u64(0..60);
    let end = rng.u64(..12);
    let numbers = || Some((0..count).collect());
    match rng.u8(..4) {
        0 => {
            let rx = session.stream("/feed", &(count, end)).receive();
            tales.read(format!("/feed of {count}"), numbers(), rx)
        }
        1 => {
            let (tx, rx) = session.stream("/sum", &count).open();
            send_all(tx, 0..count, end);
            let sum = Some(vec![(0..count).sum()]);
            tales.read(format!("/sum of {count}"), sum, rx)
        }
        2 => {
            let (tx, rx) = session.stream("/echo", &()).open();
            send_all(tx, 0..count, end);
            tales.read(format!("/echo of {count}"), numbers(), rx)
        }
        _ => {
            let rx = session.stream("/one", &count).receive();
            tales.read("/one".to_owned(), Some(vec![count]), rx)
        }
    }
}

/// Returns the number of readers, the number of items, and the fingerprint of the world.
fn run(seed: u64) -> (usize, usize, u64) {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(seed, world::link(&mut rng)).expect("a world");
    let tales = Tales::default();
    let server = peer(&mut rng, &tales).listen("tcp://:9000");
    let (server, options, factory) = server.into_server().expect("is right");
    let server_host = world.start(SERVER, options, factory).expect("starts");
    let (client, options, factory) = peer(&mut rng, &tales).into_server().expect("is right");
    let client_host = world.start(CLIENT, options, factory).expect("starts");

    let sessions: Arc<Mutex<Vec<Session>>> = Arc::default();
    let dialled = Arc::new(Mutex::new(0));
    let dials = rng.usize(1..=2);
    for _ in 0..dials {
        let (sessions, dialled) = (sessions.clone(), dialled.clone());
        let connect = Connect::to("tcp://192.168.0.1:9000").timeout(Duration::from_secs(10));
        client.dial_then(connect, move |session| {
            *dialled.lock() += 1;
            sessions.lock().extend(session);
        });
    }
    let all_dialled = |_: &World| *dialled.lock() == dials;
    assert!(world.run_until(Duration::from_secs(60), all_dialled));

    let mut handles = Vec::new();
    for _ in 0..rng.usize(5..30) {
        let mut sides = sessions.lock().clone();
        sides.extend(server.sessions());
        let Some(session) = rng.choice(&sides) else {
            break;
        };
        handles.push(open(session, &mut rng, &tales));
        match rng.u8(..30) {
            0 => session.close(),
            1 => session.abort(),
            2..8 => {
                // It may be over, or its end may cross the cancellation.
                if let Some(handle) = rng.choice(&handles) {
                    handle.cancel();
                }
            }
            _ => {}
        }
        world.run_for(Duration::from_millis(rng.u64(..150)));
    }
    if rng.bool() {
        world.run_for(Duration::from_secs(20));
    }
    if rng.bool() {
        world.finish(server_host);
        world.finish(client_host);
    } else {
        world.finish(client_host);
        world.run_for(Duration::from_secs(60));
        world.finish(server_host);
    }
    let readers = tales.check();
    for peer in [&server, &client] {
        let stats = peer.stats().peer;
        assert_eq!(stats.stream_violations, 0, "{stats:?}");
    }
    let items = tales
        .0
        .lock()
        .iter()
        .map(|tale| tale.lock().items.len())
        .sum();
    assert!(handles.iter().all(StreamHandle::is_over));
    (readers, items, world.fingerprint())
}

#[test]
fn each_stream_ends_exactly_once_on_both_sides_and_loses_nothing_before() {
    let (mut readers, mut items) = (0, 0);
    each_seed(0..300, |seed| {
        let run = run(seed);
        readers += run.0;
        items += run.1;
    });
    assert!(
        readers > 2000 && items > 20_000,
        "only {readers} readers and {items} items"
    );
}

#[test]
fn streams_in_a_world_repeat_themselves() {
    for seed in 0..5 {
        let once = run(seed);
        assert_eq!(run(seed), once);
    }
}
