//! Echoes over every way to accept, to connect and to write.

mod util;

use std::io::IoSlice;
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;

use bytes::Bytes;
use epicycle::codec::LengthField;
use epicycle::{AcceptMode, Action, Handle, Running, Server};

use crate::util::app::{App, Cut, Log, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::{eventually, noise};

const MIB: usize = 1 << 20;

/// Who accepts.
#[derive(Clone, Copy, Debug)]
enum Mode {
    RoundRobin,
    ReusePort,
    SingleLoop,
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
enum Way {
    Inline,
    OtherThread,
    Vectored,
}

const MODES: [Mode; 3] = [Mode::RoundRobin, Mode::ReusePort, Mode::SingleLoop];

#[test]
fn tcp_echoes_inline_in_every_mode() {
    matrix(Way::Inline, false);
}

#[test]
fn tcp_echoes_from_another_thread_in_every_mode() {
    matrix(Way::OtherThread, false);
}

#[test]
fn tcp_echoes_vectored_in_every_mode() {
    matrix(Way::Vectored, false);
}

#[test]
fn unix_echoes_inline_in_every_mode() {
    matrix(Way::Inline, true);
}

#[test]
fn unix_echoes_from_another_thread_in_every_mode() {
    matrix(Way::OtherThread, true);
}

#[test]
fn unix_echoes_vectored_in_every_mode() {
    matrix(Way::Vectored, true);
}

fn matrix(way: Way, unix: bool) {
    let seed = fastrand::u64(..);
    for mode in MODES {
        for reactors in [1, 4] {
            if matches!(mode, Mode::SingleLoop) && reactors > 1 {
                continue;
            }
            // Shown when the test fails.
            println!("{mode:?}, {reactors} reactors, {way:?}, unix: {unix}, seed {seed}");
            let path = TempPath::new();
            let addr = if unix {
                path.addr()
            } else {
                "tcp://127.0.0.1:0".to_owned()
            };
            let server = match mode {
                Mode::RoundRobin => Server::bind(addr).reactors(reactors),
                Mode::ReusePort => Server::bind(addr)
                    .reactors(reactors)
                    .accept_mode(AcceptMode::ReusePort),
                Mode::SingleLoop => Server::bind(addr).accept_mode(AcceptMode::SingleLoop),
            };
            let (running, log) = echo(server, way);
            exchange(&running, &mut fastrand::Rng::with_seed(seed));
            let report = running.shutdown();
            assert_eq!((report.forced, log.opened()), (0, log.closed()));
            assert_eq!(
                report.stats.total().bytes_in,
                report.stats.total().bytes_out
            );
        }
    }
}

/// Several clients at once, each with a few payloads of random size, one of them the largest.
fn exchange(running: &Running<App>, random: &mut fastrand::Rng) {
    static PAYLOAD: LazyLock<Vec<u8>> = LazyLock::new(|| noise(1, 8 * MIB + 251));
    let mut sizes = vec![8 * MIB];
    sizes.extend((0..11).map(|_| size_to(8 * MIB, random)));
    random.shuffle(&mut sizes);
    thread::scope(|scope| {
        for sizes in sizes.chunks(3) {
            let start = random.usize(..251);
            scope.spawn(move || {
                let client = Client::to(running);
                for size in sizes {
                    client.echo_all(&PAYLOAD[start..start + size]);
                }
            });
        }
    });
}

/// A random size, as often small as large: the magnitude is random, then the size within it.
fn size_to(max: usize, random: &mut fastrand::Rng) -> usize {
    let magnitude = random.u32(1..=max.ilog2());
    random.usize(1..=1 << magnitude)
}

fn echo(server: Server, way: Way) -> (Running<App>, Arc<Log>) {
    match way {
        Way::Inline => start(server, |app| app),
        Way::Vectored => start(server, |app| {
            app.react(|conn, _, frame| {
                let (a, rest) = frame.split_at(frame.len() / 3);
                let (b, c) = rest.split_at(rest.len() / 7);
                let slices = [a, b, &[], c].map(IoSlice::new);
                conn.write_vectored(&slices).into()
            })
        }),
        Way::OtherThread => {
            let (sender, receiver) = mpsc::channel::<(Handle<App>, Bytes)>();
            thread::spawn(move || {
                for (handle, bytes) in receiver {
                    handle.write(bytes).expect("taken");
                }
            });
            start(server, move |app| {
                let sender = sender.clone();
                app.react(move |conn, _, frame| {
                    let frame = Bytes::copy_from_slice(frame);
                    sender
                        .send((conn.handle(), frame))
                        .expect("the writer lives");
                    Action::Continue
                })
            })
        }
    }
}

#[test]
fn frames_split_at_every_byte_come_back_whole() {
    let (running, _) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    let mut stream = Vec::new();
    for frame in [&b"ab"[..], b"", b"xyz", &[7; 40]] {
        stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        stream.extend_from_slice(frame);
    }
    let bytes_in = || running.engine().stats().total().bytes_in;
    let client = Client::to(&running);
    for split in 1..stream.len() {
        let before = bytes_in();
        client.send(&stream[..split]);
        eventually("the first part arrives by itself", || {
            bytes_in() == before + split as u64
        });
        client.send(&stream[split..]);
        assert_eq!(client.recv(stream.len()), stream, "split at {split}");
    }
    // And byte by byte.
    let before = bytes_in();
    for (n, byte) in stream.iter().enumerate() {
        client.send([*byte]);
        eventually("a byte arrives", || bytes_in() == before + n as u64 + 1);
    }
    assert_eq!(client.recv(stream.len()), stream);
}

#[test]
fn large_frames_split_anywhere_come_back_whole() {
    let (running, _) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = Vec::new();
    while stream.len() < 6 * MIB {
        let frame = noise(seed, size_to(MIB, &mut random));
        stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        stream.extend_from_slice(&frame);
    }
    let client = Client::to(&running);
    let writer = client.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let n = random.usize(1..=128 << 10).min(rest.len());
                writer.send(&rest[..n]);
                rest = &rest[n..];
            }
        });
        assert!(client.recv(stream.len()) == stream);
    });
}

#[test]
fn every_address_of_a_server_is_served() {
    let (first, second) = (TempPath::new(), TempPath::new());
    for mode in MODES {
        let server = Server::bind("tcp4://127.0.0.1:0")
            .and("tcp://localhost:0")
            .and(first.addr())
            .and(second.addr());
        let server = match mode {
            Mode::RoundRobin => server.reactors(2),
            Mode::ReusePort => server.reactors(2).accept_mode(AcceptMode::ReusePort),
            Mode::SingleLoop => server.accept_mode(AcceptMode::SingleLoop),
        };
        let (running, log) = start(server, |app| app);
        let clients: Vec<_> = running.local_addrs().iter().map(Client::connect).collect();
        assert_eq!(clients.len(), 4);
        for client in &clients {
            client.round_trip("hello");
        }
        drop(clients);
        eventually("all close", || log.closed() == 4);
    }
}
