//! Writes keep their order, from any thread and by any method, and pending output is always sent.

use std::io::{IoSlice, Read};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use epicycle::codec::{LengthField, Lines};
use epicycle::{Action, Conn};

use crate::util::app::{App, Cut, Session, local, start, start_either};
use crate::util::client::{Client, shrink};
use crate::util::{eventually, noise};

const MIB: usize = 1 << 20;

/// Writes parts of the frame and other things, in a random order that the frame determines; gives what
/// was written.
fn scribble<const SHOWS: bool>(conn: &mut Conn<'_, App<SHOWS>>, frame: &[u8]) -> Vec<u8> {
    let seed = frame
        .iter()
        .fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(*byte));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Vec::new();
    for _ in 0..random.usize(1..6) {
        let start = random.usize(..frame.len());
        let part = &frame[start..random.usize(start..=frame.len())];
        let other = noise(random.u64(..), random.usize(..3000));
        let written = match random.u32(..7) {
            0 | 1 => {
                model.extend_from_slice(part);
                conn.write(part)
            }
            2 => {
                model.extend_from_slice(&other);
                conn.write(&other)
            }
            3 => {
                model.extend_from_slice(&other);
                conn.write_shared(other)
            }
            4 => {
                model.extend_from_slice(&other);
                model.extend_from_slice(part);
                conn.write_vectored(&[IoSlice::new(&other), IoSlice::new(part)])
            }
            5 => {
                model.extend_from_slice(&(other.len() as u32).to_be_bytes());
                model.extend_from_slice(&other);
                conn.send(&other)
            }
            _ => {
                // What is refused leaves no trace.
                assert!(conn.send(vec![0; 3 * MIB]).is_err());
                model.extend_from_slice(&other);
                conn.write_then(other, |flushed| assert!(flushed.is_ok()))
            }
        };
        written.expect("taken");
    }
    model
}

/// Sends frames to a server that scribbles; what arrives, and what `pre_write` saw, is what was written. The handlers are one
/// with `pre_write`, and one without, whose large writes leave at once.
fn scribbling(frames: usize, largest: u32, slow: bool) {
    scribbling_as::<true>(frames, largest, slow);
    scribbling_as::<false>(frames, largest, slow);
}

fn scribbling_as<const SHOWS: bool>(frames: usize, largest: u32, slow: bool) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let seen = Arc::<Mutex<Vec<u8>>>::default();
    let (for_written, for_seen) = (written.clone(), seen.clone());
    let (running, log) = start_either::<SHOWS>(local(), move |app| {
        let (written, seen) = (for_written.clone(), for_seen.clone());
        let app = app
            .codec(Cut::Length(LengthField::default()))
            .on_open(move |conn| {
                if slow {
                    shrink(conn);
                }
                true
            })
            .react(move |conn, _, frame| {
                let model = scribble(conn, frame);
                written.lock().expect("no panics").extend(model);
                Action::Continue
            });
        if !SHOWS {
            return app;
        }
        app.pre_write(move |_, bytes| seen.lock().expect("no panics").extend(bytes))
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = Vec::new();
    for _ in 0..frames {
        let magnitude = random.u32(1..=largest);
        let frame = noise(random.u64(..), random.usize(1..=1 << magnitude));
        stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        stream.extend_from_slice(&frame);
    }
    let client = if slow {
        Client::with_small_window(&running)
    } else {
        Client::to(&running)
    };
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            client.send(&stream);
            client.end_writes();
        });
        client.recv_to_end()
    });
    log.await_close(0);
    let written = written.lock().expect("no panics");
    assert_eq!(log.frames(), frames);
    assert!(
        received == *written,
        "{} of {} bytes",
        received.len(),
        written.len()
    );
    assert!(
        !SHOWS || *seen.lock().expect("no panics") == *written,
        "pre_write saw something else"
    );
}

#[test]
fn writes_in_a_callback_keep_call_order() {
    for _ in 0..20 {
        scribbling(60, 10, false);
        scribbling(30, 19, false);
    }
}

#[test]
fn writes_in_a_callback_keep_call_order_when_the_peer_is_slow() {
    for _ in 0..5 {
        scribbling(100, 10, true);
        scribbling(20, 19, true);
    }
}

#[test]
fn a_small_write_does_not_overtake_a_large_one() {
    let (running, _log) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| {
                conn.write(frame).expect("taken");
                conn.write(b"|").into()
            })
    });
    let client = Client::to(&running);
    for len in [1, 1000, 20_000, 60_000, 500_000] {
        let frame = noise(len as u64, len);
        client.send((len as u32).to_be_bytes());
        client.send(&frame);
        assert!(client.recv(len) == frame, "{len}");
        assert_eq!(client.recv(1), b"|", "{len}");
    }
}

#[test]
fn a_last_frame_without_its_end_is_echoed_whole_and_to_its_sender_only() {
    let (running, _log) = start(local(), |app| {
        app.codec(Cut::Lines(Lines::with_max(MIB)))
            .react(|conn, _, frame| conn.write(frame).into())
    });
    let bystander = Client::to(&running);
    let client = Client::to(&running);
    let line = noise(5, 300_000)
        .iter()
        .map(|byte| byte | 0x80)
        .collect::<Vec<_>>();
    for part in line.chunks(50_000) {
        client.send(part);
        thread::sleep(Duration::from_millis(1));
    }
    client.end_writes();
    assert!(client.recv_to_end() == line);
    bystander.send("mine\n");
    assert_eq!(bystander.recv(4), b"mine");
}

#[test]
fn writes_of_one_thread_keep_their_order() {
    const COUNT: u32 = 20_000;
    let (running, log) = start(local().reactors(2), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..COUNT {
                let word = n.to_be_bytes();
                let taken = match n % 7 {
                    0 => handle.send(word),
                    1 => handle.run(move |_, conn, _| conn.write(&word).expect("taken")),
                    2 => running.engine().broadcast(Bytes::copy_from_slice(&word)),
                    3 => handle.write_accepted(word.to_vec(), |_| ()),
                    4 => handle.write_flushed(word.to_vec(), |_| ()),
                    _ => handle.write(word.to_vec()),
                };
                taken.expect("the mailbox has room");
            }
        });
        for n in 0..COUNT {
            assert_eq!(client.recv(4), n.to_be_bytes());
        }
    });
}

/// Who writes 2 MiB to a peer that stalls.
type Writer = fn(&mut Conn<'_, App>, &mut Session, &[u8]) -> Action;

#[test]
fn output_pending_means_write_interest() {
    const LEN: usize = 2 * MIB;
    let inline: Writer = |conn, _, _| conn.write(&noise(6, LEN)).into();
    let timer: Writer = |conn, _, _| {
        conn.set_timer(Duration::from_millis(1), 0);
        Action::Continue
    };
    let handle: Writer = |conn, _, _| {
        let handle = conn.handle();
        thread::spawn(move || {
            for chunk in noise(6, LEN).chunks(100_000) {
                handle.write(chunk.to_vec()).expect("taken");
            }
        });
        Action::Continue
    };
    for (name, writer) in [("inline", inline), ("timer", timer), ("handle", handle)] {
        let (running, log) = start(local(), move |app| {
            app.react(writer)
                .on_open(|conn| {
                    shrink(conn);
                    true
                })
                .on_timer(|conn, _, _| conn.write(&noise(6, LEN)).into())
        });
        let client = Client::with_small_window(&running);
        client.send("go");
        let expected = noise(6, LEN);
        let bytes_out = || running.engine().stats().total().bytes_out;
        let mut chunk = vec![0; 256 << 10];
        let mut received = 0;
        for read in 0.. {
            if received == LEN {
                break;
            }
            // Stalls until the server has had nothing to do for a while, then reads a little.
            if read < 20 {
                let mut before = 0;
                eventually("the kernel takes no more", || {
                    thread::sleep(Duration::from_millis(2));
                    std::mem::replace(&mut before, bytes_out()) == bytes_out()
                });
            }
            let n = (&client.0).read(&mut chunk).expect("receives");
            assert!(
                n > 0 && chunk[..n] == expected[received..received + n],
                "{name}"
            );
            received += n;
        }
        assert_eq!(log.closed(), 0, "{name}");
    }
}
