//! Clients of a service with several addresses: each call ends exactly once, by its deadline, whatever servers, network and names
//! do, and none that is not idempotent runs twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use epicycle::balance::{HashRing, Least, Place, RoundRobin, TwoChoices};
use epicycle::rpc::wire::Meta;
use epicycle::rpc::{MultiClient, Peer, PeerHandler, Responder, Router, Status};
use epicycle::testing::{Host, Link, Resolution, World, each_seed};
use epicycle::{Reconnect, Server};
use fastrand::Rng;
use parking_lot::Mutex;

use super::world;

const CLIENT: [u8; 4] = [10, 1, 0, 99];
const NAME: &str = "tcp://service.test:9000";

fn address(server: usize) -> [u8; 4] {
    [10, 1, 0, server as u8 + 1]
}

fn resolution(servers: impl IntoIterator<Item = usize>) -> Resolution {
    Resolution::to(servers.into_iter().map(address))
}

/// The servers at which each call has run, by the numbers of the calls.
type Runs = Arc<Mutex<HashMap<u64, Vec<usize>>>>;

/// The routes of a server. A call is answered with its number.
fn routes(server: usize, runs: &Runs) -> Router {
    let mut routes = Router::new();
    let counted = runs.clone();
    routes.call("/echo", move |_ctx, n: u64| {
        counted.lock().entry(n).or_default().push(server);
        Ok(n)
    });
    let counted = runs.clone();
    routes.call_later("/hold", move |ctx, n: u64, reply: Responder<u64>| {
        counted.lock().entry(n).or_default().push(server);
        ctx.session().on_close(move || drop(reply));
    });
    let counted = runs.clone();
    routes.call("/fail", move |ctx, n: u64| -> Result<u64, Status> {
        counted.lock().entry(n).or_default().push(server);
        if says_that_it_has_not_run(n) {
            ctx.set_reply_meta(Meta::REFUSED, "busy");
        }
        Err(Status::new(
            if n.is_multiple_of(3) { 500 } else { 503 },
            "on purpose",
        ))
    });
    routes
}

type Starts = (
    Peer,
    Server,
    Box<dyn Fn(usize) -> PeerHandler + Send + Sync>,
);

fn says_that_it_has_not_run(n: u64) -> bool {
    n % 3 == 1
}

fn server(number: usize, runs: &Runs) -> Starts {
    let builder = Peer::builder().routes(routes(number, runs)).reactors(1);
    let (peer, options, factory) = (builder.listen("tcp://:9000").into_server()).expect("is right");
    (peer, options, Box::new(factory))
}

/// A world with servers, and a client peer.
struct Service {
    world: World,
    runs: Runs,
    servers: Vec<Host<PeerHandler>>,
    peer: Peer,
    client_host: Host<PeerHandler>,
}

impl Service {
    fn new(seed: u64, link: Link, servers: usize, reactors: usize) -> Self {
        let mut world = World::new(seed, link).expect("a world");
        let runs = Runs::default();
        let start = |number| {
            let (_peer, options, factory) = server(number, &runs);
            let started = world.start(address(number), options, factory);
            started.expect("starts")
        };
        let servers = (0..servers).map(start).collect();
        let client = Peer::builder().reactors(reactors).into_server();
        let (peer, options, factory) = client.expect("is right");
        let client_host = world.start(CLIENT, options, factory).expect("starts");
        Self {
            world,
            runs,
            servers,
            peer,
            client_host,
        }
    }

    fn restart(&mut self, number: usize) {
        let (_peer, options, factory) = server(number, &self.runs);
        let restarted = (self.world).restart(self.servers[number], options, factory);
        restarted.expect("starts");
    }

    /// Makes a call and returns its result.
    fn echo(&mut self, client: &MultiClient, n: u64) -> Result<u64, Status> {
        let ended: Arc<Mutex<Option<Result<u64, Status>>>> = Arc::default();
        let result = ended.clone();
        let call = client.call::<_, u64>("/echo", &n);
        call.then(move |reply| *result.lock() = Some(reply));
        let minute = Duration::from_secs(60);
        assert!((self.world).run_until(minute, |_| ended.lock().is_some()));
        ended.lock().take().expect("has ended")
    }
}

/// A call whose end is awaited.
struct Made {
    /// True if it may run more than once: it is idempotent, or servers say that they have not run it.
    may_repeat: bool,
    due: Duration,
    ends: Arc<Mutex<Vec<Result<u64, Status>>>>,
}

/// Returns the number of calls that were answered, and the fingerprint of the world.
fn run(seed: u64) -> (usize, u64) {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng);
    let mut service = Service::new(seed, link, 3, rng.usize(1..=2));
    service.world.set_name("service.test", resolution(0..3));
    let quick = |rng: &mut Rng| {
        let first = Duration::from_millis(rng.u64(1..100));
        Reconnect::new(first, Duration::from_secs(1))
    };
    let builder = MultiClient::builder(&service.peer)
        .to(NAME)
        .sessions(rng.usize(1..4))
        .keep(rng.usize(..3))
        .idle(Duration::from_millis(rng.u64(10..2000)))
        .max_waiting(rng.usize(1..30))
        .max_wait(Duration::from_millis(rng.u64(1..5000)))
        .attempts(rng.u32(1..5))
        .retry_delays(quick(&mut rng))
        .dial_delays(quick(&mut rng))
        .resolve_every(Duration::from_millis(rng.u64(100..5000)));
    let builder = match rng.u8(..4) {
        0 => builder.balancer(Least::new()),
        1 => builder.balancer(TwoChoices::new(seed)),
        2 => builder.balancer(HashRing::new()),
        _ => builder.balancer(RoundRobin::new(Place::ALONE)),
    };
    let client = builder.build().expect("is right");

    let mut made: Vec<Made> = Vec::new();
    let mut is_up = [true; 3];
    for _ in 0..rng.usize(20..100) {
        let number = made.len() as u64;
        let timeout = Duration::from_millis(rng.u64(1..5000));
        let (is_idempotent, ends) = (rng.bool(), Arc::default());
        let path = match rng.u8(..10) {
            0 => "/hold",
            1 | 2 => "/fail",
            _ => "/echo",
        };
        let call = client.call::<_, u64>(path, &number).timeout(timeout);
        let call = match rng.bool() {
            true => call.key(number.to_le_bytes()),
            false => call,
        };
        let call = match (is_idempotent, rng.bool()) {
            (true, true) => call.hedge(Duration::from_millis(rng.u64(..200))),
            (true, false) => call.idempotent(),
            (false, _) => call,
        };
        let due = service.world.now() + timeout;
        let end: Arc<Mutex<Vec<_>>> = Arc::clone(&ends);
        made.push(Made {
            may_repeat: is_idempotent || path == "/fail" && says_that_it_has_not_run(number),
            due,
            ends,
        });
        call.then(move |result| end.lock().push(result));
        let hit = rng.usize(..3);
        match rng.u8(..25) {
            0 if is_up[hit] => {
                service.world.kill(service.servers[hit]);
                is_up[hit] = false;
            }
            1 if is_up[hit] => {
                service.world.crash(service.servers[hit]);
                is_up[hit] = false;
            }
            2 | 3 => {
                if let Some(down) = is_up.iter().position(|up| !up) {
                    service.restart(down);
                    is_up[down] = true;
                }
            }
            4 => service.world.cut(address(hit), CLIENT),
            5 | 6 => service.world.heal(address(hit), CLIENT),
            7 => {
                let left = (0..3).filter(|server| *server != hit);
                service.world.set_name("service.test", resolution(left));
            }
            8 => service.world.set_name("service.test", resolution(0..3)),
            9 => {
                let failure = Resolution::failure("SERVFAIL");
                service.world.set_name("service.test", failure);
            }
            _ => {}
        }
        service.world.run_for(Duration::from_millis(rng.u64(..150)));
        let now = service.world.now();
        for (number, made) in made.iter().enumerate() {
            let is_late = made.due + Duration::from_secs(1) < now;
            assert!(!is_late || !made.ends.lock().is_empty(), "call {number}");
        }
    }
    match rng.u8(..3) {
        0 => drop(service.world.finish(service.client_host)),
        1 => client.close(),
        _ => {}
    }
    service.world.run_for(Duration::from_secs(20));

    let mut answered = 0;
    let runs = service.runs.lock();
    for (number, made) in made.iter().enumerate() {
        let ends = made.ends.lock();
        assert_eq!(ends.len(), 1, "call {number} ended like this: {ends:?}");
        if let Ok(echoed) = ends[0] {
            assert_eq!(echoed, number as u64);
            answered += 1;
        }
        let ran = runs.get(&(number as u64)).map_or(0, Vec::len);
        let most = if made.may_repeat { 4 } else { 1 };
        assert!(ran <= most, "call {number} ran {ran} times");
    }
    drop(runs);
    assert_eq!(client.stats().doing, 0);
    (answered, service.world.fingerprint())
}

#[test]
fn each_call_of_a_client_ends_exactly_once_and_by_its_deadline() {
    let mut answered = 0;
    each_seed(0..200, |seed| answered += run(seed).0);
    assert!(answered > 1000, "only {answered} are answered");
}

#[test]
fn clients_in_a_world_repeat_themselves() {
    for seed in 0..10 {
        let once = run(seed);
        assert_eq!(run(seed), once);
    }
}

#[test]
fn a_name_that_gains_and_loses_addresses_changes_the_client_and_those_that_stay_keep_their_state() {
    let mut service = Service::new(1, Link::calm(), 2, 1);
    service.world.set_name("service.test", resolution([0]));
    let every = Duration::from_secs(10);
    let client = MultiClient::builder(&service.peer)
        .to(NAME)
        .balancer(RoundRobin::new(Place::ALONE))
        .slow_start(Duration::ZERO)
        .resolve_every(every)
        .build()
        .expect("is right");
    for n in 0..4 {
        assert_eq!(service.echo(&client, n), Ok(n));
    }
    assert_eq!(client.stats().addresses.len(), 1);

    service.world.set_name("service.test", resolution([0, 1]));
    service.world.run_for(every + Duration::from_secs(1));
    for n in 10..20 {
        assert_eq!(service.echo(&client, n), Ok(n));
    }
    let at = |service: &Service, server| {
        let runs = service.runs.lock();
        (10..)
            .map_while(|n| runs.get(&n))
            .filter(|ran| ran == &&[server])
            .count()
    };
    assert_eq!((at(&service, 0), at(&service, 1)), (5, 5));
    assert_eq!(client.stats().created, 2, "the first session has stayed");

    // A failed lookup changes nothing.
    service
        .world
        .set_name("service.test", Resolution::failure("SERVFAIL"));
    service.world.run_for(every + Duration::from_secs(1));
    assert_eq!(client.stats().addresses.len(), 2);

    service.world.set_name("service.test", resolution([1]));
    service.world.run_for(every);
    let stats = client.stats();
    assert_eq!((stats.addresses.len(), stats.workers), (1, 1));
    assert_eq!(service.peer.session_count(), 1);
    for n in 20..24 {
        assert_eq!(service.echo(&client, n), Ok(n));
    }
    assert_eq!((at(&service, 0), at(&service, 1)), (5, 9));
    assert_eq!(client.stats().created, 2);
}

#[test]
fn a_name_is_looked_up_again_when_an_address_fails() {
    let mut service = Service::new(1, Link::calm(), 2, 1);
    service.world.set_name("service.test", resolution([0]));
    let client = MultiClient::builder(&service.peer).to(NAME);
    let client = client.resolve_every(Duration::from_secs(3600)).build();
    let client = client.expect("is right");
    assert_eq!(service.echo(&client, 1), Ok(1));
    service.world.set_name("service.test", resolution([1]));
    service.world.kill(service.servers[0]);
    service.world.run_for(Duration::from_millis(10));
    assert_eq!(service.echo(&client, 2), Ok(2));
    assert_eq!(service.runs.lock()[&2], [1]);
}

#[test]
fn a_hedge_is_sent_at_its_time_in_virtual_time() {
    let mut service = Service::new(1, Link::calm(), 2, 1);
    let client = MultiClient::builder(&service.peer)
        .to("tcp://10.1.0.1:9000")
        .to("tcp://10.1.0.2:9000")
        .build()
        .expect("is right");
    assert_eq!(service.echo(&client, 1), Ok(1));
    service.world.run_for(Duration::from_secs(1));
    let begun = service.world.now();
    let call = client.call::<_, u64>("/hold", &7);
    call.hedge(Duration::from_secs(2)).then(|_| {});
    service.world.run_for(Duration::from_millis(1990));
    assert_eq!(service.runs.lock()[&7].len(), 1);
    let runs = service.runs.clone();
    assert!((service.world).run_until(Duration::from_secs(9), |_| runs.lock()[&7].len() == 2));
    let took = (service.world.now() - begun).as_millis();
    assert!((2000..2050).contains(&took), "{took} ms");
}
