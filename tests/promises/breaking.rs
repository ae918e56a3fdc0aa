//! A connection reset by its peer: input that arrived before is still passed to the handler.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::{Action, CloseReason, Running, Server};

use crate::util::app::{App, Gate, Log, local, start};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, noise};

const MIB: usize = 1 << 20;

/// Bytes that are all in the kernel of a server that does not read.
const LEN: usize = 40_000;

/// What has been handed out.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A server that writes down what it hears.
fn listening(
    server: Server,
    make: impl Fn(App) -> App + Send + Sync + 'static,
) -> (Running<App>, Arc<Log>, Heard) {
    let heard = Heard::default();
    let for_app = heard.clone();
    let (running, log) = start(server.fin_timeout(10 * LONG), move |app| {
        let heard = for_app.clone();
        make(app.react(move |_, _, bytes| {
            heard.lock().expect("is sound").extend_from_slice(bytes);
            Action::Continue
        }))
    });
    (running, log, heard)
}

fn assert_all_heard(log: &Log, n: usize, heard: &Heard, expected: &[u8]) {
    let (closed, reason) = log.await_close(n);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    let heard = std::mem::take(&mut *heard.lock().expect("is sound"));
    assert!(heard == expected, "{} bytes are heard", heard.len());
    assert_eq!(closed.bytes_in, expected.len() as u64);
}

#[test]
fn what_arrived_before_a_reset_is_handed_out_though_a_write_finds_it() {
    let heard = Heard::default();
    let (for_app, path) = (heard.clone(), TempPath::new());
    let (release, released) = mpsc::channel();
    let released = Arc::new(Mutex::new(released));
    let server = local().and(path.addr());
    let (running, log) = start(server, move |app| {
        let (heard, released) = (for_app.clone(), released.clone());
        app.react(move |conn, _, bytes| {
            if bytes == b"wait" {
                let released = released.lock().expect("is sound");
                released.recv_timeout(LONG).expect("the test says so");
            }
            heard.lock().expect("is sound").extend_from_slice(bytes);
            conn.write(b"an answer").into()
        })
    });
    let bytes = noise(1, LEN);
    for (n, addr) in running.local_addrs().iter().enumerate() {
        let before = log.frames();
        let client = Client::connect(addr);
        client.send("wait");
        eventually("it waits", || log.frames() > before);
        client.send(&bytes);
        client.reset();
        release.send(()).expect("is awaited");
        assert_all_heard(&log, n, &heard, &[b"wait", &bytes[..]].concat());
    }
}

#[test]
fn what_arrived_before_a_reset_is_handed_out_though_output_waits() {
    let path = TempPath::new();
    let (running, log, heard) = listening(local().and(path.addr()), |app| {
        app.on_open(|conn| {
            shrink(conn);
            conn.write_shared(vec![0; 8 * MIB]).expect("is taken");
            true
        })
    });
    let bytes = noise(2, LEN);
    for (n, addr) in running.local_addrs().iter().enumerate() {
        let client = Client::connect(addr);
        client.recv(1);
        client.send(&bytes);
        client.reset();
        assert_all_heard(&log, n, &heard, &bytes);
    }
}

#[test]
fn what_arrived_before_a_reset_is_handed_out_when_reads_are_resumed() {
    let (running, log, heard) = listening(local(), |app| {
        app.on_open(|conn| {
            conn.pause_reads();
            true
        })
    });
    let bytes = noise(3, LEN);
    let client = Client::to(&running);
    client.send(&bytes);
    let handle = running.engine().handle(log.await_open(0)).expect("is open");
    client.reset();
    handle.write("to nobody").expect("is taken");
    // Each in a turn of its own: by the second, the first has sent what was written.
    for _ in 0..2 {
        drop(Gate::before(running.engine(), 0));
    }
    assert_eq!(log.closed(), 0);
    handle
        .run(|_, conn, _| conn.resume_reads())
        .expect("is open");
    assert_all_heard(&log, 0, &heard, &bytes);
}

#[test]
fn a_reset_is_noticed_while_reads_are_paused() {
    let pause = |app: App| {
        app.on_open(|conn| {
            conn.pause_reads();
            true
        })
    };
    // Where nothing lies unread, at once.
    let (running, log) = start(local().fin_timeout(10 * LONG), pause);
    let client = Client::to(&running);
    log.await_open(0);
    client.reset();
    assert!(matches!(*log.await_close(0).1, CloseReason::Reset(_)));
    // Otherwise there is time to read it, but not for ever.
    let limit = Duration::from_millis(300);
    let (running, log) = start(local().fin_timeout(limit), pause);
    let client = Client::to(&running);
    client.send("unread");
    log.await_open(0);
    client.reset();
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    assert!(closed.open_for >= limit, "after {:?}", closed.open_for);
    assert_eq!(log.frames(), 0);
}

#[test]
fn a_handler_that_closes_amid_what_arrived_before_a_reset_is_heard_no_more_of() {
    let (running, log) = start(local().fin_timeout(10 * LONG), |app| {
        app.on_open(|conn| {
            shrink(conn);
            conn.write_shared(vec![0; 8 * MIB]).expect("is taken");
            true
        })
        .react(|_, _, _| Action::Close)
    });
    let client = Client::to(&running);
    client.recv(1);
    client.send(noise(4, LEN));
    client.reset();
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    assert!(closed.unsent > 0);
    assert_eq!(log.frames(), 1);
}
