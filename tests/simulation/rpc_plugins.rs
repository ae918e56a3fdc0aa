//! Plugins of RPC peers in virtual time.

use std::sync::Arc;
use std::time::Duration;

use epicycle::rpc::plugins::limits::{Limiter, Per};
use epicycle::rpc::{Peer, PeerBuilder, Router, Session, Status, code};
use epicycle::testing::{Link, World};
use parking_lot::Mutex;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];

/// Two peers and their session.
struct Pair {
    world: World,
    _server: Peer,
    /// The end of the client, which has dialled.
    session: Session,
    _client: Peer,
}

impl Pair {
    fn new(server: PeerBuilder, client: PeerBuilder) -> Self {
        let mut world = World::new(1, Link::calm()).expect("a world");
        let mut start = |builder: PeerBuilder, host| {
            let (peer, options, factory) = builder.reactors(1).into_server().expect("is right");
            world.start(host, options, factory).expect("starts");
            peer
        };
        let server = start(server.listen("tcp://:9000"), SERVER);
        let client = start(client, CLIENT);
        let dialled: Arc<Mutex<Option<Result<Session, Status>>>> = Arc::default();
        let result = dialled.clone();
        client.dial_then("tcp://192.168.0.1:9000", move |session| {
            *result.lock() = Some(session);
        });
        assert!(world.run_until(Duration::from_secs(9), |_| dialled.lock().is_some()));
        let session = dialled.lock().take().expect("has ended").expect("is open");
        Self {
            world,
            _server: server,
            session,
            _client: client,
        }
    }

    /// Makes a call and returns its result.
    fn call(&mut self, uri: &str) -> Result<u8, Status> {
        let ended: Arc<Mutex<Option<Result<u8, Status>>>> = Arc::default();
        let result = ended.clone();
        self.session
            .call(uri, &1u8)
            .then(move |reply| *result.lock() = Some(reply));
        assert!(
            self.world
                .run_until(Duration::from_secs(60), |_| ended.lock().is_some())
        );
        ended.lock().take().expect("has ended")
    }
}

fn echo() -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u8| Ok(n));
    routes
}

#[test]
fn a_rate_limit_goes_by_the_time_of_the_reactor() {
    let limiter = Limiter::new("rate").rate(Per::Session, 4, Duration::from_secs(20));
    let server = Peer::builder().routes(echo()).plugin(limiter);
    let mut pair = Pair::new(server, Peer::builder());
    let answered = |pair: &mut Pair| {
        let calls = (0..8).filter(|_| match pair.call("/echo") {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code, code::TOO_MANY_REQUESTS);
                false
            }
        });
        calls.count()
    };
    assert_eq!(answered(&mut pair), 4, "all at once");
    for (seconds, expected) in [(4, 0), (1, 1), (10, 2), (3600, 4)] {
        pair.world.run_for(Duration::from_secs(seconds));
        assert_eq!(answered(&mut pair), expected, "after {seconds} s");
    }
}
