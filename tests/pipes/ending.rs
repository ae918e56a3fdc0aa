//! The end of a joined pair, begun by either side.

use std::thread;
use std::time::Duration;

use epicycle::{Action, CloseReason, Server, TimeoutKind};

use crate::util::app::{Gate, What, local, start};
use crate::util::client::Client;
use crate::util::process::{alone, descriptors, die_of_sigpipe};
use crate::util::{eventually, expect_panics, noise};
use crate::{end_of, fill, join, joined, open_small};

#[test]
fn the_end_of_each_direction_is_passed_on_by_itself() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("question");
    one.end_writes();
    assert_eq!(other.recv_to_end(), b"question");
    other.send("answer");
    assert_eq!(one.recv(6), b"answer");
    assert_eq!(log.closed(), 0);
    other.end_writes();
    assert_eq!(one.recv_to_end(), b"");
    for id in [a, b] {
        assert!(matches!(*end_of(&log, id).1, CloseReason::Peer));
    }
}

#[test]
fn an_end_that_came_before_the_joining_is_passed_on() {
    let (running, log) = start(local(), |app| app.on_peer_shutdown(|_, _| Action::Continue));
    let one = Client::to(&running);
    let a = log.await_open(0);
    one.end_writes();
    eventually("the end is seen", || {
        log.count(|what| matches!(what, What::PeerShutdown)) == 1
    });
    let other = Client::to(&running);
    let b = log.await_open(1);
    join(&running, a, b).expect("joins");
    assert_eq!(other.recv_to_end(), b"");
    other.send("still here");
    other.end_writes();
    assert_eq!(one.recv_to_end(), b"still here");
}

#[test]
fn a_reset_is_passed_on() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("hello");
    assert_eq!(other.recv(5), b"hello");
    one.reset();
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    assert!(matches!(*end_of(&log, a).1, CloseReason::Reset(_)));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Pipe));
}

#[test]
fn a_reset_is_passed_on_while_the_other_end_is_stuck() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    fill(&one);
    one.reset();
    assert!(matches!(*end_of(&log, a).1, CloseReason::Reset(_)));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Pipe));
    assert!(Client::is_reset(&other.recv_to_any_end().1));
}

#[test]
fn peers_that_leave_amid_what_is_passed_on_raise_no_signal() {
    let test = "peers_that_leave_amid_what_is_passed_on_raise_no_signal";
    alone(&format!("ending::{test}"), || {
        die_of_sigpipe();
        let (running, log) = start(local(), |app| app);
        let bulk = vec![0; 64 << 10];
        for _ in 0..10 {
            let (one, other, _, b) = joined(&running, &log);
            other.end_writes();
            assert_eq!(one.recv_to_end(), b"");
            // From then on the kernel moves what comes.
            let sent = || running.engine().stats().total().bytes_out;
            let all = sent() + bulk.len() as u64;
            one.send(&bulk);
            eventually("it is passed on", || sent() == all);
            // The loop learns of the input before it learns of the reset.
            let gate = Gate::before(running.engine(), 0);
            one.send(&bulk);
            drop(other);
            drop(gate);
            end_of(&log, b);
        }
    });
}

#[test]
fn what_arrived_before_a_reset_is_passed_on() {
    let (running, log) = start(local(), |app| app);
    // The reset is found by an event, or by sending.
    for sends in [false, true] {
        let (one, other, _, b) = joined(&running, &log);
        let gate = Gate::before(running.engine(), 0);
        if sends {
            one.send("question");
        }
        other.send("answer");
        other.reset();
        drop(gate);
        let (bytes, end) = one.recv_to_any_end();
        assert_eq!(bytes, b"answer");
        assert!(Client::is_reset(&end), "{end:?}");
        assert!(matches!(*end_of(&log, b).1, CloseReason::Reset(_)));
    }
}

#[test]
fn aborting_one_resets_both() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let handle = running.engine().handle(b).expect("is open");
    handle.abort().expect("is asked");
    assert!(Client::is_reset(&one.recv_to_any_end().1));
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    assert!(matches!(*end_of(&log, a).1, CloseReason::Pipe));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Aborted));
}

#[test]
fn closing_one_sends_what_waits_and_closes_both() {
    let (running, log) = start(local(), |app| app.on_open(open_small));
    let (one, other, a, b) = joined(&running, &log);
    let sent = fill(&one);
    let handle = running.engine().handle(a).expect("is open");
    handle.close().expect("is asked");
    assert_eq!(one.recv_to_end(), b"");
    drop(one);
    // What the reactor had received by then arrives; what it had not read is dropped.
    let arrived = other.recv_to_end().len();
    drop(other);
    let (closed, reason) = end_of(&log, a);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
    assert!(arrived > 0 && arrived <= sent, "{arrived} of {sent}");
    let (end, reason) = end_of(&log, b);
    assert!(matches!(*reason, CloseReason::Pipe), "{reason}");
    assert_eq!((end.bytes_out, end.unsent), (arrived as u64, 0));
    assert!(closed.bytes_in >= arrived as u64);
}

#[test]
fn a_timeout_of_one_closes_both() {
    let server = local().idle_timeout(Duration::from_millis(200));
    let (running, log) = start(server, |app| app);
    let (one, other, a, b) = joined(&running, &log);
    // Whatever goes through counts for both.
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(50));
        one.send("tick");
        assert_eq!(other.recv(4), b"tick");
    }
    assert_eq!(log.closed(), 0);
    drop((one.recv_to_end(), other.recv_to_end()));
    drop((one, other));
    let reasons = [end_of(&log, a).1, end_of(&log, b).1];
    let timed_out =
        |reason: &CloseReason| matches!(reason, CloseReason::Timeout(TimeoutKind::Idle));
    assert!(reasons.iter().any(|reason| timed_out(reason)));
    let expected = |reason: &CloseReason| timed_out(reason) || matches!(reason, CloseReason::Pipe);
    assert!(reasons.iter().all(|reason| expected(reason)), "{reasons:?}");
}

#[test]
fn a_shutdown_drains_both() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("last words");
    assert_eq!(other.recv(10), b"last words");
    running.engine().shutdown();
    assert_eq!(one.recv_to_end(), b"");
    assert_eq!(other.recv_to_end(), b"");
    drop((one, other));
    let report = running.join();
    assert_eq!((report.drained, report.forced), (2, 0));
    for id in [a, b] {
        assert!(matches!(*end_of(&log, id).1, CloseReason::Shutdown));
    }
}

#[test]
fn a_panic_at_the_end_of_one_does_not_keep_the_other() {
    expect_panics();
    let (running, log) = start(local(), |app| app.on_close(|_, _, _| panic!("on purpose")));
    let (one, other, ..) = joined(&running, &log);
    one.reset();
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    eventually("both are gone", || running.engine().connections() == 0);
    Client::to(&running).round_trip("business as usual");
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ends_with_bytes_in_a_kernel_pipe_give_it_back() {
    let (running, log) = start(local(), |app| app.on_open(open_small));
    let kernel_pipes = || running.engine().stats().total().kernel_pipes;
    // More than the reactor keeps for the next use.
    for _ in 0..2 {
        let stuck: Vec<_> = (0..8).map(|_| joined(&running, &log)).collect();
        thread::scope(|scope| {
            for (one, ..) in &stuck {
                scope.spawn(|| fill(one));
            }
        });
        eventually("the kernel moves bytes", || kernel_pipes() >= 8);
        for (one, ..) in stuck {
            one.reset();
        }
        eventually("all are gone", || running.engine().connections() == 0);
        eventually("their pipes are closed", || kernel_pipes() <= 4);
    }
}

#[test]
fn descriptors_do_not_leak() {
    alone("ending::descriptors_do_not_leak", || {
        let before = descriptors();
        let server = Server::bind("tcp://127.0.0.1:0").reactors(1);
        let (running, log) = start(server, |app| app.on_open(open_small));
        for n in 0..30 {
            let (one, other, a, _) = joined(&running, &log);
            match n % 4 {
                0 => {
                    one.send(noise(1, 1 << 20));
                    one.end_writes();
                    other.end_writes();
                    assert_eq!(other.recv_to_end().len(), 1 << 20);
                }
                // What is stuck in the kernel's pipe goes with the connection.
                1 => {
                    fill(&one);
                    one.reset();
                }
                2 => {
                    fill(&one);
                    let handle = running.engine().handle(a).expect("is open");
                    handle.abort().expect("is asked");
                }
                _ => drop((one, other)),
            }
        }
        eventually("all are gone", || running.engine().connections() == 0);
        running.engine().shutdown();
        drop(running.join());
        assert_eq!(descriptors(), before);
    });
}
