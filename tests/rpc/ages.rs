//! The maximum age of sessions, and the limit of time for their handlers.

use std::sync::mpsc;
use std::time::Duration;

use epicycle::rpc::{Health, Peer, Responder, Router, Session, code};
use parking_lot::Mutex;

use crate::ends::{dial, listening, start};
use crate::util::{LONG, eventually};

const SHORT: Duration = Duration::from_millis(50);

/// Routes with a call that is answered when the test answers it, and one that is answered at once.
fn routes() -> (Router, mpsc::Receiver<Responder<u8>>) {
    let (sender, held) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<u8>| {
        let _ = sender.lock().send(reply);
    });
    routes.call("/echo", |_ctx, n: u8| Ok(n));
    (routes, held)
}

fn accepted(server: &Peer) -> Session {
    eventually("the server has the session", || server.session_count() == 1);
    server.sessions().remove(0)
}

#[test]
fn a_session_at_its_age_takes_no_more_calls_and_lets_those_under_way_end() {
    let (routes, held) = routes();
    let server = start(listening().routes(routes).session_age(SHORT));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let call = session.call::<_, u8>("/hold", &()).send();
    let reply = held.recv_timeout(LONG).expect("the handler runs");
    eventually("new calls are refused", || {
        let late = session.call::<_, u8>("/echo", &1).wait();
        late.is_err_and(|status| status.code == code::SERVICE_UNAVAILABLE)
    });
    reply.send(Ok(7));
    assert_eq!(call.wait(), Ok(7));
    assert!(session.wait_closed(LONG));
    eventually("the session is gone", || server.session_count() == 0);
}

#[test]
fn the_age_of_one_session_can_be_set_and_taken_away() {
    let (routes, _held) = routes();
    let server = start(
        listening()
            .routes(routes)
            .session_age(Duration::from_secs(3600)),
    );
    let client = start(Peer::builder());
    let (aged, ageless) = (dial(&client, &server), dial(&client, &server));
    assert_eq!(aged.age(), None, "the age of the server's side is its own");
    ageless.set_age(SHORT);
    ageless.set_age(None);
    aged.set_age(SHORT);
    assert_eq!(aged.age(), Some(SHORT));
    assert!(aged.wait_closed(LONG));
    let late = aged.call::<_, u8>("/echo", &1).wait().expect_err("fails");
    assert_eq!(late.code, code::CONNECTION_CLOSED);
    eventually("the other side ended too", || server.session_count() == 1);
    let other = accepted(&server);
    assert_eq!(other.age(), Some(Duration::from_secs(3600)));
    assert_eq!(ageless.health(), Health::Open);
    assert_eq!(ageless.call("/echo", &9u8).wait(), Ok(9u8));
    // The age of the accepted side.
    other.set_age(SHORT);
    assert!(ageless.wait_closed(LONG));
}

#[test]
fn the_time_for_the_handlers_of_one_session_can_be_set() {
    let (routes, held) = routes();
    let server = start(listening().routes(routes).handle_timeout(LONG));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let back = accepted(&server);
    assert_eq!(back.handle_timeout(), Some(LONG));
    back.set_handle_timeout(SHORT);
    let hold = || session.call::<_, u8>("/hold", &()).no_timeout().send();
    let status = hold().wait().expect_err("is too late");
    assert_eq!(status.code, code::HANDLE_TIMEOUT);
    assert!(held.recv_timeout(LONG).expect("it ran").is_cancelled());
    back.set_handle_timeout(None);
    let unlimited = hold();
    let reply = held.recv_timeout(LONG).expect("it runs");
    reply.send(Ok(1));
    assert_eq!(unlimited.wait(), Ok(1));
}

#[test]
fn calls_of_all_sessions_together_have_a_limit_on_either_side() {
    let (routes, held) = routes();
    let server = start(listening().routes(routes).max_total_deferred(3));
    let client = start(Peer::builder());
    let other = start(Peer::builder().max_total_calls(1));
    let sessions = [dial(&client, &server), dial(&client, &server)];
    let hold = |session: &Session| session.call::<_, u8>("/hold", &()).send();
    let calls = [hold(&sessions[0]), hold(&sessions[0]), hold(&sessions[1])];
    let replies: Vec<_> = (0..3)
        .map(|_| held.recv_timeout(LONG).expect("it runs"))
        .collect();
    let beyond = hold(&sessions[1]).wait().expect_err("is refused there");
    assert_eq!(beyond.code, code::TOO_MANY_REQUESTS);
    assert!(beyond.reason.contains("of all sessions"), "{beyond}");
    for reply in replies {
        reply.send(Ok(1));
    }
    for call in calls {
        assert_eq!(call.wait(), Ok(1));
    }

    let sessions = [dial(&other, &server), dial(&other, &server)];
    let only = hold(&sessions[0]);
    let reply = held.recv_timeout(LONG).expect("there is room again");
    let beyond = hold(&sessions[1]).wait().expect_err("is refused here");
    assert_eq!(beyond.code, code::TOO_MANY_REQUESTS);
    assert!(beyond.reason.contains("max_total_calls"), "{beyond}");
    reply.send(Ok(2));
    assert_eq!(only.wait(), Ok(2));
    assert_eq!(sessions[1].call("/echo", &3u8).wait(), Ok(3u8));
    drop(other);
}
