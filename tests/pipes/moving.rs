//! The bytes through a pipe: all of them, in order, at the pace of the slower end.

use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::CloseReason;

use crate::util::app::{Gate, What, local, start, start_shown};
use crate::util::client::{Client, TempPath};
use crate::util::{eventually, noise};
use crate::{end_of, fill, join, joined, send_in_pieces, with};

#[test]
fn both_directions_arrive_byte_by_byte_and_are_counted() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let (there, back) = (noise(1, 64 << 20), noise(2, 64 << 20));
    thread::scope(|scope| {
        scope.spawn(|| send_in_pieces(&one, &there, 3));
        scope.spawn(|| send_in_pieces(&other, &back, 4));
        scope.spawn(|| assert!(one.recv_to_end() == back, "it differs on the way back"));
        assert!(other.recv_to_end() == there, "it differs on the way there");
    });
    for (id, received, sent) in [(a, &there, &back), (b, &back, &there)] {
        let (closed, reason) = end_of(&log, id);
        assert!(matches!(*reason, CloseReason::Peer), "{reason}");
        let counted = (closed.bytes_in, closed.bytes_out, closed.unsent);
        assert_eq!(counted, (received.len() as u64, sent.len() as u64, 0));
    }
    assert_eq!(log.frames(), 0);
    let told = |what: &What| matches!(what, What::PeerShutdown | What::Drain);
    assert_eq!(log.count(told), 0);
}

#[test]
fn small_messages_go_to_and_fro() {
    let (running, log) = start(local(), |app| app);
    let (one, other, ..) = joined(&running, &log);
    for n in 0..1000_u32 {
        one.send(n.to_be_bytes());
        assert_eq!(other.recv(4), n.to_be_bytes());
        other.send(n.to_le_bytes());
        assert_eq!(one.recv(4), n.to_le_bytes());
    }
}

#[test]
fn many_pairs_share_a_reactor() {
    let (running, log) = start(local(), |app| app);
    let pairs: Vec<_> = (0..50).map(|_| joined(&running, &log)).collect();
    thread::scope(|scope| {
        for (seed, (one, other, ..)) in pairs.iter().enumerate() {
            let bytes = noise(seed as u64, 1 << 20);
            let sent = bytes.clone();
            scope.spawn(move || send_in_pieces(one, &sent, seed as u64));
            scope.spawn(move || assert!(other.recv_to_end() == bytes, "it differs"));
        }
    });
}

#[test]
fn a_unix_socket_and_a_tcp_one_can_be_joined() {
    let path = TempPath::new();
    let (running, log) = start(local().and(path.addr()), |app| app);
    let one = Client::to(&running);
    let a = log.await_open(0);
    let other = Client::connect(&running.local_addrs()[1]);
    let b = log.await_open(1);
    join(&running, a, b).expect("joins");
    let (there, back) = (noise(8, 16 << 20), noise(9, 16 << 20));
    thread::scope(|scope| {
        scope.spawn(|| send_in_pieces(&one, &there, 10));
        scope.spawn(|| send_in_pieces(&other, &back, 11));
        scope.spawn(|| assert!(one.recv_to_end() == back, "it differs on the way back"));
        assert!(other.recv_to_end() == there, "it differs on the way there");
    });
}

#[test]
fn only_the_applications_own_bytes_are_shown_before_they_are_sent() {
    static SHOWN: AtomicUsize = AtomicUsize::new(0);
    let (running, log) = start_shown(local(), |app| {
        app.on_open(|conn| {
            conn.write(b"welcome").expect("is taken");
            true
        })
        .pre_write(|_, bytes| {
            SHOWN.fetch_add(bytes.len(), Ordering::Relaxed);
        })
    });
    let (one, other, ..) = joined(&running, &log);
    one.send(noise(5, 1 << 20));
    one.end_writes();
    assert_eq!(other.recv_to_end().len(), 7 + (1 << 20));
    assert_eq!(SHOWN.load(Ordering::Relaxed), 14);
}

#[test]
fn one_that_is_paused_holds_its_direction_up() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, _) = joined(&running, &log);
    with(&running, a, |conn| {
        conn.pause_reads();
    });
    one.send("wait");
    other.send("go");
    assert_eq!(one.recv(2), b"go");
    assert_eq!(running.engine().stats().total().bytes_in, 2);
    with(&running, a, |conn| {
        conn.resume_reads();
    });
    assert_eq!(other.recv(4), b"wait");
}

#[test]
fn a_slow_end_is_waited_for_in_little_memory_and_delays_nobody_else() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let bystander = Client::to(&running);
    bystander.round_trip("before");
    let sent = fill(&one);
    let waits = |id| with(&running, id, |conn| conn.buffered_out());
    assert!(waits(b) > 0 && waits(b) <= 1 << 20, "{}", waits(b));
    assert_eq!(waits(a), 0);
    assert!(running.engine().stats().total().buffered <= 1 << 20);
    for _ in 0..100 {
        bystander.round_trip("meanwhile");
    }
    // The other direction is not stuck.
    other.send("hello");
    assert_eq!(one.recv(5), b"hello");
    let mut chunk = vec![0; 64 << 10];
    let expected = noise(6, 64 << 10);
    let mut received = 0;
    while received < sent {
        let n = (&other.0).read(&mut chunk).expect("receives");
        assert!(n > 0, "it ends after {received} of {sent}");
        for (at, byte) in chunk[..n].iter().enumerate() {
            assert_eq!(*byte, expected[(received + at) % expected.len()]);
        }
        received += n;
    }
    one.end_writes();
    assert_eq!(other.recv_to_end(), b"");
}

#[test]
fn more_slow_ends_than_there_are_kernel_pipes_all_get_their_bytes() {
    let (running, log) = start(local(), |app| app);
    let pairs: Vec<_> = (0..40).map(|_| joined(&running, &log)).collect();
    let bytes = noise(7, 8 << 20);
    thread::scope(|scope| {
        for (one, ..) in &pairs {
            scope.spawn(|| {
                one.send(&bytes);
                one.end_writes();
            });
        }
        // All are stuck before the first is read.
        let total = || running.engine().stats().total().bytes_in;
        let mut last = 0;
        eventually("nothing moves", || {
            let before = std::mem::replace(&mut last, total());
            thread::sleep(Duration::from_millis(20));
            before > 0 && before == total()
        });
        for (_, other, ..) in &pairs {
            assert!(other.recv_to_end() == bytes, "it differs");
        }
    });
}

#[test]
fn a_joined_pair_costs_no_turns_while_nothing_moves() {
    let (running, log) = start(local(), |app| app);
    let (one, other, ..) = joined(&running, &log);
    let stuck = joined(&running, &log);
    fill(&stuck.0);
    one.send("hello");
    assert_eq!(other.recv(5), b"hello");
    let turns = || running.engine().stats().total().turns;
    let last = AtomicU64::new(0);
    eventually("it is quiet", || {
        let before = last.swap(turns(), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
        turns() - before < 5
    });
}

#[test]
fn what_follows_urgent_data_goes_through_without_waiting_for_more() {
    for ends in [false, true] {
        let (running, log) = start(local(), |app| app);
        let (one, other, ..) = joined(&running, &log);
        let (before, behind) = (noise(12, 120 << 10), noise(13, 60 << 10));
        let gate = Gate::before(running.engine(), 0);
        // So much that the kernel moves it by itself, which it does not beyond the mark.
        one.send(&before);
        one.0.send_out_of_band(b"!").expect("sends");
        one.send(&behind);
        if ends {
            one.end_writes();
        }
        drop(gate);
        let expected = [before, behind].concat();
        assert!(other.recv(expected.len()) == expected, "it differs");
        if ends {
            assert_eq!(other.recv_to_end(), b"");
        } else {
            one.send("more");
            assert_eq!(other.recv(4), b"more");
        }
    }
}
