//! RPC sessions that redial: each call and each session ends exactly once, whatever the network and the other side do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epicycle::rpc::plugins::auth::{Bearer, Verify};
use epicycle::rpc::{
    Health, Hooks, Peer, PeerBuilder, PeerHandler, Pending, Plugin, Responder, Router, Session,
    Status, code,
};
use epicycle::testing::{Host, Link, World, each_seed};
use epicycle::{Connect, Reconnect};
use fastrand::Rng;
use parking_lot::Mutex;

use super::rpc_results::Results;
use super::world;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];
const ADDR: &str = "tcp://192.168.0.1:9000";

const SECOND: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A server that demands a token and may refuse it.
#[derive(Clone, Default)]
struct Service {
    /// The code of refusals. 0: everybody who knows the token is accepted.
    refuses_with: Arc<Mutex<i32>>,
    verified: Arc<AtomicUsize>,
    pushes: Arc<Mutex<Vec<u64>>>,
    /// The `seq`s of calls that arrived.
    seqs: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn builder(&self) -> PeerBuilder {
        let mut routes = Router::new();
        let seqs = self.seqs.clone();
        routes.call("/echo", move |ctx, n: u64| {
            seqs.lock()
                .push(String::from_utf8_lossy(ctx.seq()).into_owned());
            Ok(n)
        });
        routes.call_later("/never", |ctx, _: u64, reply: Responder<u64>| {
            ctx.session().on_close(move || drop(reply));
        });
        let pushes = self.pushes.clone();
        routes.push("/push", move |_ctx, n: u64| {
            pushes.lock().push(n);
            Ok(())
        });
        let (refuses, verified) = (self.refuses_with.clone(), self.verified.clone());
        let verify = Verify::new(move |token, _| {
            assert_eq!(token, "token");
            verified.fetch_add(1, Ordering::Relaxed);
            match *refuses.lock() {
                0 => Ok(()),
                code => Err(Status::new(code, "no")),
            }
        });
        Peer::builder()
            .reactors(1)
            .routes(routes)
            .plugin(verify)
            .listen("tcp://:9000")
    }

    fn start(&self, world: &mut World) -> (Peer, Host<PeerHandler>) {
        let (peer, options, factory) = self.builder().into_server().expect("is right");
        let host = world.start(SERVER, options, factory).expect("starts");
        (peer, host)
    }

    fn restart(&self, world: &mut World, host: Host<PeerHandler>) -> Peer {
        let (peer, options, factory) = self.builder().into_server().expect("is right");
        world.restart(host, options, factory).expect("starts");
        peer
    }
}

/// Counts the sessions that have ended.
#[derive(Clone, Default)]
struct Disconnects(Arc<AtomicUsize>);

impl Plugin for Disconnects {
    fn name(&self) -> &str {
        "disconnects"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_DISCONNECT
    }

    fn post_disconnect(&self, session: &Session) {
        assert_eq!(session.health(), Health::Closed);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn client(disconnects: &Disconnects) -> PeerBuilder {
    Peer::builder()
        .reactors(1)
        .plugin(Bearer::new("token"))
        .plugin(disconnects.clone())
}

fn start_client(world: &mut World, builder: PeerBuilder) -> (Peer, Host<PeerHandler>) {
    let (peer, options, factory) = builder.into_server().expect("is right");
    let host = world.start(CLIENT, options, factory).expect("starts");
    (peer, host)
}

fn dial(world: &mut World, client: &Peer, connect: Connect) -> Session {
    let session: Arc<Mutex<Option<Session>>> = Arc::default();
    let opened = session.clone();
    client.dial_then(connect, move |session| *opened.lock() = session.ok());
    assert!(world.run_until(SECOND * 60, |_| session.lock().is_some()));
    let session = session.lock().clone();
    session.expect("is open")
}

/// A world with a service, a client, and a session that redials.
struct Scene {
    world: World,
    service: Service,
    host: Host<PeerHandler>,
    client: Peer,
    client_host: Host<PeerHandler>,
    session: Session,
    disconnects: Disconnects,
    results: Results,
    closes: Arc<AtomicUsize>,
}

impl Scene {
    fn new(policy: Reconnect, change: impl FnOnce(PeerBuilder) -> PeerBuilder) -> Self {
        let mut world = World::new(7, Link::calm()).expect("a world");
        let service = Service::default();
        let (_, host) = service.start(&mut world);
        let disconnects = Disconnects::default();
        let builder = change(client(&disconnects).redial(policy));
        let (client, client_host) = start_client(&mut world, builder);
        let session = dial(&mut world, &client, Connect::to(ADDR));
        let closes = Arc::new(AtomicUsize::new(0));
        let count = closes.clone();
        session.on_close(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        Self {
            world,
            service,
            host,
            client,
            client_host,
            session,
            disconnects,
            results: Results::default(),
            closes,
        }
    }

    fn call(&self, path: &str) -> u64 {
        let (number, ended) = self.results.expect();
        self.session.call::<_, u64>(path, &number).then(ended);
        number
    }

    fn kill_server(&mut self) {
        self.world.kill(self.host);
        let session = self.session.clone();
        let noticed = |_: &World| session.health() != Health::Open;
        assert!(self.world.run_until(SECOND * 5, noticed));
    }

    fn restart_server(&mut self) {
        drop(self.service.restart(&mut self.world, self.host));
    }

    fn ends(&mut self, number: u64) {
        let results = self.results.clone();
        assert!(
            (self.world).run_until(SECOND * 100, |_| results.has_ended(number)),
            "call {number} does not end"
        );
    }

    /// Checks that the session has ended, once.
    fn has_closed(&self) {
        assert_eq!(self.session.health(), Health::Closed);
        assert_eq!(self.closes.load(Ordering::Relaxed), 1);
        assert_eq!(self.disconnects.0.load(Ordering::Relaxed), 1);
        assert_eq!(self.client.session_count(), 0);
    }
}

fn endless() -> Reconnect {
    Reconnect::new(millis(100), SECOND)
}

#[test]
fn a_session_that_redials_is_the_same_session_and_authenticates_again() {
    let mut scene = Scene::new(endless(), |builder| builder);
    scene.session.set_id("mine");
    scene.session.swap().set("key", 7u64);
    let first = scene.call("/echo");
    scene.ends(first);
    let before = scene.session.local_addr();
    scene.kill_server();
    assert_eq!(scene.session.health(), Health::Redialling);
    assert_eq!(scene.client.session("mine").as_ref(), Some(&scene.session));
    let meanwhile = scene.call("/echo");
    scene.session.push("/push", &1u64).expect("waits");
    scene.session.push("/push", &2u64).expect("waits");
    scene.world.run_for(SECOND * 3);
    assert!(!scene.results.has_ended(meanwhile));
    scene.restart_server();
    scene.ends(meanwhile);
    assert_eq!(scene.results.ends(meanwhile), [Ok(meanwhile)]);
    scene.world.run_for(SECOND);
    assert_eq!(*scene.service.pushes.lock(), [1, 2]);
    assert_eq!(scene.service.verified.load(Ordering::Relaxed), 2);
    // The counter of messages goes on: the authentication took "0" and "2".
    assert_eq!(*scene.service.seqs.lock(), ["1", "3"]);
    assert_eq!(scene.session.health(), Health::Open);
    assert_ne!(scene.session.local_addr(), before);
    assert_eq!(&*scene.session.id(), "mine");
    assert_eq!(scene.session.swap().get::<u64>("key").as_deref(), Some(&7));
    assert_eq!(scene.closes.load(Ordering::Relaxed), 0);
    scene.session.close();
    scene.world.run_for(SECOND);
    scene.has_closed();
}

#[test]
fn the_identifier_that_nobody_has_set_follows_the_address() {
    let mut scene = Scene::new(endless(), |builder| builder);
    let before = scene.session.id();
    assert_eq!(*before, scene.session.local_addr().to_string());
    scene.kill_server();
    assert_eq!(scene.client.session(&before).as_ref(), Some(&scene.session));
    scene.restart_server();
    let call = scene.call("/echo");
    scene.ends(call);
    let after = scene.session.id();
    assert_ne!(after, before);
    assert_eq!(*after, scene.session.local_addr().to_string());
    assert_eq!(scene.client.session(&after).as_ref(), Some(&scene.session));
    assert_eq!(scene.client.session_count(), 1);
}

#[test]
fn calls_under_way_at_the_break_fail_unless_they_are_idempotent() {
    let mut scene = Scene::new(endless(), |builder| builder);
    // The server gets neither before it ends.
    scene.world.cut_from(CLIENT, SERVER);
    let (number, ended) = scene.results.expect();
    let call = scene.session.call::<_, u64>("/echo", &number);
    call.idempotent().then(ended);
    let lost = scene.call("/echo");
    let (hopeless, ended) = scene.results.expect();
    let call = scene.session.call::<_, u64>("/never", &hopeless);
    call.idempotent().timeout(SECOND * 5).then(ended);
    scene.world.run_for(millis(100));
    scene.kill_server();
    scene.world.heal(CLIENT, SERVER);
    let begun = scene.world.now();
    assert_eq!(scene.results.code(lost), code::CONNECTION_CLOSED);
    assert!(!scene.results.has_ended(number));
    scene.restart_server();
    scene.ends(number);
    assert_eq!(scene.results.ends(number), [Ok(number)]);
    scene.ends(hopeless);
    assert_eq!(scene.results.code(hopeless), code::HANDLE_TIMEOUT);
    let took = scene.world.now() - begun;
    assert!(
        took < millis(5100),
        "{took:?}: the timeout counts from the first attempt"
    );
}

#[test]
fn a_call_that_waits_for_a_connection_ends_at_its_deadline_or_by_its_cancellation() {
    let mut scene = Scene::new(endless(), |builder| builder);
    scene.kill_server();
    let begun = scene.world.now();
    let (early, ended) = scene.results.expect();
    let call = scene.session.call::<_, u64>("/echo", &early);
    call.timeout(SECOND * 2).then(ended);
    let late = scene.call("/echo");
    let cancelled: Pending<u64> = scene.session.call("/echo", &0u64).send();
    scene.world.run_for(SECOND);
    assert!(cancelled.try_result().is_none());
    cancelled.cancel();
    scene.world.run_for(millis(1));
    let result = cancelled.try_result();
    assert!(
        matches!(&result, Some(Err(status)) if status.code == code::CANCELLED),
        "{result:?}"
    );
    for (number, seconds) in [(early, 2), (late, 30)] {
        scene.ends(number);
        assert_eq!(scene.results.code(number), code::HANDLE_TIMEOUT);
        let took = scene.world.now() - begun;
        let due = SECOND * seconds;
        assert!(due <= took && took < due + millis(50), "{took:?}");
    }
    scene.restart_server();
    let call = scene.call("/echo");
    scene.ends(call);
    assert_eq!(scene.results.ends(call), [Ok(call)]);
    assert_eq!(
        scene.service.seqs.lock().len(),
        1,
        "the others are not sent"
    );
}

#[test]
fn what_waits_for_a_connection_has_bounds() {
    let mut scene = Scene::new(endless(), |builder| builder.max_calls(2));
    scene.kill_server();
    let calls = [0; 3].map(|_| scene.call("/echo"));
    scene.world.run_for(millis(10));
    assert_eq!(scene.results.code(calls[2]), code::TOO_MANY_REQUESTS);
    for n in 0..1024 {
        scene.session.push("/push", &n).expect("waits");
        scene.world.run_for(Duration::ZERO);
    }
    scene.world.run_for(millis(10));
    let status = (scene.session.push("/push", &0u64)).expect_err("there is no room");
    assert_eq!(status.code, code::WRITE_FAILED);
    scene.restart_server();
    scene.ends(calls[1]);
    assert_eq!(scene.results.ends(calls[0]), [Ok(calls[0])]);
    scene.world.run_for(SECOND);
    assert_eq!(*scene.service.pushes.lock(), (0..1024).collect::<Vec<_>>());
}

#[test]
fn a_session_ends_when_its_policy_gives_up() {
    let mut scene = Scene::new(endless().limit(3), |builder| builder);
    scene.kill_server();
    let call = scene.call("/echo");
    scene.ends(call);
    let Err(status) = &scene.results.ends(call)[0] else {
        panic!("there is no server");
    };
    assert_eq!(status.code, code::CONNECTION_CLOSED);
    assert!(status.reason.contains("gave up redialling"), "{status}");
    scene.has_closed();
    let late = scene.call("/echo");
    scene.ends(late);
    assert_eq!(scene.results.code(late), code::CONNECTION_CLOSED);
}

#[test]
fn a_refusal_of_the_authentication_ends_the_session_and_other_refusals_do_not() {
    for (refusal, is_final) in [(401, true), (403, true), (503, false)] {
        let mut scene = Scene::new(endless(), |builder| builder);
        *scene.service.refuses_with.lock() = refusal;
        scene.kill_server();
        let call = scene.call("/echo");
        scene.restart_server();
        scene.world.run_for(SECOND * 5);
        assert_eq!(scene.results.has_ended(call), is_final, "{refusal}");
        if is_final {
            let Err(status) = &scene.results.ends(call)[0] else {
                panic!("it is refused");
            };
            assert!(status.reason.contains(&refusal.to_string()), "{status}");
            scene.has_closed();
            assert_eq!(scene.service.verified.load(Ordering::Relaxed), 2);
        } else {
            *scene.service.refuses_with.lock() = 0;
            scene.ends(call);
            assert_eq!(scene.results.ends(call), [Ok(call)]);
        }
    }
}

#[test]
fn closing_a_session_that_redials_ends_it_at_once() {
    for way in 0..4 {
        let mut scene = Scene::new(endless(), |builder| builder);
        let partition = way % 2 == 1;
        if partition {
            // The attempt is under way.
            scene.kill_server();
            scene.world.cut(CLIENT, SERVER);
        } else {
            scene.kill_server();
        }
        let call = scene.call("/echo");
        scene.world.run_for(SECOND * 2);
        let begun = scene.world.now();
        if way < 2 {
            scene.session.close();
        } else {
            scene.session.abort();
        }
        scene.ends(call);
        assert_eq!(scene.results.code(call), code::CONNECTION_CLOSED);
        assert!(scene.world.now() - begun < millis(20));
        scene.has_closed();
        scene.restart_server();
        scene.world.heal(CLIENT, SERVER);
        scene.world.run_for(SECOND * 30);
        assert_eq!(scene.service.verified.load(Ordering::Relaxed), 1, "{way}");
    }
}

#[test]
fn a_shutdown_ends_sessions_that_redial() {
    for partition in [false, true] {
        let mut scene = Scene::new(endless(), |builder| builder);
        scene.kill_server();
        if partition {
            scene.world.cut(CLIENT, SERVER);
        }
        let call = scene.call("/echo");
        scene.world.run_for(SECOND * 2);
        let begun = scene.world.now();
        scene.world.finish(scene.client_host);
        assert_eq!(scene.results.code(call), code::CONNECTION_CLOSED);
        assert!(scene.world.now() - begun < SECOND);
        scene.has_closed();
    }
}

#[test]
fn the_age_of_a_session_goes_on_while_it_redials() {
    let mut scene = Scene::new(endless(), |builder| builder.session_age(SECOND * 20));
    let begun = scene.world.now();
    scene.world.run_for(SECOND * 2);
    scene.kill_server();
    let (call, ended) = scene.results.expect();
    (scene.session.call::<_, u64>("/echo", &call))
        .no_timeout()
        .then(ended);
    scene.ends(call);
    assert_eq!(scene.results.code(call), code::CONNECTION_CLOSED);
    let took = scene.world.now() - begun;
    assert!(
        (SECOND * 18 - millis(50)..=SECOND * 20 + millis(50)).contains(&took),
        "{took:?}"
    );
    scene.has_closed();
}

#[test]
fn the_reconnect_of_a_dial_is_its_policy_and_repeats_its_first_attempts() {
    let mut world = World::new(3, Link::calm()).expect("a world");
    let disconnects = Disconnects::default();
    let builder = client(&disconnects).redial(endless());
    let (client, _) = start_client(&mut world, builder);
    let ends: Arc<Mutex<Vec<Result<Session, Status>>>> = Arc::default();
    let dial = |connect: Connect| {
        let ends = ends.clone();
        client.dial_then(connect, move |result| ends.lock().push(result));
    };
    let to = || Connect::to(ADDR).timeout(SECOND);
    // Nobody listens yet. The policy of the peer is for sessions that have been open.
    dial(to());
    dial(to().reconnect(endless().limit(2)));
    assert!(world.run_until(SECOND * 60, |_| ends.lock().len() == 2));
    for end in ends.lock().drain(..) {
        assert_eq!(end.expect_err("fails").code, code::DIAL_FAILED);
    }
    dial(to().reconnect(Reconnect::new(Duration::ZERO, SECOND)));
    let status = ends.lock().pop().expect("at once").expect_err("is refused");
    assert!(status.reason.contains("1 ms or more"), "{status}");

    dial(to().reconnect(endless()));
    world.run_for(SECOND * 10);
    assert!(ends.lock().is_empty());
    let service = Service::default();
    let (_, host) = service.start(&mut world);
    assert!(world.run_until(SECOND * 60, |_| ends.lock().len() == 1));
    let session = ends.lock().pop().expect("one").expect("is open");
    // limit(0) turns the policy of the peer off.
    dial(to().reconnect(endless().limit(0)));
    assert!(world.run_until(SECOND * 60, |_| ends.lock().len() == 1));
    let mortal = ends.lock().pop().expect("one").expect("is open");
    world.kill(host);
    assert!(world.run_until(SECOND * 5, |_| mortal.health() == Health::Closed));
    assert_eq!(session.health(), Health::Redialling);
    drop(service.restart(&mut world, host));
    assert!(world.run_until(SECOND * 5, |_| session.health() == Health::Open));
}

#[test]
fn a_dial_that_repeats_its_first_attempts_ends_with_the_peer() {
    let mut world = World::new(3, Link::calm()).expect("a world");
    let (client, host) = start_client(&mut world, client(&Disconnects::default()));
    let end = Arc::new(Mutex::new(None));
    let told = end.clone();
    client.dial_then(Connect::to(ADDR).reconnect(endless()), move |result| {
        *told.lock() = Some(result);
    });
    world.run_for(SECOND * 100);
    assert!(end.lock().is_none());
    world.finish(host);
    let end = end.lock().take().expect("is told");
    assert_eq!(end.expect_err("fails").code, code::DIAL_FAILED);
}

/// Returns the numbers of calls and of redials, and the fingerprint of the world.
fn run(seed: u64) -> (usize, usize, u64) {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(seed, world::link(&mut rng)).expect("a world");
    let service = Service::default();
    let (mut server, host) = service.start(&mut world);
    let disconnects = Disconnects::default();
    let mut policy = Reconnect::new(millis(rng.u64(1..200)), millis(rng.u64(200..3000)));
    if rng.bool() {
        policy = policy.limit(rng.u32(1..6));
    }
    let mut builder = client(&disconnects).call_timeout(SECOND * rng.u32(1..20));
    if rng.bool() {
        builder = builder.session_age(SECOND * rng.u32(5..200));
    }
    if rng.u8(..4) == 0 {
        builder = builder.max_calls(rng.usize(1..5));
    }
    let (client, client_host) = start_client(&mut world, builder);
    let opened: Arc<Mutex<Vec<Session>>> = Arc::default();
    let dialled = Arc::new(AtomicUsize::new(0));
    let dials = rng.usize(1..4);
    for _ in 0..dials {
        let (opened, dialled) = (opened.clone(), dialled.clone());
        let connect = Connect::to(ADDR).timeout(SECOND * rng.u32(1..5));
        client.dial_then(connect.reconnect(policy), move |session| {
            dialled.fetch_add(1, Ordering::Relaxed);
            opened.lock().extend(session);
        });
    }
    if rng.u8(..10) > 0 {
        world.run_until(SECOND * 20, |_| dialled.load(Ordering::Relaxed) == dials);
    }
    let closes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let results = Results::default();
    let mut pending: Vec<Pending<u64>> = Vec::new();
    let mut runs = true;
    let mut is_cut = false;
    for _ in 0..rng.usize(10..60) {
        let sessions = opened.lock().clone();
        while closes.lock().len() < sessions.len() {
            let number = closes.lock().len();
            closes.lock().push(0);
            let counts = closes.clone();
            sessions[number].on_close(move || counts.lock()[number] += 1);
        }
        if let Some(session) = rng.choice(&sessions) {
            let (number, ended) = results.expect();
            let path = ["/echo", "/echo", "/never", "/nowhere"][rng.usize(..4)];
            let mut call = session.call::<_, u64>(path, &number);
            if rng.bool() {
                call = call.idempotent();
            }
            if rng.u8(..4) == 0 {
                call = call.seq(format!("own {}", rng.u8(..4)));
            }
            if rng.u8(..3) == 0 {
                call = call.timeout(millis(rng.u64(1..3000)));
            }
            match rng.u8(..60) {
                0..3 => {
                    let call = call.send();
                    if rng.bool() {
                        world.run_for(millis(rng.u64(..300)));
                    }
                    call.cancel();
                    pending.push(call);
                    ended(Ok(number));
                }
                3 => {
                    session.close();
                    call.then(ended);
                }
                4 => {
                    call.then(ended);
                    session.abort();
                }
                5..9 => {
                    let inner = session.clone();
                    let (next, next_ended) = results.expect();
                    // A call from the callback of another one.
                    call.then(move |result| {
                        inner.call::<_, u64>("/echo", &next).then(next_ended);
                        ended(result);
                    });
                }
                9..11 => {
                    session.set_id(format!("session {}", rng.u8(..3)));
                    call.then(ended);
                }
                _ => call.then(ended),
            }
            let _ = session.push("/push", &number);
        }
        match rng.u8(..12) {
            0 if runs => {
                match rng.bool() {
                    true => world.kill(host),
                    false => world.crash(host),
                }
                runs = false;
            }
            0..6 if !runs => {
                server = service.restart(&mut world, host);
                runs = true;
            }
            6..8 if runs => {
                for session in server.sessions() {
                    match rng.bool() {
                        true => session.abort(),
                        false => session.close(),
                    }
                }
            }
            3 => {
                is_cut = !is_cut;
                match is_cut {
                    true => world.cut(CLIENT, SERVER),
                    false => world.heal(CLIENT, SERVER),
                }
            }
            4 => *service.refuses_with.lock() = [0, 0, 0, 0, 0, 403, 503, 500][rng.usize(..8)],
            5 if runs && rng.bool() => {
                world.finish(host);
                runs = false;
            }
            _ => {}
        }
        let time = if rng.u8(..4) == 0 { 3000 } else { 100 };
        world.run_for(millis(rng.u64(..time)));
    }
    if rng.bool() {
        world.run_for(SECOND * 60);
    }
    world.finish(client_host);

    let calls = results.check();
    for call in pending {
        assert!(
            call.try_result().is_some(),
            "a cancelled call has not ended"
        );
    }
    assert_eq!(
        dialled.load(Ordering::Relaxed),
        dials,
        "each dial ends once"
    );
    let sessions = opened.lock().clone();
    for (number, session) in sessions.iter().enumerate() {
        assert_eq!(session.health(), Health::Closed);
        if let Some(count) = closes.lock().get(number) {
            assert_eq!(*count, 1, "the end of session {number} is told once");
        }
    }
    assert_eq!(disconnects.0.load(Ordering::Relaxed), sessions.len());
    assert_eq!(client.session_count(), 0);
    let redials = client.stats().peer.redials as usize;
    (calls, redials, world.fingerprint())
}

#[test]
fn each_call_of_a_session_that_redials_ends_exactly_once() {
    let (mut calls, mut redials) = (0, 0);
    each_seed(0..300, |seed| {
        let (more_calls, more_redials, _) = run(seed);
        calls += more_calls;
        redials += more_redials;
    });
    assert!(calls > 5000, "only {calls} calls");
    assert!(redials > 600, "only {redials} redials");
}

#[test]
fn sessions_that_redial_repeat_themselves() {
    for seed in 0..10 {
        let once = run(seed);
        assert_eq!(run(seed), once);
    }
}
