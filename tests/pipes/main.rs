//! Joined connections: one sends the bytes that the other receives.

#[path = "../util/mod.rs"]
mod util;

mod ending;
mod joining;
mod moving;

use std::io::{ErrorKind, Write};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::{CloseReason, Closed, Conn, ConnId, PipeError, Reactor, Running};

use crate::util::app::{App, Log, What};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, await_some, noise};

/// Asks the reactor to join two connections.
fn join<const SHOWS: bool>(
    running: &Running<App<SHOWS>>,
    one: ConnId,
    other: ConnId,
) -> Result<(), PipeError> {
    let (answer, answers) = mpsc::channel();
    let task = move |_: &mut App<SHOWS>, reactor: &mut Reactor<'_, App<SHOWS>>| {
        answer.send(reactor.pipe(one, other)).expect("is awaited");
    };
    running.engine().run_on(one.reactor(), task).expect("runs");
    answers.recv_timeout(LONG).expect("answers")
}

/// Two clients whose connections are joined.
fn joined<const SHOWS: bool>(
    running: &Running<App<SHOWS>>,
    log: &Log,
) -> (Client, Client, ConnId, ConnId) {
    let before = log.opened();
    let one = Client::to(running);
    let a = log.await_open(before);
    let other = Client::to(running);
    let b = log.await_open(before + 1);
    join(running, a, b).expect("joins");
    (one, other, a, b)
}

/// How a connection ended.
fn end_of(log: &Log, id: ConnId) -> (Closed, Arc<CloseReason>) {
    await_some("it closes", || {
        log.entries()
            .into_iter()
            .find_map(|entry| match entry.what {
                What::Close(closed, reason) if entry.id == id => Some((closed, reason)),
                _ => None,
            })
    })
}

/// Does something with a connection, and waits until it is done.
fn with<T: Send + 'static>(
    running: &Running<App>,
    id: ConnId,
    task: impl FnOnce(&mut Conn<'_, App>) -> T + Send + 'static,
) -> T {
    let (answer, answers) = mpsc::channel();
    let handle = running.engine().handle(id).expect("is open");
    let task = move |_: &mut App, conn: &mut Conn<'_, App>, _: &mut _| {
        answer.send(task(conn)).expect("is awaited");
    };
    handle.run(task).expect("runs");
    answers.recv_timeout(LONG).expect("answers")
}

/// Sends `bytes` in pieces of random size, then the end of the stream.
fn send_in_pieces(client: &Client, bytes: &[u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = 1 << random.u32(0..20);
        let (piece, behind) = rest.split_at(random.usize(1..=most).min(rest.len()));
        client.send(piece);
        rest = behind;
    }
    client.end_writes();
}

/// Sends until nothing more is taken; returns how much was.
fn fill(client: &Client) -> usize {
    client.0.set_nonblocking(true).expect("is set");
    let chunk = noise(6, 64 << 10);
    let mut sent = 0;
    let mut refused = 0;
    while refused < 100 {
        match (&client.0).write(&chunk[sent % chunk.len()..]) {
            Ok(n) => {
                sent += n;
                refused = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    client.0.set_nonblocking(false).expect("is set");
    sent
}

/// Little fits into the server's sockets, so that much waits in between.
fn open_small(conn: &mut Conn<'_, App>) -> bool {
    shrink(conn);
    true
}
