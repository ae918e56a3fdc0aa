//! Shutdown during connects: each connect is reported, and the shutdown does not wait for them.

use std::time::{Duration, Instant};

use epicycle::{Connect, ConnectError, Reconnect, Running};

use crate::client;
use crate::util::app::{App, Log, start_client};
use crate::util::client::TempPath;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::process::raise_descriptor_limit;
use crate::util::{LONG, eventually, expect_panics};

/// Shuts down and sees that so many connects have been told of it, as the last.
fn stops(running: Running<App>, log: &Log, connects: usize) {
    let before = Instant::now();
    let report = running.shutdown();
    assert!(before.elapsed() < LONG / 2, "it was waited for");
    assert_eq!((report.drained, report.forced), (0, 0));
    let total = report.stats.total();
    assert_eq!((total.connections, total.connected), (0, 0));
    let last = |failed: &&_| {
        let failed: &epicycle::FailedConnect = failed;
        failed.retry_in.is_none()
    };
    let failures = log.failures();
    let last: Vec<_> = failures.iter().map(AsRef::as_ref).filter(last).collect();
    assert_eq!(last.len(), connects);
    for failed in last {
        let stopped = matches!(failed.error, ConnectError::Stopped);
        assert!(stopped, "{}", failed.error);
    }
}

/// Connects to nobody in many ways: on the way, waiting for an answer, for the next attempt or in a queue.
fn many_stages(running: &Running<App>, log: &Log, mute: &MutePort, unix: &str) -> usize {
    let dead = DeadPort::new();
    let later = Reconnect::new(LONG, LONG);
    let (before, each) = (log.failures().len(), 10);
    for _ in 0..each {
        for connect in [
            Connect::to(mute.addr),
            Connect::to(mute.addr).reconnect(later),
            Connect::to(dead.addr).reconnect(later),
            Connect::to(unix),
        ] {
            let connect = connect.timeout(LONG);
            running.engine().connect(connect).expect("is taken");
        }
    }
    eventually("some have failed", || log.failures().len() == before + each);
    eventually("the others connect", || {
        running.engine().connections() == 2 * each
    });
    4 * each
}

fn full_unix() -> (TempPath, impl Sized) {
    let path = TempPath::new();
    let listener = std::os::unix::net::UnixListener::bind(&path.0).expect("binds");
    socket2::SockRef::from(&listener)
        .listen(0)
        .expect("listens");
    let queued = std::os::unix::net::UnixStream::connect(&path.0).expect("connects");
    (path, (listener, queued))
}

#[test]
fn connects_in_every_stage_are_told_that_the_engine_stops() {
    let mute = MutePort::new();
    let (path, _full) = full_unix();
    for reactors in [1, 2] {
        let (running, log) = start_client(client(reactors), |app| app);
        let connects = many_stages(&running, &log, &mute, &path.addr());
        stops(running, &log, connects);
    }
}

#[test]
fn a_panic_in_on_connect_failed_keeps_no_other_connect_from_its_answer() {
    expect_panics();
    let mute = MutePort::new();
    let (path, _full) = full_unix();
    let (running, log) = start_client(client(1), |app| {
        app.on_connect_failed(|_, _| panic!("on purpose"))
    });
    let connects = many_stages(&running, &log, &mute, &path.addr());
    stops(running, &log, connects);
}

#[test]
fn on_shutdown_is_called_although_on_connect_failed_panics() {
    expect_panics();
    let dead = DeadPort::new();
    let called = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = called.clone();
    let (running, log) = start_client(client(1), move |app| {
        let count = count.clone();
        app.on_connect_failed(|_, _| panic!("on purpose"))
            .on_shutdown(move |_| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
    });
    let connect = Connect::to(dead.addr).reconnect(Reconnect::new(LONG, LONG));
    running.engine().connect(connect).expect("is taken");
    log.await_failure(0);
    stops(running, &log, 1);
    assert_eq!(called.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_connect_that_comes_too_late_is_refused_or_told() {
    raise_descriptor_limit();
    for round in 0..50 {
        let mute = DeadPort::new();
        let (running, log) = start_client(client(1), |app| app);
        let engine = running.engine().clone();
        let stopper = std::thread::spawn(move || drop(running.shutdown()));
        let mut taken = 0;
        loop {
            // Each may hold a descriptor, which other tests need too, and the shutdown waits behind all of them.
            if taken > 200 {
                std::thread::sleep(Duration::from_micros(200));
            }
            let later = Reconnect::new(LONG, LONG);
            match engine.connect(Connect::to(mute.addr).reconnect(later)) {
                Ok(_) => taken += 1,
                Err(ConnectError::MailboxFull) => {}
                Err(ConnectError::Stopped) => break,
                Err(error) => panic!("{error}"),
            }
        }
        stopper.join().expect("ends");
        let failures = log.failures();
        let last = failures.iter().filter(|failed| failed.retry_in.is_none());
        assert_eq!(last.count(), taken, "round {round}");
    }
}

#[test]
fn a_handler_that_connects_anew_at_each_failure_does_not_keep_the_engine_from_ending() {
    let dead = DeadPort::new();
    let addr = dead.addr;
    let (running, log) = start_client(client(1), move |app| {
        app.on_connect_failed(move |reactor, _| {
            let _ = reactor.connect(addr);
        })
    });
    running.engine().connect(addr).expect("is taken");
    log.await_failure(20);
    running.engine().shutdown_within(Duration::from_secs(10));
    running.join();
    assert!(matches!(
        log.failures().last().map(|failed| failed.retry_in),
        Some(None)
    ));
}
