//! A large write is offered to the kernel at once, and everything that is promised of writes holds for it, too.

use std::io::{IoSlice, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::codec::LengthField;
use epicycle::{Action, CloseReason, Conn, TimeoutKind, WriteError};

use crate::util::app::{App, Cut, Gate, What, local, start, start_either};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, eventually, noise};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Lets one thread tell another that it may go on.
fn signal() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
    let (go, wait) = mpsc::channel();
    (go, Arc::new(Mutex::new(wait)))
}

fn await_signal(wait: &Mutex<mpsc::Receiver<()>>) {
    let wait = wait.lock().expect("no panics");
    wait.recv_timeout(LONG).expect("it comes");
}

#[test]
fn a_large_write_arrives_while_its_callback_still_runs() {
    let (go, wait) = signal();
    let (running, _log) = start(local(), move |app| {
        let wait = wait.clone();
        app.react(move |conn, _, _| {
            conn.write(&[1; 20 * KIB]).expect("is taken");
            await_signal(&wait);
            conn.write_vectored(&[IoSlice::new(&[2; 12 * KIB]), IoSlice::new(&[3; 12 * KIB])])
                .expect("is taken");
            await_signal(&wait);
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert_eq!(client.recv(20 * KIB), [1; 20 * KIB]);
    go.send(()).expect("is awaited");
    let expected = [[2; 12 * KIB], [3; 12 * KIB]].concat();
    assert_eq!(client.recv(24 * KIB), expected);
    go.send(()).expect("is awaited");
}

/// Writes to all connections of the reactor but this one.
fn write_to_others(conn: &mut Conn<'_, App>, bytes: &[u8]) {
    let mut written = Ok(());
    conn.reactor()
        .for_each(|other, _| written = other.write(bytes));
    written.expect("is taken");
}

#[test]
fn a_large_write_to_another_connection_arrives_while_the_callback_still_runs() {
    let (go, wait) = signal();
    let (running, log) = start(local(), move |app| {
        let wait = wait.clone();
        app.react(move |conn, _, _| {
            write_to_others(conn, &[1; 20 * KIB]);
            await_signal(&wait);
            Action::Continue
        })
    });
    let receiver = Client::to(&running);
    log.await_open(0);
    let sender = Client::to(&running);
    sender.send("go");
    assert_eq!(receiver.recv(20 * KIB), [1; 20 * KIB]);
    assert_eq!(running.engine().stats().total().panics, 0);
    go.send(()).expect("is awaited");
}

/// Runs `write` in a callback. Returns the number of bytes that wait behind it, and what arrives.
fn waiting<const SHOWS: bool>(
    len: usize,
    write: impl Fn(&mut Conn<'_, App<SHOWS>>) + Send + Sync + 'static,
) -> (usize, Vec<u8>) {
    let (tell, told) = mpsc::channel();
    let write = Arc::new(write);
    let (running, _log) = start_either::<SHOWS>(local(), move |app| {
        let (tell, write) = (tell.clone(), write.clone());
        app.codec(Cut::Length(LengthField::default()))
            .react(move |conn, _, _| {
                write(conn);
                tell.send(conn.buffered_out()).expect("is awaited");
                Action::Continue
            })
    });
    let client = Client::to(&running);
    client.send(b"\0\0\0\x02go");
    (
        told.recv_timeout(LONG).expect("it is called"),
        client.recv(len),
    )
}

#[test]
fn only_a_large_write_in_front_of_all_others_leaves_at_once() {
    let expected = |parts: &[(u8, usize)]| -> Vec<u8> {
        parts
            .iter()
            .flat_map(|(byte, len)| vec![*byte; *len])
            .collect()
    };
    let (waits, arrives) = waiting::<false>(20 * KIB + 10, |conn| {
        conn.write(&[1; 20 * KIB]).expect("is taken");
        conn.write(&[2; 10]).expect("is taken");
    });
    assert_eq!(waits, 10);
    assert_eq!(arrives, expected(&[(1, 20 * KIB), (2, 10)]));

    let (waits, arrives) = waiting::<false>(40 * KIB + 10, |conn| {
        conn.write(&[1; 10]).expect("is taken");
        conn.write(&[2; 20 * KIB]).expect("is taken");
        conn.write(&[3; 20 * KIB]).expect("is taken");
    });
    assert_eq!(waits, 40 * KIB + 10);
    assert_eq!(arrives, expected(&[(1, 10), (2, 20 * KIB), (3, 20 * KIB)]));

    let (waits, arrives) = waiting::<false>(16 * KIB - 1, |conn| {
        conn.write(&[1; 16 * KIB - 1]).expect("is taken");
    });
    assert_eq!(waits, 16 * KIB - 1);
    assert_eq!(arrives, [1; 16 * KIB - 1]);

    // The codec has copied it already, and shared bytes are not copied.
    let (waits, _) = waiting::<false>(4 + 20 * KIB, |conn| {
        conn.send(&[1; 20 * KIB]).expect("is taken");
    });
    assert_eq!(waits, 4 + 20 * KIB);
    let (waits, _) = waiting::<false>(20 * KIB, |conn| {
        conn.write_shared(vec![1; 20 * KIB]).expect("is taken");
    });
    assert_eq!(waits, 20 * KIB);
}

#[test]
fn a_handler_with_pre_write_has_nothing_leave_at_once() {
    let (waits, arrives) = waiting::<true>(20 * KIB, |conn| {
        conn.write(&[1; 20 * KIB]).expect("is taken");
    });
    assert_eq!(waits, 20 * KIB);
    assert_eq!(arrives, [1; 20 * KIB]);
}

#[test]
fn a_completion_behind_a_large_write_is_called_when_all_has_left() {
    let (tell, told) = mpsc::channel();
    let (running, _log) = start(local(), move |app| {
        let tell = tell.clone();
        app.react(move |conn, _, _| {
            let tell = tell.clone();
            conn.write(&[1; 20 * KIB]).expect("is taken");
            let done = move |sent: Result<(), _>| tell.send(sent.is_ok()).expect("is awaited");
            conn.write_then("end", done).into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert!(told.recv_timeout(LONG).expect("it is called"));
    assert!(client.recv(20 * KIB + 3).ends_with(b"\x01end"));
    assert_eq!(
        running.engine().stats().total().bytes_out,
        20 * KIB as u64 + 3
    );
}

#[test]
fn the_rest_of_a_large_write_counts_against_the_outbound_limit_and_is_sent_later() {
    let (tell, told) = mpsc::channel();
    let (running, log) = start(local().outbound_limit(64 * KIB), move |app| {
        let tell = tell.clone();
        app.react(move |conn, _, frame| {
            if frame == b"more" {
                return conn.write(b"more").into();
            }
            shrink(conn);
            conn.write(&noise(1, MIB)).expect("is taken");
            let rest = conn.buffered_out();
            let refused = conn.write(&[0; MIB]);
            let is_full = matches!(refused, Err(WriteError::Full { queued, .. }) if queued == rest);
            tell.send((rest, is_full)).expect("is awaited");
            Action::Continue
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    let (rest, is_full) = told.recv_timeout(LONG).expect("it is called");
    assert!(0 < rest && rest < MIB, "{rest}");
    assert!(is_full);
    assert!(client.recv(MIB) == noise(1, MIB));
    eventually("there is room", || {
        log.count(|what| matches!(what, What::Drain)) == 1
    });
    client.round_trip("more");
}

#[test]
fn a_close_and_a_half_close_behind_a_large_write_send_all_of_it() {
    for closes in [true, false] {
        let (running, log) = start(local(), move |app| {
            app.react(move |conn, _, frame| {
                if frame == b"end" {
                    return Action::Close;
                }
                shrink(conn);
                let bytes = noise(2, MIB);
                let (first, second) = bytes.split_at(10);
                conn.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
                    .expect("is taken");
                if closes {
                    return Action::Close;
                }
                conn.shutdown_write();
                Action::Continue
            })
        });
        let client = Client::with_small_window(&running);
        client.send("go");
        assert!(client.recv_to_end() == noise(2, MIB));
        client.send("end");
        drop(client);
        let (closed, _) = log.await_close(0);
        assert_eq!((closed.bytes_out, closed.unsent), (MIB as u64, 0));
    }
}

#[test]
fn a_peer_that_does_not_take_the_rest_of_a_large_write_times_out() {
    let server = local().write_stall_timeout(Duration::from_millis(50));
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            conn.write(&[0; MIB]).into()
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    let (_, reason) = log.await_close(0);
    let is_stall = matches!(*reason, CloseReason::Timeout(TimeoutKind::WriteStall));
    assert!(is_stall, "{reason:?}");
}

/// Resets a connection while a callback waits, which then writes to it. Returns the reason of its end.
fn written_to_after_a_reset<const SHOWS: bool>() -> Arc<CloseReason> {
    let (go, wait) = signal();
    let (running, log) = start_either::<SHOWS>(local(), move |app| {
        let wait = wait.clone();
        app.react(move |conn, _, _| {
            await_signal(&wait);
            for _ in 0..3 {
                conn.write(&[0; 20 * KIB]).expect("is taken");
                assert!(conn.is_open());
            }
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    eventually("it is called", || log.frames() == 1);
    client.reset();
    go.send(()).expect("is awaited");
    log.await_close(0).1
}

#[test]
fn a_reset_that_a_large_write_finds_closes_the_connection_behind_the_callback() {
    let usual = written_to_after_a_reset::<true>();
    assert!(matches!(*usual, CloseReason::Reset(_)), "{usual:?}");
    let at_once = written_to_after_a_reset::<false>();
    assert_eq!(at_once.to_string(), usual.to_string());
}

#[test]
fn a_reset_that_a_large_write_finds_is_the_reason_although_a_read_comes_before_the_flush() {
    let (running, log) = start(local(), |app| {
        let mut calls = 0;
        app.react(move |conn, _, _| {
            calls += 1;
            if calls == 1 {
                return Action::Continue;
            }
            conn.write(&[0; 20 * KIB]).into()
        })
    });
    let client = Client::to(&running);
    log.await_open(0);
    let gate = Gate::before(running.engine(), 0);
    // Two reads, and the end follows at once.
    client.send([0; 120 * KIB]);
    client.reset();
    drop(gate);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    assert_eq!(log.count(|what| matches!(what, What::PeerShutdown)), 0);
}

#[test]
fn a_callback_that_writes_while_there_is_room_ends_although_its_peer_keeps_pace() {
    let peer = Arc::<Mutex<Option<Client>>>::default();
    let (tell, told) = mpsc::channel();
    let (for_app, for_test) = (peer.clone(), peer);
    let (running, _log) = start(local(), move |app| {
        let (tell, peer) = (tell.clone(), for_app.clone());
        app.react(move |conn, _, _| {
            let peer = peer.lock().expect("no panics");
            let mut stream = &peer.as_ref().expect("is there").0;
            stream.set_nonblocking(true).expect("is set");
            let mut written = 0;
            // The kernel always has room, as the other end is read here.
            while conn.has_room() && written < 64 * MIB {
                conn.write(&[0; 64 * KIB]).expect("is taken");
                written += 64 * KIB;
                let mut into = [0; 64 * KIB];
                while stream.read(&mut into).is_ok_and(|n| n > 0) {}
            }
            stream.set_nonblocking(false).expect("is set");
            tell.send(written).expect("is awaited");
            Action::Continue
        })
    });
    let client = Client::to(&running);
    *for_test.lock().expect("no panics") = Some(client.clone());
    client.send("go");
    let written = told.recv_timeout(LONG).expect("it ends");
    // The first one, another MiB, and a MiB up to the high-water mark.
    assert!(written <= 2 * MIB + 192 * KIB, "{written}");
}
