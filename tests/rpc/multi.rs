//! Clients of a service with several addresses: the spread of calls, addresses that fail and return, retries, hedges and limits.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::balance::{
    BreakerState, CircuitBreaker, Ejection, HashRing, Place, RetryBudget, RoundRobin, TwoChoices,
    Weighted,
};
use epicycle::rpc::wire::{Message, Meta};
use epicycle::rpc::{
    Hooks, MultiClient, MultiClientBuilder, Peer, Plugin, Responder, Router, Session, Status, code,
};
use epicycle::{Connect, Reconnect};
use parking_lot::Mutex;

use crate::ends::{listening, start};
use crate::util::{LONG, eventually};

/// A server of the service, which can be made to fail.
struct Backend {
    peer: Peer,
    state: Arc<Behaviour>,
}

#[derive(Default)]
struct Behaviour {
    /// The number of calls to `/work`.
    calls: AtomicUsize,
    /// The code with which `/work` fails. 0 for none.
    fails_with: AtomicUsize,
    /// True if `/work` has done nothing when it fails, and says so.
    refuses: AtomicBool,
    /// The calls to `/hold`, which are not answered.
    held: Mutex<Vec<Responder<u8>>>,
    /// True if `/hold` answers at once.
    answers: AtomicBool,
}

impl Behaviour {
    fn routes(self: &Arc<Self>, number: u8) -> Router {
        let mut routes = Router::new();
        let state = self.clone();
        routes.call("/work", move |ctx, _: ()| {
            state.calls.fetch_add(1, Ordering::Relaxed);
            if state.refuses.load(Ordering::Relaxed) {
                ctx.set_reply_meta(Meta::REFUSED, "busy");
            }
            match state.fails_with.load(Ordering::Relaxed) {
                0 => Ok(number),
                code => Err(Status::new(code as i32, "on purpose")),
            }
        });
        let state = self.clone();
        routes.call_later(
            "/hold",
            move |_ctx, _: (), reply: Responder<u8>| match state.answers.load(Ordering::Relaxed) {
                true => reply.send(Ok(number)),
                false => state.held.lock().push(reply),
            },
        );
        routes.call_blocking("/slow", move |_ctx, _: ()| {
            thread::sleep(Duration::from_millis(2));
            Ok(number)
        });
        let state = self.clone();
        routes.push("/note", move |_ctx, _: ()| {
            state.calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        routes
    }
}

impl Backend {
    fn start(number: u8) -> Self {
        let state = Arc::new(Behaviour::default());
        let peer = start(listening().routes(state.routes(number)));
        Self { peer, state }
    }

    fn calls(&self) -> usize {
        self.state.calls.load(Ordering::Relaxed)
    }

    fn fail_with(&self, code: i32) {
        (self.state.fails_with).store(code as usize, Ordering::Relaxed);
    }

    fn held(&self) -> usize {
        self.state.held.lock().len()
    }

    fn release(&self) {
        for reply in self.state.held.lock().drain(..) {
            reply.send(Ok(0));
        }
    }
}

fn backends<const N: usize>() -> [Backend; N] {
    std::array::from_fn(|n| Backend::start(n as u8))
}

/// The options of a client of these servers that waits for nothing long.
fn to(peer: &Peer, backends: &[Backend]) -> MultiClientBuilder {
    let quick = |first| Reconnect::new(Duration::from_millis(first), Duration::from_millis(50));
    let builder = MultiClient::builder(peer)
        .slow_start(Duration::ZERO)
        .retry_delays(quick(1))
        .dial_delays(quick(5));
    (backends.iter()).fold(builder, |builder, backend| {
        builder.to(&backend.peer.local_addrs()[0])
    })
}

/// Builds a client and waits until it has a session to each address.
fn connected(builder: MultiClientBuilder, addresses: usize) -> MultiClient {
    let client = builder.build().expect("is right");
    eventually("all are connected", || client.stats().workers == addresses);
    client
}

fn work(client: &MultiClient) -> Result<u8, Status> {
    client.call("/work", &()).timeout(LONG).wait()
}

fn code_of(result: Result<u8, Status>) -> i32 {
    result.expect_err("fails").code
}

/// An address at which nobody listens.
fn nowhere() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("binds");
    format!("tcp://{}", free.local_addr().expect("has an address"))
}

#[test]
fn calls_are_spread_as_the_balancer_says() {
    let (peer, backends) = (start(Peer::builder()), backends::<3>());
    let counts = |client: &MultiClient| {
        let before: Vec<_> = backends.iter().map(Backend::calls).collect();
        for _ in 0..300 {
            work(client).expect("is answered");
        }
        let after = backends.iter().map(Backend::calls);
        after.zip(before).map(|(a, b)| a - b).collect::<Vec<_>>()
    };
    let in_turn = to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE));
    assert_eq!(counts(&connected(in_turn, 3)), [100, 100, 100]);
    assert_eq!(counts(&connected(to(&peer, &backends), 3)), [100, 100, 100]);
    let [a, b, c] = [0, 1, 2].map(|n: usize| &backends[n].peer.local_addrs()[0]);
    let weighted = MultiClient::builder(&peer)
        .balancer(Weighted::new(Place::ALONE))
        .to_weighted(a, 1)
        .to_weighted(b, 2)
        .to_weighted(c, 3);
    assert_eq!(counts(&connected(weighted, 3)), [50, 100, 150]);
}

#[test]
fn a_key_gets_the_same_address_until_that_is_gone() {
    let (peer, backends) = (start(Peer::builder()), backends::<3>());
    let client = connected(to(&peer, &backends).balancer(HashRing::new()), 3);
    let who = |key: u32| {
        let call = client.call::<_, u8>("/work", &()).key(key.to_le_bytes());
        call.idempotent().wait().expect("is answered")
    };
    let before: Vec<_> = (0..60).map(who).collect();
    assert_eq!((0..60).map(who).collect::<Vec<_>>(), before);
    assert!((0..3).all(|n| before.contains(&n)), "{before:?}");
    backends[1].peer.shutdown();
    let after: Vec<_> = (0..60).map(who).collect();
    for (before, after) in before.into_iter().zip(after) {
        assert!(before == 1 || after == before);
        assert_ne!(after, 1);
    }
}

#[test]
fn the_least_loaded_address_is_the_one_with_the_fewest_calls_that_are_not_answered() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    backends[1].state.answers.store(true, Ordering::Relaxed);
    let client = connected(to(&peer, &backends), 2);
    // A call that was sent and has no reply counts. So at most a few go to the address that does not answer.
    let calls: Vec<_> = (0..2)
        .map(|_| client.call::<_, u8>("/hold", &()).send())
        .collect();
    eventually("one is held", || backends[0].held() == 1);
    for _ in 0..50 {
        assert_eq!(client.call("/hold", &()).wait(), Ok(1));
    }
    assert_eq!(backends[0].held(), 1);
    let stats = client.stats();
    assert_eq!((stats.min_load, stats.max_load, stats.doing), (0, 1, 1));
    backends[0].release();
    for call in calls {
        call.wait().expect("is answered");
    }
    assert_eq!(client.stats().done, 52);
}

#[test]
fn an_address_gets_sessions_up_to_its_quota_and_idle_ones_close() {
    let (peer, backends) = (start(Peer::builder()), backends::<1>());
    let builder = to(&peer, &backends).sessions(3);
    let client = connected(builder.idle(Duration::from_millis(50)), 1);
    let mut calls = Vec::new();
    // A further session is dialled when all have a call, and takes the next one.
    for workers in [1, 2, 2, 3, 3, 3, 3, 3, 3] {
        calls.push(client.call::<_, u8>("/hold", &()).send());
        eventually("it has grown", || client.stats().workers == workers);
    }
    eventually("all are held", || backends[0].held() == 9);
    let stats = client.stats();
    assert_eq!((stats.workers, stats.idle, stats.created), (3, 0, 3));
    backends[0].release();
    for call in calls {
        assert_eq!(call.wait(), Ok(0));
    }
    eventually("the idle ones are closed", || client.stats().workers == 1);
    eventually("the server sees it", || {
        backends[0].peer.session_count() == 1
    });
    assert_eq!(work(&client), Ok(0));
}

#[test]
fn addresses_can_change_and_calls_under_way_end_where_they_are() {
    let (peer, backends) = (start(Peer::builder()), backends::<3>());
    let address = |n: usize| (Connect::to(&backends[n].peer.local_addrs()[0]), 1);
    let client = connected(to(&peer, &backends[..2]), 2);
    let held: Vec<_> = (0..2)
        .map(|_| client.call::<_, u8>("/hold", &()).send())
        .collect();
    eventually("each has one", || {
        backends[..2].iter().all(|backend| backend.held() == 1)
    });
    client
        .set_addresses([address(1), address(2)])
        .expect("are right");
    eventually("the new one is connected", || client.stats().workers == 2);
    let before = backends[0].calls();
    for _ in 0..20 {
        work(&client).expect("is answered");
    }
    assert_eq!(backends[0].calls(), before);
    assert!(backends[2].calls() > 0);
    assert_eq!(
        client.stats().created,
        3,
        "the one that stays is not dialled again"
    );
    assert_eq!(backends[0].peer.session_count(), 1);
    backends.iter().for_each(Backend::release);
    for call in held {
        assert_eq!(call.wait(), Ok(0));
    }
    eventually("the old session is closed", || {
        backends[0].peer.session_count() == 0
    });

    // Without an address, calls wait for one. A host name is looked up.
    client.set_addresses([]).expect("may be none");
    let call = client.call::<_, u8>("/work", &()).send();
    eventually("it waits", || client.stats().waiting == 1);
    let port = backends[0].peer.local_addrs()[0].as_socket_addr();
    let port = port.expect("is an address").port();
    let named = (Connect::to(format!("tcp://localhost:{port}")), 1);
    client.set_addresses([named]).expect("is right");
    assert_eq!(call.wait(), Ok(0));

    let wrong = client.set_addresses([address(1), (Connect::to("udp://127.0.0.1:1"), 1)]);
    assert!(wrong.expect_err("is wrong").to_string().contains("tcp://"));
    assert_eq!(work(&client), Ok(0), "nothing has changed");
}

#[test]
fn calls_and_pushes_wait_for_an_address_that_comes_up_later() {
    let peer = start(Peer::builder());
    let addr = nowhere();
    let client = to(&peer, &[]).to(&addr).build().expect("is right");
    let call = client.call::<_, u8>("/work", &()).send();
    client.push("/note", &()).expect("is accepted");
    eventually("a dial has failed", || client.stats().failed_dials > 0);
    let state = Arc::new(Behaviour::default());
    let _server = start(Peer::builder().listen(&addr).routes(state.routes(7)));
    assert_eq!(call.wait(), Ok(7));
    eventually("the push has arrived", || {
        state.calls.load(Ordering::Relaxed) == 2
    });
}

#[test]
fn calls_that_wait_have_a_limit_of_their_number_and_of_their_time() {
    let peer = start(Peer::builder());
    let builder = to(&peer, &[]).to(nowhere()).max_waiting(2);
    let client = builder.max_wait(Duration::from_millis(100)).build();
    let client = client.expect("is right");
    let short = client.call::<_, u8>("/work", &());
    let short = short.timeout(Duration::from_millis(20)).send();
    let long = client.call::<_, u8>("/work", &()).send();
    assert_eq!(code_of(work(&client)), code::TOO_MANY_REQUESTS);
    let full = client.push("/note", &()).expect_err("too many wait");
    assert_eq!(full.code, code::TOO_MANY_REQUESTS);
    assert_eq!(code_of(short.wait()), code::HANDLE_TIMEOUT);
    let status = long.wait().expect_err("nobody is there");
    assert_eq!(status.code, code::DIAL_FAILED);
    assert!(status.to_string().contains("refused"), "{status}");
    let stats = client.stats();
    assert_eq!((stats.doing, stats.waiting, stats.refused), (0, 0, 2));
}

#[test]
fn an_address_that_cannot_be_dialled_costs_no_call() {
    let (peer, backends) = (start(Peer::builder()), backends::<1>());
    let client = to(&peer, &backends).to(nowhere()).build();
    let client = client.expect("is right");
    for _ in 0..50 {
        assert_eq!(work(&client), Ok(0));
    }
}

#[test]
fn a_server_that_dies_amid_load_fails_only_its_calls_in_flight_and_no_idempotent_one() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let client = connected(to(&peer, &backends).balancer(TwoChoices::new(1)), 2);
    let is_dead = AtomicBool::new(false);
    let (failed, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
    const CALLERS: usize = 8;
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (client, is_dead, failed, after) = (&client, &is_dead, &failed, &after);
            scope.spawn(move || {
                while after.load(Ordering::Relaxed) < 200 {
                    let was_dead = is_dead.load(Ordering::SeqCst);
                    let call = client.call::<_, u8>("/slow", &());
                    let is_idempotent = caller % 2 == 0;
                    let result = match is_idempotent {
                        true => call.idempotent().wait(),
                        false => call.wait(),
                    };
                    if let Err(status) = result {
                        assert!(!is_idempotent, "{status}");
                        assert!(!was_dead, "{status}");
                        assert_eq!(status.code, code::CONNECTION_CLOSED);
                        failed.fetch_add(1, Ordering::Relaxed);
                    } else if was_dead {
                        after.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("both are busy", || client.stats().done > 100);
        backends[0].peer.shutdown_within(Duration::ZERO);
        eventually("its sessions are gone", || {
            client.stats().addresses[0].sessions == 0
        });
        is_dead.store(true, Ordering::SeqCst);
    });
    assert!(failed.load(Ordering::Relaxed) <= CALLERS / 2);
    assert_eq!(client.stats().doing, 0);
}

#[test]
fn an_address_that_fails_in_a_row_gets_no_calls_until_it_answers_a_probe() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let ejection = Ejection::default().failures(3);
    let builder = to(&peer, &backends)
        .balancer(RoundRobin::new(Place::ALONE))
        .ejection(ejection.base(Duration::from_millis(100)))
        .slow_start(Duration::from_millis(50))
        .breaker(None);
    let client = connected(builder, 2);
    backends[0].fail_with(code::INTERNAL_SERVER_ERROR);
    let failed = (0..6).filter(|_| work(&client).is_err()).count();
    assert_eq!(failed, 3);
    let stats = client.stats();
    assert!(stats.addresses[0].is_ejected && !stats.addresses[1].is_ejected);
    assert_eq!(stats.ejections, 1);
    for _ in 0..20 {
        assert_eq!(work(&client), Ok(1));
    }
    backends[0].fail_with(0);
    eventually("it returns", || {
        work(&client).expect("none is lost on an address that fails");
        !client.stats().addresses[0].is_ejected
    });
    eventually("it has its share again", || {
        client.stats().addresses[0].ramp == 1000
    });
    let before = backends[0].calls();
    (0..20).for_each(|_| drop(work(&client)));
    assert_eq!(backends[0].calls() - before, 10);
}

#[test]
fn a_circuit_breaker_stops_calls_to_the_only_address_and_lets_them_pass_once_probes_succeed() {
    let (peer, backends) = (start(Peer::builder()), backends::<1>());
    let breaker = CircuitBreaker::new().min_requests(5).probes(2);
    let breaker = breaker.open_for(Duration::from_millis(100));
    let client = connected(to(&peer, &backends).breaker(breaker), 1);
    let state = |client: &MultiClient| client.stats().addresses[0].breaker;
    backends[0].fail_with(code::INTERNAL_SERVER_ERROR);
    for _ in 0..5 {
        assert_eq!(code_of(work(&client)), code::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(state(&client), Some(BreakerState::Open));
    for _ in 0..10 {
        assert_eq!(code_of(work(&client)), code::SERVICE_UNAVAILABLE);
    }
    assert_eq!(backends[0].calls(), 5);
    eventually("it is half-open", || {
        state(&client) == Some(BreakerState::HalfOpen)
    });
    // A probe that fails opens it again.
    assert_eq!(code_of(work(&client)), code::INTERNAL_SERVER_ERROR);
    assert_eq!(code_of(work(&client)), code::SERVICE_UNAVAILABLE);
    backends[0].fail_with(0);
    eventually("the probes succeed", || {
        let _ = work(&client);
        state(&client) == Some(BreakerState::Closed)
    });
    assert_eq!(work(&client), Ok(0));
    assert_eq!(client.stats().breaks, 2);
}

#[test]
fn a_limit_on_calls_and_an_error_of_the_application_are_no_failures_of_the_address() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let breaker = CircuitBreaker::new().min_requests(2);
    let ejection = Ejection::default().failures(2);
    let client = connected(to(&peer, &backends).breaker(breaker).ejection(ejection), 2);
    for code in [code::TOO_MANY_REQUESTS, 1001, code::NOT_FOUND] {
        backends.iter().for_each(|backend| backend.fail_with(code));
        for _ in 0..20 {
            let call = client.call::<_, u8>("/work", &()).idempotent();
            assert_eq!(code_of(call.wait()), code);
        }
    }
    let stats = client.stats();
    assert_eq!((stats.ejections, stats.breaks, stats.retries), (0, 0, 0));
    let calls: usize = backends.iter().map(Backend::calls).sum();
    assert_eq!(calls, 60, "each was tried once");
}

#[test]
fn a_call_that_was_refused_unrun_goes_to_another_address() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let client = connected(
        to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE)),
        2,
    );
    backends[0].fail_with(code::SERVICE_UNAVAILABLE);
    backends[0].state.refuses.store(true, Ordering::Relaxed);
    for _ in 0..8 {
        assert_eq!(work(&client), Ok(1));
    }
    assert_eq!(client.stats().retries as usize, backends[0].calls());
    assert!(backends[0].calls() >= 3);
}

#[test]
fn a_handler_that_fails_with_503_runs_again_only_for_an_idempotent_call() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let builder = to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE));
    let client = connected(builder.breaker(None), 2);
    backends[0].fail_with(code::SERVICE_UNAVAILABLE);
    // It may have failed in the middle of its work: because of a service that it calls, say.
    let results: Vec<_> = (0..4).map(|_| work(&client)).collect();
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert_eq!((failed, backends[0].calls()), (2, 2), "{results:?}");
    assert_eq!(client.stats().retries, 0);
    for _ in 0..2 {
        let call = client.call::<_, u8>("/work", &()).idempotent();
        assert_eq!(call.wait(), Ok(1));
    }
    assert_eq!((client.stats().retries, backends[0].calls()), (2, 4));
}

#[test]
fn a_session_that_takes_no_more_calls_is_left_at_once_and_the_calls_on_it_end() {
    // The calls take longer than a session of the application has to close.
    let peer = start(Peer::builder().close_within(Duration::from_millis(10)));
    let backends = backends::<1>();
    let budget = RetryBudget::new().percent(0).floor(0);
    let builder = to(&peer, &backends).sessions(1).budget(budget);
    let client = connected(builder, 1);
    let held = client.call::<_, u8>("/hold", &()).send();
    eventually("it is held", || backends[0].held() == 1);
    let [session] = &backends[0].peer.sessions()[..] else {
        panic!("there is one");
    };
    session.close();
    for _ in 0..20 {
        assert_eq!(work(&client), Ok(0), "on a new session");
    }
    let stats = client.stats();
    assert_eq!((stats.created, stats.ejections), (2, 0));
    thread::sleep(Duration::from_millis(50));
    backends[0].release();
    assert_eq!(held.wait(), Ok(0));
    eventually("the old session has ended", || {
        peer.session_count() == 1 && backends[0].peer.session_count() == 1
    });
    assert_eq!((client.stats().workers, client.stats().doing), (1, 0));
}

#[test]
fn a_call_with_an_attempt_under_way_waits_for_that_if_no_other_is_possible() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let breaker = CircuitBreaker::new().min_requests(2).open_for(LONG);
    let builder = to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE));
    let builder = builder.breaker(breaker).attempts(4).sessions(1);
    let slow = Reconnect::new(LONG, LONG);
    let client = connected(builder.dial_delays(slow), 2);
    let call = client.call::<_, u8>("/hold", &());
    let pending = call.hedge(Duration::from_millis(1)).send();
    let [stays, dies] = &backends;
    eventually("both have it", || stays.held() == 1 && dies.held() == 1);
    stays.fail_with(code::INTERNAL_SERVER_ERROR);
    eventually("the breaker of the first is open", || {
        let _ = work(&client);
        client.stats().breaks == 1
    });
    dies.peer.shutdown_within(Duration::ZERO);
    eventually("it wants another attempt", || client.stats().retries == 1);
    eventually("the second attempt has failed", || {
        client.stats().workers == 1
    });
    thread::sleep(Duration::from_millis(20));
    let ended = pending.try_result();
    assert_eq!(ended, None, "{:?}", client.stats());
    stays.release();
    assert_eq!(pending.wait(), Ok(0));
    assert_eq!((client.stats().doing, client.stats().waiting), (0, 0));
}

/// Refuses pushes while it is told to.
struct RefusesPushes(Arc<AtomicBool>);

impl Plugin for RefusesPushes {
    fn name(&self) -> &str {
        "refuses-pushes"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PRE_WRITE_PUSH
    }

    fn pre_write_push(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Status::new(7, "no")),
            false => Ok(()),
        }
    }
}

#[test]
fn a_push_that_was_accepted_and_is_not_sent_is_counted_and_one_that_was_refused_is_not() {
    let refuses = Arc::new(AtomicBool::new(true));
    let peer = start(Peer::builder().plugin(RefusesPushes(refuses.clone())));
    let backend = Backend::start(0);
    let client = connected(to(&peer, std::slice::from_ref(&backend)), 1);
    assert_eq!(client.push("/note", &()).expect_err("fails").code, 7);
    assert_eq!(client.stats().dropped_pushes, 0, "its sender knows");

    let addr = {
        let free = TcpListener::bind("127.0.0.1:0").expect("binds");
        free.local_addr().expect("is bound")
    };
    let quick = Reconnect::new(Duration::from_millis(5), Duration::from_millis(5));
    let client = MultiClient::builder(&peer).to(addr).dial_delays(quick);
    let client = client.max_wait(LONG).build().expect("is right");
    for _ in 0..3 {
        client.push("/note", &()).expect("waits");
    }
    let listening = Peer::builder().listen(&*format!("tcp://{addr}"));
    let _late = start(listening.routes(backend.state.routes(0)));
    eventually("none is sent", || client.stats().dropped_pushes == 3);
    client.close();
    let refused = client.push("/note", &()).expect_err("is closed");
    assert_eq!(refused.code, code::CONNECTION_CLOSED);
    assert_eq!(client.stats().dropped_pushes, 3);
}

#[test]
fn retries_are_capped_by_the_budget() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let builder = to(&peer, &backends).breaker(None).attempts(4);
    let builder = builder.ejection(Ejection::default().failures(0));
    let budget = RetryBudget::new().percent(10).floor(5).window(LONG);
    let client = connected(builder.budget(budget), 2);
    backends
        .iter()
        .for_each(|b| b.fail_with(code::SERVICE_UNAVAILABLE));
    const CALLS: usize = 200;
    for _ in 0..CALLS {
        let call = client.call::<_, u8>("/work", &()).idempotent();
        assert_eq!(code_of(call.wait()), code::SERVICE_UNAVAILABLE);
    }
    let attempts: usize = backends.iter().map(Backend::calls).sum();
    assert_eq!(attempts, CALLS + CALLS / 10 + 5);
    assert!(client.stats().over_budget > 0);
}

#[test]
fn a_hedge_goes_to_another_address_and_the_loser_is_cancelled() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    backends[1].state.answers.store(true, Ordering::Relaxed);
    let builder = to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE));
    let client = connected(builder, 2);
    let call = client.call::<_, u8>("/hold", &());
    assert_eq!(call.hedge(Duration::from_millis(10)).wait(), Ok(1));
    eventually("the loser is cancelled", || {
        backends[0].peer.stats().peer.cancels == 1
    });
    assert!(backends[0].state.held.lock()[0].is_cancelled());
    let stats = client.stats();
    assert_eq!((stats.hedges, stats.doing, stats.max_load), (1, 0, 0));
    // A call that is answered in time has no hedge.
    backends[0].state.answers.store(true, Ordering::Relaxed);
    let quick = client.call::<_, u8>("/hold", &()).hedge(LONG);
    assert_eq!(quick.wait(), Ok(0));
    assert_eq!(client.stats().hedges, 1);
}

#[test]
fn hedges_are_capped_by_the_budget_too() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let budget = RetryBudget::new().percent(0).floor(2);
    let client = connected(to(&peer, &backends).budget(budget), 2);
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let call = client.call::<_, u8>("/hold", &());
            call.hedge(Duration::from_millis(5)).send()
        })
        .collect();
    eventually("the others are denied", || client.stats().over_budget == 4);
    assert_eq!(client.stats().hedges, 2);
    eventually("all are held", || {
        backends.iter().map(Backend::held).sum::<usize>() == 8
    });
    backends.iter().for_each(Backend::release);
    for call in calls {
        assert_eq!(call.wait(), Ok(0));
    }
}

#[test]
fn only_an_idempotent_call_is_sent_again_when_its_connection_breaks() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let builder = to(&peer, &backends).balancer(RoundRobin::new(Place::ALONE));
    let client = connected(builder, 2);
    let one = client.call::<_, u8>("/hold", &()).send();
    let other = client.call::<_, u8>("/hold", &()).send();
    let again = client.call::<_, u8>("/hold", &()).idempotent().send();
    eventually("they are held", || {
        backends[0].held() == 2 && backends[1].held() == 1
    });
    for session in backends[0].peer.sessions() {
        session.abort();
    }
    assert_eq!(code_of(one.wait()), code::CONNECTION_CLOSED);
    eventually("it is sent again", || backends[1].held() == 2);
    backends[1].release();
    assert_eq!(other.wait(), Ok(0));
    assert_eq!(again.wait(), Ok(0));
    assert_eq!(client.stats().retries, 1);
}

#[test]
fn a_break_is_one_failure_however_many_calls_it_ends() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let breaker = CircuitBreaker::new().min_requests(2);
    let ejection = Ejection::default().failures(2);
    let builder = to(&peer, &backends).breaker(breaker).ejection(ejection);
    let client = connected(builder.sessions(1), 2);
    let calls: Vec<_> = (0..20)
        .map(|_| client.call::<_, u8>("/hold", &()).send())
        .collect();
    eventually("they are held", || {
        backends[0].held() == 10 && backends[1].held() == 10
    });
    for session in backends[0].peer.sessions() {
        session.abort();
    }
    backends[1].release();
    let failed = calls.into_iter().filter_map(|call| call.wait().err());
    assert_eq!(failed.count(), 10);
    let stats = client.stats();
    assert_eq!((stats.ejections, stats.breaks), (0, 0));
    eventually("it is connected again", || client.stats().workers == 2);
}

#[test]
fn no_attempt_is_made_after_the_deadline_of_the_call() {
    let (peer, backends) = (start(Peer::builder()), backends::<1>());
    let slow = Reconnect::new(Duration::from_secs(60), Duration::from_secs(60));
    let client = connected(to(&peer, &backends).retry_delays(slow).breaker(None), 1);
    backends[0].fail_with(code::SERVICE_UNAVAILABLE);
    // The next attempt would be too late, so the failure is the result, at once.
    let call = client.call::<_, u8>("/work", &()).idempotent();
    let status = call.timeout(Duration::from_secs(20)).wait();
    assert_eq!(code_of(status), code::SERVICE_UNAVAILABLE);
    let call = client.call::<_, u8>("/hold", &()).idempotent();
    let status = call.timeout(Duration::from_millis(20)).wait();
    assert_eq!(code_of(status), code::HANDLE_TIMEOUT);
    assert_eq!(backends[0].calls(), 1);
}

#[test]
fn a_cancelled_call_ends_once_and_the_other_side_is_told() {
    let (peer, backends) = (start(Peer::builder()), backends::<1>());
    let client = connected(to(&peer, &backends), 1);
    let call = client.call::<_, u8>("/hold", &()).send();
    eventually("it is held", || backends[0].held() == 1);
    call.cancel();
    call.cancel();
    assert_eq!(code_of(call.wait()), code::CANCELLED);
    eventually("the server is told", || {
        backends[0].peer.stats().peer.cancels == 1
    });
    let unpolled = std::future::IntoFuture::into_future(client.call::<_, u8>("/hold", &()));
    drop(unpolled);
    eventually("a dropped future cancels too", || client.stats().doing == 0);
}

#[test]
fn a_closed_client_ends_the_calls_that_were_made_and_takes_no_more() {
    let (peer, backends) = (start(Peer::builder()), backends::<2>());
    let client = connected(to(&peer, &backends), 2);
    let call = client.call::<_, u8>("/hold", &()).send();
    eventually("it is held", || {
        backends[0].held() + backends[1].held() == 1
    });
    client.close();
    assert_eq!(code_of(work(&client)), code::CONNECTION_CLOSED);
    backends.iter().for_each(Backend::release);
    assert_eq!(call.wait(), Ok(0));
    eventually("its sessions are closed", || peer.session_count() == 0);
    // The last handle closes it too.
    let client = connected(to(&peer, &backends), 2);
    drop(client);
    eventually("its sessions are closed", || peer.session_count() == 0);
}

#[test]
fn fifty_threads_share_a_client_and_each_call_ends_once_in_a_shutdown() {
    let (peer, backends) = (start(Peer::builder()), backends::<3>());
    let client = connected(to(&peer, &backends), 3);
    let (made, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let answered = Arc::new(AtomicUsize::new(0));
    let codes = Arc::new(Mutex::new(HashMap::new()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..50 {
            let (client, made, ended) = (&client, &made, &ended);
            let (codes, answered, is_over) = (&codes, &answered, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    made.fetch_add(1, Ordering::Relaxed);
                    let call = client.call::<_, u8>("/work", &()).idempotent();
                    let ended = ended.clone();
                    let (codes, answered) = (codes.clone(), answered.clone());
                    let done = move |result: Result<u8, Status>| {
                        ended.fetch_add(1, Ordering::Relaxed);
                        match result {
                            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Err(status) => *codes.lock().entry(status.code).or_insert(0) += 1,
                        }
                    };
                    match n % 2 {
                        0 => call.then(done),
                        _ => done(call.wait()),
                    }
                    thread::yield_now();
                }
            });
        }
        eventually("calls are answered", || {
            answered.load(Ordering::Relaxed) > 2000
        });
        peer.shutdown();
        is_over.store(true, Ordering::Relaxed);
    });
    let all = || ended.load(Ordering::Relaxed) == made.load(Ordering::Relaxed);
    eventually("each has ended", all);
    assert_eq!(client.stats().doing, 0);
    drop(client);
    assert!(all(), "none has ended twice");
    let codes = codes.lock();
    let only = [code::CONNECTION_CLOSED, code::WRITE_FAILED];
    assert!(codes.keys().all(|code| only.contains(code)), "{codes:?}");
}

#[test]
fn wrong_options_of_a_client_are_named() {
    let peer = start(Peer::builder());
    let problem = |builder: MultiClientBuilder| {
        let error = builder.build().expect_err("is wrong");
        error.to_string()
    };
    let none = MultiClient::builder(&peer);
    assert!(problem(none).contains("give at least one"));
    let builder = || MultiClient::builder(&peer);
    let typo = builder().to("tpc://127.0.0.1:1");
    assert!(problem(typo).contains("use tcp://"));
    let datagrams = builder().to("udp://127.0.0.1:1");
    assert!(problem(datagrams).contains("use a tcp:// address"));
    let connect = Connect::to("tcp://127.0.0.1:1");
    assert!(problem(builder().to(connect).sessions(0)).contains("at least 1"));
}
