//! The plugin `limits`: what is beyond a limit is refused, and what has ended counts no more, however it ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epicycle::rpc::plugins::limits::{Limiter, Per};
use epicycle::rpc::{Responder, Router, Session, Status, code};
use parking_lot::Mutex;

use crate::ends::{dial, listening, start};
use crate::util::{eventually, expect_panics};
use epicycle::rpc::Peer;

/// The replies that handlers have not given yet.
type Held = Arc<Mutex<Vec<Responder<u8>>>>;

fn is_refused(session: &Session, path: &str) -> bool {
    let call = session.call::<_, u8>(path, &1u8);
    match call.timeout(Duration::from_millis(50)).wait() {
        Err(status) => status.code == code::TOO_MANY_REQUESTS,
        Ok(_) => false,
    }
}

#[test]
fn a_call_counts_as_under_way_until_its_handler_ends_however_that_is() {
    expect_panics();
    let held = Held::default();
    let limiter = Limiter::new("one").concurrent(Per::Route, 1);
    let refused = limiter.refused();
    let mut routes = Router::new();
    let holding = held.clone();
    routes.with(limiter, |routes| {
        routes.call_later("/later", move |_ctx, n: u8, reply| match n {
            0 => panic!("on purpose"),
            _ => holding.lock().push(reply),
        });
        routes.call_async("/async", |ctx, n: u8| async move {
            assert!(n != 0, "on purpose");
            ctx.session().call::<_, u8>("/never", &()).await
        });
        routes.call("/now", |_ctx, n: u8| {
            assert!(n != 0, "on purpose");
            Ok(n)
        });
        routes.call_blocking("/blocking", |_ctx, n: u8| {
            assert!(n != 0, "on purpose");
            Ok(n)
        });
    });
    let server = start(listening().routes(routes));
    let mut routes = Router::new();
    let never = Held::default();
    let keeping = never.clone();
    routes.call_later("/never", move |_ctx, _: (), reply| {
        keeping.lock().push(reply);
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let take = || {
        eventually("the handler runs", || !held.lock().is_empty());
        held.lock().pop().expect("is there")
    };
    let hold = || session.call::<_, u8>("/later", &1u8).send();

    // It is answered.
    let call = hold();
    let reply = take();
    assert!(is_refused(&session, "/later"));
    reply.send(Ok(1));
    assert_eq!(call.wait(), Ok(1));
    // Its responder is dropped.
    let call = hold();
    drop(take());
    assert_eq!(call.wait().expect_err("fails").code, 500);
    // It is cancelled, and its handler gives up.
    let call = hold();
    let reply = take();
    call.cancel();
    eventually("the handler learns of it", || reply.is_cancelled());
    assert!(
        is_refused(&session, "/later"),
        "the handler is still at work"
    );
    drop(reply);
    // Its handler panics.
    for path in ["/later", "/async", "/now", "/blocking"] {
        for _ in 0..3 {
            let result = session.call::<_, u8>(path, &0u8).wait();
            assert_eq!(result.expect_err("fails").code, 500, "{path}");
        }
    }
    // Its future is dropped, since the call is cancelled.
    let call = session.call::<_, u8>("/async", &1u8).send();
    eventually("it waits", || never.lock().len() == 1);
    assert!(is_refused(&session, "/async"));
    call.cancel();
    drop(never.lock().pop());
    let again = || session.call::<_, u8>("/async", &1u8).send();
    let call = again();
    eventually("it waits", || never.lock().len() == 1);
    // Its session ends.
    let gone = dial(&client, &server);
    let held_by_it = gone.call::<_, u8>("/later", &1u8).send();
    let reply = take();
    gone.abort();
    eventually("the handler learns of it", || reply.is_cancelled());
    drop(reply);
    assert!(held_by_it.wait().is_err());
    let call_after = hold();
    take().send(Ok(2));
    assert_eq!(call_after.wait(), Ok(2));
    call.cancel();
    assert_eq!(refused.load(Ordering::Relaxed), 3);
}

fn counting() -> Router {
    let mut routes = Router::new();
    for path in ["/a", "/b"] {
        routes.call(path, |_ctx, n: u8| Ok(n));
    }
    routes.unknown_call(|_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    routes
}

const HOUR: Duration = Duration::from_secs(3600);

/// Returns how many of ten calls are answered.
fn answered(session: &Session, path: &str) -> usize {
    let calls = (0..10).filter(|_| match session.call::<_, u8>(path, &1u8).wait() {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code, code::TOO_MANY_REQUESTS, "{status}");
            false
        }
    });
    calls.count()
}

#[test]
fn a_rate_counts_for_each_route_session_or_address() {
    for per in [Per::Route, Per::Session, Per::Address] {
        let limiter = Limiter::new("rate").rate(per, 3, HOUR);
        let server = start(listening().routes(counting()).plugin(limiter));
        let client = start(Peer::builder());
        let (one, other) = (dial(&client, &server), dial(&client, &server));
        assert_eq!(answered(&one, "/a"), 3, "{per:?}");
        let expected = if per == Per::Route { 3 } else { 0 };
        assert_eq!(answered(&one, "/b"), expected, "{per:?}");
        let expected = if per == Per::Session { 3 } else { 0 };
        assert_eq!(answered(&other, "/a"), expected, "{per:?}");
        // Paths that a peer invents are one route.
        if per == Per::Route {
            assert_eq!(answered(&one, "/x") + answered(&one, "/y"), 3);
        }
    }
}

#[test]
fn a_message_that_one_limit_refuses_counts_against_no_other() {
    let limiter = Limiter::new("both")
        .rate(Per::Session, 5, HOUR)
        .rate(Per::Route, 2, HOUR);
    let server = start(listening().routes(counting()).plugin(limiter));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    assert_eq!(answered(&session, "/a"), 2);
    assert_eq!(answered(&session, "/b"), 2);
    assert_eq!(answered(&session, "/x"), 1);
    assert_eq!(answered(&session, "/y"), 0);
}

#[test]
fn addresses_beyond_the_bound_count_together_and_an_ipv6_network_is_one_address() {
    let limiter = Limiter::new("rate")
        .rate(Per::Address, 2, HOUR)
        .trust_real_ip()
        .max_addresses(3);
    let server = start(listening().routes(counting()).plugin(limiter));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let answered = |ip: &str| {
        let ip: IpAddr = ip.parse().expect("is an address");
        let calls =
            (0..10).filter(|_| session.call::<_, u8>("/a", &1u8).real_ip(ip).wait().is_ok());
        calls.count()
    };
    assert_eq!(answered("10.0.0.1"), 2);
    assert_eq!(answered("::ffff:10.0.0.1"), 0, "the same address");
    assert_eq!(answered("2001:db8::1"), 2);
    assert_eq!(answered("2001:db8::ffff:1"), 0, "the same network");
    assert_eq!(answered("2001:db8:0:1::1"), 2);
    assert_eq!(answered("10.0.0.2") + answered("10.0.0.3"), 2);
    assert_eq!(answered("10.0.0.1"), 0, "it is still known");
}

#[test]
fn a_limiter_may_answer_in_place_of_the_handler_or_let_a_call_through() {
    let limiter = Limiter::new("none")
        .concurrent(Per::Session, 0)
        .otherwise(|call, refusal| match &*call.path() {
            "/a" => call.answer(&7u8),
            "/b" => Ok(()),
            _ => Err(refusal),
        });
    let server = start(listening().routes(counting()).plugin(limiter));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let call = |path: &str| session.call::<_, u8>(path, &1u8).wait();
    assert_eq!(call("/a"), Ok(7));
    assert_eq!(call("/b"), Ok(1));
    let status = call("/c").expect_err("is refused");
    let expected = Status::new(code::TOO_MANY_REQUESTS, "Too Many Requests");
    assert_eq!(
        status,
        expected.with_reason("the limit is 0 at once for each session")
    );
}

#[test]
fn pushes_beyond_a_limit_are_dropped() {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let mut routes = counting();
    routes.push("/note", move |_ctx, _: String| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let limiter = Limiter::new("rate").rate(Per::Session, 3, HOUR);
    let refused = limiter.refused();
    let server = start(listening().routes(routes).plugin(limiter));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    for _ in 0..10 {
        session.push("/note", "x").expect("is sent");
    }
    eventually("all are read", || refused.load(Ordering::Relaxed) == 7);
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    assert!(is_refused(&session, "/a"), "calls count with them");
}
