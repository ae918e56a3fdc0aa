//! A peer that does not read affects only itself, and an idle one costs little.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::Action;

use crate::peer::Peer;
use crate::pki::{client_config, local, server_tls};
use crate::util::app::{Gate, What, start};
use crate::util::client::{Client, shrink};
use crate::util::process::{alone, descriptors};
use crate::util::{LONG, eventually, noise};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn slow_reader_does_not_delay_others() {
    const FLOOD: usize = 16 * MIB;
    let server = local(&server_tls()).high_water(64 * KIB);
    let (running, log) = start(server, |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let buffered = || running.engine().stats().total().buffered as usize;
    let client = Client::with_small_window(&running);
    let slow = Peer::over(client, &client_config().into(), "localhost").expect("shakes hands");
    let sent = noise(1, FLOOD);
    let bystander = Peer::to(&running);
    thread::scope(|scope| {
        scope.spawn(|| slow.send(&sent));
        eventually("it has stalled", || buffered() > 32 * KIB);
        let mut most = 0;
        for _ in 0..300 {
            bystander.round_trip("ping");
            most = most.max(buffered());
        }
        assert!(
            most < 2 * MIB,
            "{most} bytes are held for a peer that does not read"
        );
        let bytes_in = running.engine().stats().total().bytes_in as usize;
        assert!(bytes_in < FLOOD, "its own input is held back");
        // It resumes, and nothing is missing.
        assert!(slow.recv(FLOOD) == sent);
    });
    assert!(log.count(|what| matches!(what, What::Drain)) > 0);
    eventually("no buffer is held", || buffered() == 0);
    assert_eq!(log.closed(), 0);
}

#[test]
fn paused_reads_resume_with_what_was_decrypted() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.on_open(|conn| {
            conn.pause_reads();
            true
        })
    });
    let peer = Peer::to(&running);
    let sent = noise(2, 300 * KIB);
    thread::scope(|scope| {
        scope.spawn(|| peer.send(&sent));
        let handle = running.engine().handle(log.await_open(0));
        let handle = handle.expect("is open");
        assert_eq!(log.frames(), 0);
        handle
            .run(|_, conn, _| conn.resume_reads())
            .expect("is open");
        assert!(peer.recv(sent.len()) == sent);
    });
}

#[test]
fn a_peer_that_takes_records_slowly_has_not_stalled() {
    const SENT: usize = 60 * KIB;
    let server = local(&server_tls()).write_stall_timeout(Duration::from_millis(1500));
    let (running, log) = start(server, |app| {
        app.on_open(|conn| {
            shrink(conn);
            conn.write(&noise(4, SENT)).expect("is taken");
            true
        })
    });
    let client = Client::with_small_window(&running);
    let slow = Peer::over(client, &client_config().into(), "localhost").expect("shakes hands");
    // All of it is encrypted at once, and takes longer than the timeout.
    for _ in 0..SENT / KIB {
        thread::sleep(Duration::from_millis(50));
        slow.recv(KIB);
    }
    assert_eq!(log.closed(), 0);
}

#[test]
fn what_is_encrypted_and_not_sent_is_buffered_out() {
    const SENT: usize = 60 * KIB;
    let (seen, sightings) = mpsc::channel();
    let (running, _) = start(local(&server_tls()), move |app| {
        let seen = seen.clone();
        app.on_open(|conn| {
            shrink(conn);
            conn.write(&noise(5, SENT)).expect("is taken");
            conn.set_timer(Duration::from_millis(1), 0);
            true
        })
        .on_timer(move |conn, _, _| {
            seen.send(conn.buffered_out()).expect("is awaited");
            conn.set_timer(Duration::from_millis(1), 0);
            Action::Continue
        })
    });
    let client = Client::with_small_window(&running);
    let peer = Peer::over(client, &client_config().into(), "localhost").expect("shakes hands");
    let waiting = || sightings.recv_timeout(LONG).expect("is seen");
    let first = waiting();
    assert!(0 < first && first <= SENT, "{first} of {SENT} bytes wait");
    peer.recv(SENT);
    eventually("nothing waits", || waiting() == 0);
}

#[test]
fn no_descriptor_leaks() {
    alone("flow::no_descriptor_leaks", || {
        let (running, _) = start(local(&server_tls()), |app| app);
        let gone = || running.engine().connections() == 0;
        Peer::to(&running).round_trip("so that everything is set up");
        eventually("it is gone", gone);
        let before = descriptors();
        for n in 0..40 {
            match n % 4 {
                0 => Peer::to(&running).round_trip("a good one"),
                1 => Client::to(&running).send("a plain one"),
                2 => Client::to(&running).reset(),
                _ => Peer::to(&running).close_notify(),
            }
        }
        eventually("all are gone", gone);
        eventually("all descriptors are closed", || descriptors() == before);
    });
}

#[test]
fn a_peer_that_reads_slowly_has_its_answer_drained() {
    let limit = Duration::from_millis(400);
    let server = local(&server_tls()).write_stall_timeout(limit);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            conn.write_shared(vec![0; 32 << 20]).expect("is taken");
            Action::Close
        })
    });
    // So slow that the kernel has no room to announce all the while.
    let client = Client::with_small_window(&running);
    let peer = Peer::over(client, &client_config().into(), "localhost").expect("shakes hands");
    peer.send("go");
    let began = Instant::now();
    while began.elapsed() < 5 * limit {
        peer.recv(2000);
        thread::sleep(limit / 40);
    }
    assert_eq!(log.closed(), 0);
}

#[test]
fn what_follows_urgent_data_is_handled_without_waiting_for_more() {
    let (running, _) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    peer.round_trip("hello");
    let gate = Gate::before(running.engine(), 0);
    peer.send(b"before");
    // Between two records.
    peer.client.0.send_out_of_band(b"!").expect("sends");
    peer.send(b"behind");
    drop(gate);
    assert_eq!(peer.recv(12), b"beforebehind");
    peer.round_trip("and so it goes on");
}
