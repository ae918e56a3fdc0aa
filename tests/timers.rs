//! Ticks and the timers of connections, also in large numbers. No test asserts a speed.

mod util;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::Action;

use crate::util::app::{App, What, local, start};
use crate::util::client::Client;
use crate::util::{LONG, eventually};

const STEP: Duration = Duration::from_millis(30);

#[test]
fn ticks_come_at_their_times_until_there_is_to_be_none() {
    let first = 2 * STEP;
    let (sender, ticks) = mpsc::channel();
    let booted = Instant::now();
    let (running, _log) = start(local().reactors(2).tick(first), move |app| {
        let sender = sender.clone();
        let mut count = 0;
        app.tick(move |reactor| {
            count += 1;
            let tick = (reactor.id(), thread::current().id(), Instant::now());
            sender.send(tick).expect("the test waits");
            (count < 5).then_some(STEP)
        })
    });
    let mut counts = [0; 2];
    let mut threads = [None; 2];
    for _ in 0..10 {
        let (reactor, thread, at) = ticks.recv_timeout(LONG).unwrap();
        let due = booted + first + STEP * counts[reactor];
        assert!(at >= due, "early by {:?}", due - at);
        counts[reactor] += 1;
        assert_eq!(*threads[reactor].get_or_insert(thread), thread);
    }
    assert_ne!(threads[0], threads[1]);
    // Each reactor has answered `None` by now, so nothing more comes.
    Client::to(&running).round_trip("meanwhile");
    assert!(ticks.recv_timeout(5 * STEP).is_err());
}

#[test]
fn the_first_tick_comes_at_once_unless_told_otherwise() {
    let (sender, ticks) = mpsc::channel();
    let (_running, _log) = start(local(), move |app| {
        let sender = sender.clone();
        app.tick(move |_| {
            sender.send(()).expect("the test waits");
            None
        })
    });
    ticks.recv_timeout(LONG).unwrap();
    assert!(ticks.recv_timeout(STEP).is_err());
}

#[test]
fn a_tick_reaches_every_connection() {
    let (_running, _log, clients) = {
        let (running, log) = start(local(), |app| {
            app.tick(|reactor| {
                reactor.broadcast("tick");
                Some(Duration::from_millis(1))
            })
        });
        let clients: Vec<_> = (0..10).map(|_| Client::to(&running)).collect();
        (running, log, clients)
    };
    for client in &clients {
        assert_eq!(client.recv(40), b"tick".repeat(10));
    }
}

#[test]
fn a_timer_of_a_connection_is_never_early_and_fires_once_in_order() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            for token in [3, 1, 2, 0] {
                conn.set_timer(STEP * token as u32, token);
            }
            true
        })
        .on_timer(|conn, session, token| {
            // The session began with the connection, just before the timers were set.
            let since = session.any.get_or_insert_with(|| Box::new(Instant::now()));
            let first = since.downcast_ref::<Instant>().expect("an instant");
            let least = (STEP * token as u32).saturating_sub(Duration::from_millis(5));
            assert!(token == 0 || first.elapsed() + STEP >= least);
            conn.write(&[token as u8]).into()
        })
    });
    let began = Instant::now();
    let client = Client::to(&running);
    for token in 0..4 {
        assert_eq!(client.recv(1), [token]);
    }
    assert!(began.elapsed() >= 3 * STEP);
    assert_eq!(log.count(|what| matches!(what, What::Timer(_))), 4);
    eventually("no timer is left", || {
        running.engine().stats().total().timers == 0
    });
}

#[test]
fn delays_are_never_cut_short() {
    let (sender, early) = mpsc::channel();
    let (running, _log) = start(local(), |app| app);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..500 {
        let delay = Duration::from_micros(random.u64(0..60_000));
        let sender = sender.clone();
        let task = move |_: &mut _, reactor: &mut epicycle::Reactor<'_, _>| {
            let asked = Instant::now();
            reactor.schedule(delay, move |_, _| {
                let waited = asked.elapsed();
                sender
                    .send(delay.checked_sub(waited))
                    .expect("the test waits");
            });
        };
        running.engine().run_on(0, task).unwrap();
    }
    drop(sender);
    let early: Vec<_> = early.iter().collect();
    assert_eq!(early.len(), 500);
    let by: Vec<_> = early.iter().flatten().filter(|by| !by.is_zero()).collect();
    assert!(by.is_empty(), "early by {by:?}");
}

/// How long it takes until `count` calls have come one after the other: the shortest of several times, which a busy machine
/// does not make longer.
fn shortest(enough: Duration, mut attempt: impl FnMut() -> Duration) {
    eventually("an attempt takes no longer than it has to", || {
        let took = attempt();
        println!("{took:?}");
        took < enough
    });
}

#[test]
fn timers_are_finer_than_a_millisecond() {
    let (sender, done) = mpsc::channel();
    let (running, _log) = start(local(), |app| app);
    // Twenty timers of 100 µs, each set by the one before: 2 ms, or 20 at the least where each is rounded up.
    fn chain(reactor: &mut epicycle::Reactor<'_, App>, left: u32, done: mpsc::Sender<()>) {
        if left == 0 {
            return done.send(()).expect("the test waits");
        }
        reactor.schedule(Duration::from_micros(100), move |_, reactor| {
            chain(reactor, left - 1, done);
        });
    }
    shortest(Duration::from_millis(18), || {
        let sender = sender.clone();
        let began = Instant::now();
        running
            .engine()
            .run_on(0, |_, reactor| chain(reactor, 20, sender))
            .unwrap();
        done.recv_timeout(LONG).unwrap();
        began.elapsed()
    });
}

#[test]
fn ticks_do_not_drift() {
    let (sender, ticks) = mpsc::channel();
    let (_running, _log) = start(local(), move |app| {
        let sender = sender.clone();
        app.tick(move |_| {
            // A test that has seen enough does not listen any more.
            let _ = sender.send(Instant::now());
            Some(Duration::from_millis(1))
        })
    });
    // Each a millisecond after the last one, and not two.
    shortest(Duration::from_millis(75), || {
        let first = ticks.recv_timeout(LONG).unwrap();
        let last = ticks.iter().take(50).last().unwrap();
        last - first
    });
}

#[test]
fn a_cancelled_timer_does_not_fire() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            let cancelled = conn.set_timer(STEP, 1);
            conn.set_timer(2 * STEP, 2);
            assert!(conn.cancel_timer(cancelled));
            assert!(!conn.cancel_timer(cancelled), "twice");
            true
        })
        .on_timer(|conn, _, token| conn.write(&[token as u8]).into())
    });
    let client = Client::to(&running);
    assert_eq!(client.recv(1), [2]);
    client.round_trip("nothing else");
    assert_eq!(log.count(|what| matches!(what, What::Timer(_))), 1);
}

#[test]
fn a_timer_cannot_be_cancelled_by_another_connection_or_after_it_fired() {
    let (running, _log) = start(local(), |app| {
        let mut first = None;
        app.on_open(move |conn| {
            match first {
                None => first = Some(conn.set_timer(STEP, 1)),
                Some(timer) => assert!(!conn.cancel_timer(timer)),
            }
            true
        })
        .on_timer(|conn, _, token| conn.write(&[token as u8]).into())
    });
    let owner = Client::to(&running);
    let other = Client::to(&running);
    other.round_trip("hello");
    assert_eq!(owner.recv(1), [1]);
    let late = Client::to(&running);
    late.round_trip("hello");
}

#[test]
fn timers_end_with_their_connection() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            for token in 0..100 {
                conn.set_timer(STEP, token);
                conn.set_timer(LONG, token);
            }
            true
        })
    });
    let timers = || running.engine().stats().total().timers;
    let client = Client::to(&running);
    client.round_trip("hello");
    drop(client);
    log.await_close(0);
    eventually("they are gone", || timers() == 0);
    // A tenant of the same slot is not called in their place.
    let tenant = Client::to(&running);
    let tenant_id = log.await_open(1);
    eventually("its own have fired", || {
        log.count(|what| matches!(what, What::Timer(_))) >= 100
    });
    let entries = log.entries();
    let fired = entries
        .iter()
        .filter(|entry| matches!(entry.what, What::Timer(_)));
    let for_tenant = fired.filter(|entry| entry.id == tenant_id).count();
    assert_eq!(for_tenant, 100);
    drop(tenant);
}

#[test]
fn a_timer_set_again_and_again_does_not_pile_up() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            conn.set_timer(Duration::ZERO, 500);
            true
        })
        .on_timer(|conn, _, left| {
            if left == 0 {
                return Action::Close;
            }
            conn.set_timer(Duration::ZERO, left - 1);
            Action::Continue
        })
    });
    let client = Client::to(&running);
    let mut most = 0;
    while log.count(|what| matches!(what, What::Timer(0))) == 0 {
        most = most.max(running.engine().stats().total().timers);
    }
    assert!(most <= 3, "{most} pending at once");
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn a_timer_that_sets_itself_at_once_starves_nobody() {
    let (running, _log) = start(local(), |app| {
        app.react(|conn, session, frame| {
            if session.number == 0 {
                session.number = 1;
                conn.set_timer(Duration::ZERO, 0);
            }
            conn.write(frame).into()
        })
        .on_timer(|conn, _, _| {
            conn.set_timer(Duration::ZERO, 0);
            Action::Continue
        })
    });
    let clients: Vec<_> = (0..10).map(|_| Client::to(&running)).collect();
    for client in clients.iter().cycle().take(200) {
        client.round_trip("hello");
    }
}

#[test]
fn a_million_pending_timers_do_not_keep_the_echo_from_working() {
    const MILLION: usize = 1_000_000;
    let fired = Arc::new(AtomicUsize::new(0));
    let count = fired.clone();
    let (running, _log) = start(local(), move |app| {
        let fired = count.clone();
        app.on_timer(move |_, _, _| {
            fired.fetch_add(1, SeqCst);
            Action::Continue
        })
    });
    let timers = || running.engine().stats().total().timers as usize;
    let owner = Client::to(&running);
    owner.round_trip("hello");
    let before = Instant::now();
    running
        .engine()
        .run_on(0, |_, reactor| {
            let mut random = fastrand::Rng::with_seed(1);
            reactor.for_each(|conn, _| {
                for n in 0..MILLION {
                    // Most far away, some on the way through the wheel's levels.
                    let millis = if n % 100 == 0 {
                        random.u64(1..500)
                    } else {
                        random.u64(600_000..1 << 40)
                    };
                    conn.set_timer(Duration::from_millis(millis), n as u64);
                }
            });
        })
        .unwrap();
    eventually("they are set", || timers() >= MILLION - MILLION / 100);
    println!("set after {:?}", before.elapsed());
    let client = Client::to(&running);
    for _ in 0..2000 {
        client.round_trip("hello");
    }
    eventually("the near ones have fired", || {
        fired.load(SeqCst) == MILLION / 100
    });
    assert_eq!(timers(), MILLION - MILLION / 100);
    drop(owner);
    eventually("the rest is gone", || timers() == 0);
    client.round_trip("hello");
}
