//! Identifiers of sessions, and what sessions leave behind.

use std::env;
use std::thread;
use std::time::Duration;

use epicycle::Reconnect;
use epicycle::rpc::{Health, Peer, Responder, Router};

use crate::ends::{dial, listening, start};
use crate::util::client::TempPath;
use crate::util::process::{alone, descriptors, resident, timer_descriptors};
use crate::util::{LONG, eventually};

fn echo() -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u64| Ok(n));
    routes
}

#[test]
fn a_peer_may_dial_itself() {
    let peer = start(listening().routes(echo()));
    let session = dial(&peer, &peer);
    assert_eq!(session.call("/echo", &7u64).wait(), Ok(7u64));
    assert_eq!(peer.session_count(), 2);
    assert!(
        peer.sessions()
            .iter()
            .all(|session| session.health() == Health::Open)
    );
}

/// Opens a number of sessions, one after the other, uses each, and closes it.
fn open_and_close(server: &Peer, client: &Peer, count: u64) {
    for n in 0..count {
        let session = dial(client, server);
        session.set_age(LONG);
        session.swap().set("n", n);
        if n % 3 == 0 {
            session.set_id(format!("session {}", n % 10));
        }
        assert_eq!(session.call("/echo", &n).wait(), Ok(n));
        let late = session.call::<_, u64>("/later", &n).idempotent();
        assert_eq!(late.wait(), Ok(n));
        session.push("/nowhere", &n).expect("is sent");
        match n % 16 {
            // The other side breaks it off, and the client comes back.
            0 => {
                let again = client.stats().peer.redials + 1;
                server
                    .sessions()
                    .iter()
                    .for_each(epicycle::rpc::Session::abort);
                eventually("it redials", || client.stats().peer.redials == again);
                session.close();
            }
            1 => session.abort(),
            _ => session.close(),
        }
        assert!(session.wait_closed(LONG));
    }
    eventually("all have ended", || {
        client.session_count() + server.session_count() == 0
    });
}

/// Returns the number of descriptors once connections that have ended are closed. Those of timers are not counted: a reactor may
/// need its own for the first time at any moment.
fn resting_descriptors() -> usize {
    let count = || descriptors() - timer_descriptors();
    let mut last = count();
    eventually("the descriptors are closed", || {
        let before = last;
        thread::sleep(Duration::from_millis(300));
        last = count();
        last == before
    });
    last
}

#[test]
fn sessions_leave_neither_memory_nor_descriptors_behind() {
    let name = "sessions::sessions_leave_neither_memory_nor_descriptors_behind";
    alone(name, || {
        let count = env::var("EPICYCLE_SESSIONS").ok();
        let count = count.and_then(|count| count.parse().ok()).unwrap_or(2000);
        let path = TempPath::new();
        let mut routes = echo();
        routes.call_later("/later", |_ctx, n: u64, reply: Responder<u64>| {
            reply.send(Ok(n));
        });
        let server = Peer::builder().listen(format!("unix://{}", path.0.display()));
        let server = start(server.routes(routes));
        let policy = Reconnect::new(Duration::from_millis(1), Duration::from_millis(10));
        let client = start(Peer::builder().redial(policy));
        open_and_close(&server, &client, 500);
        let before = (resting_descriptors(), resident());
        open_and_close(&server, &client, count);
        let after = resident();
        assert_eq!(resting_descriptors(), before.0);
        // One for each reactor.
        assert!(timer_descriptors() <= 2);
        if let (Some(before), Some(after)) = (before.1, after) {
            let growth = after.saturating_sub(before);
            println!("{count} sessions: {growth} bytes more than before");
            assert!(growth < 512 << 10, "{growth} bytes stay");
        }
    });
}
