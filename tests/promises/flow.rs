//! A peer that does not read, or sends too fast or too much, affects only itself.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use epicycle::codec::{Backpressure, Codec, Decoded, FrameError, LengthField, Lines, Raw};
use epicycle::{
    Action, CloseReason, Conn, ConnInfo, EventHandler, OutboundPolicy, Running, WriteError,
};

use crate::util::app::{App, Cut, Gate, Session, What, local, start, start_client};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, eventually, noise};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn buffered(running: &Running<App>) -> usize {
    running.engine().stats().total().buffered as usize
}

#[test]
fn slow_reader_does_not_delay_others() {
    const FLOOD: usize = 16 * MIB;
    let server = local().high_water(64 * KIB);
    let (running, log) = start(server, |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let slow = Client::with_small_window(&running);
    let sent = noise(1, FLOOD);
    let bystander = Client::to(&running);
    thread::scope(|scope| {
        scope.spawn(|| slow.send(&sent));
        eventually("it has stalled", || buffered(&running) > 32 * KIB);
        let mut most = 0;
        for _ in 0..300 {
            bystander.round_trip("ping");
            most = most.max(buffered(&running));
        }
        // The high-water mark, what one turn may receive on top, and room to double.
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
    eventually("no buffer is held", || buffered(&running) == 0);
    assert_eq!(log.closed(), 0);
}

/// Writes much as soon as it is open, and counts what comes.
fn talker(app: App, heard: &Arc<AtomicUsize>) -> App {
    let heard = heard.clone();
    app.on_open(|conn| {
        shrink(conn);
        conn.write_shared(vec![7; 8 * MIB]).expect("is taken");
        true
    })
    .react(move |_, _, bytes| {
        heard.fetch_add(bytes.len(), SeqCst);
        Action::Continue
    })
}

#[test]
fn two_ends_that_both_write_first_hear_each_other() {
    let [by_server, by_client] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let heard = by_server.clone();
    let (server, _log) = start(local(), move |app| talker(app, &heard));
    let heard = by_client.clone();
    let (client, _log) = start_client(epicycle::Client::new(), move |app| talker(app, &heard));
    let addr = server.local_addrs()[0].to_string();
    client.engine().connect(addr.as_str()).expect("is taken");
    for heard in [by_server, by_client] {
        eventually("all is heard", || heard.load(SeqCst) == 8 * MIB);
    }
}

#[test]
fn two_adopted_ends_that_both_write_first_hear_each_other() {
    let heard = Arc::new(AtomicUsize::new(0));
    let by_both = heard.clone();
    let (running, _log) = start_client(epicycle::Client::new(), move |app| talker(app, &by_both));
    let (one, other) = UnixStream::pair().expect("is made");
    for end in [one, other] {
        running.engine().adopt(end, 0).expect("is taken");
    }
    eventually("all is heard", || heard.load(SeqCst) == 16 * MIB);
}

/// Bytes between peers that both send of their own accord.
struct Talk;

impl Codec for Talk {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Raw.decode(src)
    }

    fn backpressure(&self) -> Backpressure {
        Backpressure::ReadOn
    }
}

/// Counts what it hears from peers that do not read what it wrote first.
struct Listener(Arc<AtomicUsize>);

impl EventHandler for Listener {
    type Codec = Talk;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Talk {
        Talk
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        shrink(conn);
        conn.write_shared(vec![7; 8 * MIB]).expect("is taken");
        Some(())
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        self.0.fetch_add(bytes.len(), SeqCst);
        Action::Continue
    }
}

#[test]
fn a_codec_can_have_an_accepted_connection_read_while_its_output_waits() {
    let heard = Arc::new(AtomicUsize::new(0));
    let for_server = heard.clone();
    let running = local().start(move |_| Listener(for_server.clone()));
    let running = running.expect("starts");
    let client = Client::with_small_window(&running);
    client.send(vec![7; 8 * MIB]);
    eventually("all is heard", || heard.load(SeqCst) == 8 * MIB);
    assert_eq!(client.recv(8 * MIB).len(), 8 * MIB);
}

#[test]
fn where_there_is_no_room_on_drain_follows_however_fast_the_kernel_is() {
    const PIECE: usize = 10 * KIB;
    const PIECES: u64 = 1000;
    let server = local().high_water(64 * KIB);
    let (running, log) = start(server, |app| {
        let pump = |conn: &mut Conn<'_, App>, session: &mut Session| {
            while session.number < PIECES && conn.has_room() {
                assert!(conn.buffered_out() <= 64 * KIB);
                session.number += 1;
                conn.write(&[7; PIECE]).expect("far from the limit");
            }
            Action::Continue
        };
        app.react(move |conn, session, _| pump(conn, session))
            .on_drain(pump)
    });
    let client = Client::to(&running);
    client.send("go");
    let received = client.recv(PIECE * PIECES as usize);
    assert!(received.iter().all(|byte| *byte == 7));
    assert!(log.count(|what| matches!(what, What::Drain)) > 10);
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn a_callback_that_leaves_it_at_a_refused_write_closes_with_that_reason() {
    let (running, log) = start(local().outbound_limit(64 << 10), |app| {
        app.react(move |conn, _, _| {
            let refused = loop {
                let written = conn.write_shared(vec![0; 32 << 10]);
                if written.is_err() {
                    break written;
                }
            };
            refused.into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    let stats = || running.engine().stats().total();
    eventually("a write is refused", || stats().overflows > 0);
    client.recv_to_end();
    drop(client);
    let (_, reason) = log.await_close(0);
    let is_full = matches!(&*reason, CloseReason::Refused(WriteError::Full { .. }));
    assert!(is_full, "{reason}");
}

#[test]
fn the_drop_policy_drops_whole_messages_and_keeps_the_connection() {
    const MESSAGE: usize = 8 * KIB;
    let server = local()
        .outbound_policy(OutboundPolicy::Drop)
        .high_water(64 * KIB)
        .outbound_limit(256 * KIB);
    let (running, log) = start(server, |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let client = Client::with_small_window(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(AtomicUsize::new(0));
    let message = |n: u32| {
        let mut message = vec![0; MESSAGE];
        message[..4].copy_from_slice(&n.to_be_bytes());
        message
    };
    let mut sent = 0;
    eventually("messages are dropped", || {
        let (count, answers) = (dropped.clone(), answered.clone());
        let done = move |taken: Result<(), WriteError>| {
            if let Err(error) = taken {
                let full = matches!(error, WriteError::Full { limit: 262_144, .. });
                assert!(full, "{error}");
                count.fetch_add(1, SeqCst);
            }
            answers.fetch_add(1, SeqCst);
        };
        handle.write_accepted(message(sent), done).expect("taken");
        sent += 1;
        dropped.load(SeqCst) > 10
    });
    eventually("all are answered", || {
        answered.load(SeqCst) == sent as usize
    });
    assert!(buffered(&running) <= MIB);
    assert!(running.engine().stats().total().overflows > 10);

    let taken = sent as usize - dropped.load(SeqCst);
    let mut last = None;
    for _ in 0..taken {
        let received = client.recv(MESSAGE);
        let n = u32::from_be_bytes(received[..4].try_into().unwrap());
        assert!(last < Some(n) && received[4..].iter().all(|byte| *byte == 0));
        last = Some(n);
    }
    eventually("on_drain is called", || {
        log.count(|what| matches!(what, What::Drain)) > 0
    });
    client.round_trip("still here");
    assert_eq!(log.closed(), 0);
}

#[test]
fn the_close_policy_closes_at_the_limit() {
    let server = local()
        .outbound_policy(OutboundPolicy::Close)
        .high_water(64 * KIB)
        .outbound_limit(MIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            while conn.write(&[0; 10 * KIB]).is_ok() {}
            assert!(!conn.is_open());
            Action::Continue
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    let (_, end) = client.recv_to_any_end();
    assert!(Client::is_reset(&end), "{end:?}");
    let (_, reason) = log.await_close(0);
    let CloseReason::OutboundLimit { queued } = *reason else {
        panic!("{reason:?}");
    };
    assert!((MIB - 10 * KIB..=MIB).contains(&queued), "{queued}");
    assert_eq!(log.closed(), 1);
}

#[test]
fn a_write_past_the_limit_is_refused_whole_and_told() {
    let server = local().high_water(64 * KIB).outbound_limit(MIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            let mut taken = 0_usize;
            let error = loop {
                match conn.write(&[1; 10 * KIB]) {
                    Ok(()) => taken += 10 * KIB,
                    Err(error) => break error,
                }
            };
            let WriteError::Full { queued, limit } = error else {
                panic!("{error}");
            };
            assert_eq!((queued, limit), (taken, MIB));
            assert_eq!(conn.buffered_out(), taken);
            let error = conn
                .write_shared(Bytes::from(vec![2; 10 * KIB]))
                .unwrap_err();
            assert!(error.to_string().contains("on_drain"), "{error}");
            assert!(conn.send(vec![2; 10 * KIB]).is_err());
            Action::Close
        })
    });
    let client = Client::to(&running);
    client.send("go");
    let received = client.recv_to_end();
    assert_eq!(received.len(), MIB / (10 * KIB) * (10 * KIB));
    assert!(received.iter().all(|byte| *byte == 1));
    drop(client);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason:?}");
}

#[test]
fn a_callback_may_write_more_than_the_limit_to_a_peer_that_reads() {
    for policy in [
        OutboundPolicy::PauseReads,
        OutboundPolicy::Drop,
        OutboundPolicy::Close,
    ] {
        let server = local().outbound_policy(policy).outbound_limit(128 * KIB);
        let (running, _log) = start(server, |app| {
            app.codec(Cut::Lines(Lines::new())).react(|conn, _, line| {
                for n in 100..200 {
                    let taken = match line {
                        b"write" => conn.write(&[n; 4000]),
                        _ => conn.send([n; 3999]),
                    };
                    taken.expect("the kernel has refused nothing");
                }
                Action::Continue
            })
        });
        for how in ["write\n", "send\n"] {
            let client = Client::to(&running);
            client.send(how);
            let received = client.recv(100 * 4000);
            let firsts = received.chunks(4000).map(|message| message[0]);
            assert!(firsts.eq(100..200), "{policy:?}, {how}");
        }
    }
}

#[test]
fn what_handles_write_in_one_turn_is_offered_before_any_of_it_is_refused() {
    let (running, log) = start(local().outbound_limit(MIB), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let gate = Gate::before(running.engine(), 0);
    for _ in 0..300 {
        let count = refused.clone();
        let done = move |taken: Result<(), WriteError>| {
            count.fetch_add(usize::from(taken.is_err()), SeqCst);
        };
        handle.write_accepted(vec![7; 4000], done).expect("taken");
    }
    drop(gate);
    assert_eq!(client.recv(300 * 4000).len(), 300 * 4000);
    assert_eq!(refused.load(SeqCst), 0);
}

#[test]
fn one_write_that_is_longer_than_may_ever_wait_is_told_so() {
    let server = local().outbound_limit(64 * KIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            for refused in [
                conn.write(&vec![1; MIB + 1]),
                conn.write_shared(vec![1; MIB + 1]),
                conn.send(vec![1; MIB + 1]),
            ] {
                let Err(WriteError::TooLong { len, max }) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!((len, max), (MIB + 1, MIB));
            }
            conn.write_shared(vec![2; MIB]).into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert!(client.recv(MIB) == vec![2; MIB]);
    assert_eq!(log.count(|what| matches!(what, What::Drain)), 0);
    assert_eq!(running.engine().stats().total().overflows, 3);
}

#[test]
fn a_write_that_is_too_long_is_not_blamed_on_the_peer() {
    let server = local()
        .outbound_policy(OutboundPolicy::Close)
        .outbound_limit(64 * KIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            let refused = conn.write(&vec![1; MIB + 1]);
            assert!(matches!(refused, Err(WriteError::TooLong { .. })));
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    let (_, reason) = log.await_close(0);
    assert!(
        matches!(*reason, CloseReason::Refused(WriteError::TooLong { .. })),
        "{reason:?}"
    );
}

#[test]
fn on_drain_follows_a_refused_write_once_there_is_room_for_it() {
    let server = local().outbound_limit(MIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, session, frame| {
            if frame == b"1" {
                shrink(conn);
                conn.write(&[1; 300 * KIB]).expect("is taken");
            } else {
                // So much does not fit behind the rest of that, though it is below the low-water mark.
                let refused = conn.write_shared(vec![2; MIB]);
                assert!(matches!(refused, Err(WriteError::Full { .. })));
                session.number = 1;
            }
            Action::Continue
        })
        .on_drain(|conn, session| {
            assert_eq!(session.number, 1, "it is called once");
            session.number = 2;
            conn.write_shared(vec![2; MIB]).into()
        })
    });
    let client = Client::with_small_window(&running);
    client.send("1");
    client.recv(1);
    client.send("2");
    eventually("it is refused", || {
        running.engine().stats().total().overflows == 1
    });
    assert_eq!(log.count(|what| matches!(what, What::Drain)), 0);
    let received = client.recv(300 * KIB - 1 + MIB);
    let (first, second) = received.split_at(300 * KIB - 1);
    assert!(first.iter().all(|byte| *byte == 1) && second.iter().all(|byte| *byte == 2));
    assert_eq!(log.closed(), 0);
}

#[test]
fn on_drain_comes_once_the_output_has_fallen_to_the_low_mark() {
    let server = local().high_water(MIB).low_water(100 * KIB);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            // More than one turn offers to a kernel that takes everything, and the high-water mark.
            conn.write_shared(vec![0; 4 * MIB]).into()
        })
        .on_drain(|conn, session| {
            assert!(conn.buffered_out() <= 100 * KIB);
            session.number += 1;
            if session.number == 1 {
                // Under the mark: no other call comes of this.
                return conn.write_shared(vec![0; MIB / 2]).into();
            }
            Action::Close
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    client.recv(4 * MIB + MIB / 2);
    client.send("go");
    client.recv(4 * MIB);
    drop(client);
    log.await_close(0);
    assert_eq!(log.count(|what| matches!(what, What::Drain)), 2);
}

/// Sends without pause until told to stop.
fn flood(client: &Client, chunk: &[u8], stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        if (&client.0).write_all(chunk).is_err() {
            break;
        }
    }
}

/// While three clients flood the server with `chunk`, a fourth's round trips still come to an end.
fn starving(chunk: &[u8], ping: &str, make: fn(App) -> App) {
    let (running, _log) = start(local(), make);
    let stop = AtomicBool::new(false);
    let senders: Vec<_> = (0..3).map(|_| Client::to(&running)).collect();
    let client = Client::to(&running);
    thread::scope(|scope| {
        for sender in &senders {
            scope.spawn(|| flood(sender, chunk, &stop));
        }
        let bytes_in = || running.engine().stats().total().bytes_in;
        eventually("the flood has begun", || bytes_in() > 256 << 10);
        for _ in 0..100 {
            client.round_trip(ping);
        }
        stop.store(true, SeqCst);
        for sender in &senders {
            sender.0.shutdown(std::net::Shutdown::Both).ok();
        }
    });
}

#[test]
fn fast_sender_does_not_starve_others() {
    starving(&[b'\n'; 64 * KIB], "ping\n", |app| {
        app.codec(Cut::Lines(Lines::new())).react(|conn, _, line| {
            if line.is_empty() {
                // Work that takes a while, so that the floods outrun the server.
                std::hint::black_box((0..500).sum::<u32>());
                return Action::Continue;
            }
            conn.send(line).into()
        })
    });
}

#[test]
fn fast_sender_without_frames_does_not_starve_others() {
    starving(&[b'x'; 256 * KIB], "ping", |app| {
        app.react(|conn, _, bytes| {
            if bytes.starts_with(b"x") {
                std::hint::black_box((0..100_000).sum::<u32>());
                return Action::Continue;
            }
            conn.write(bytes).into()
        })
    });
}

#[test]
fn a_huge_frame_is_refused_with_a_reason_and_without_its_memory() {
    let server = local().max_frame(64 * KIB);
    let huge = LengthField::builder().max_frame(512 * MIB).build().unwrap();
    let (running, log) = start(server, move |app| app.codec(Cut::Length(huge.clone())));
    let client = Client::to(&running);
    client.send((256_u32 << 20).to_be_bytes());
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    let (_, reason) = log.await_close(0);
    let CloseReason::Frame(FrameError::TooLong { len, max }) = &*reason else {
        panic!("{reason:?}");
    };
    assert_eq!((*len, *max), ((256 << 20) + 4, 64 * KIB));
    assert_eq!(running.engine().stats().total().frame_errors, 1);
    assert_eq!(buffered(&running), 0);
}

#[test]
fn an_announced_frame_takes_memory_only_as_it_arrives() {
    let huge = LengthField::builder().max_frame(500 * MIB).build().unwrap();
    let (running, log) = start(local().max_frame(512 * MIB), move |app| {
        app.codec(Cut::Length(huge.clone()))
    });
    let clients: Vec<_> = (0..20).map(|_| Client::to(&running)).collect();
    for client in &clients {
        client.send((400_u32 << 20).to_be_bytes());
        client.send([0; 100]);
    }
    let bytes_in = || running.engine().stats().total().bytes_in;
    eventually("all of it is there", || bytes_in() == 20 * 104);
    eventually("it is counted", || buffered(&running) > 0);
    assert!(buffered(&running) <= 20 * 2 * MIB, "{}", buffered(&running));
    drop(clients);
    eventually("all have closed", || log.closed() == 20);
    eventually("no buffer is held", || buffered(&running) == 0);
}

#[test]
fn a_line_without_end_is_refused() {
    let (running, log) = start(local(), |app| {
        app.codec(Cut::Lines(Lines::with_max(10 * KIB)))
    });
    let client = Client::to(&running);
    let _ = (&client.0).write_all(&vec![b'x'; MIB]);
    let _ = client.recv_to_any_end();
    drop(client);
    let (_, reason) = log.await_close(0);
    let too_long =
        matches!(&*reason, CloseReason::Frame(FrameError::TooLong { max, .. }) if *max == 10 * KIB);
    assert!(too_long, "{reason:?}");
}

#[test]
fn budgets_divide_the_work_and_lose_nothing() {
    let server = local().frame_budget(1).read_budget(1);
    let (running, log) = start(server, |app| {
        app.codec(Cut::Lines(Lines::new()))
            .react(|conn, _, line| conn.send(line).into())
    });
    let lines: String = (0..5000).map(|n| format!("{n}\n")).collect();
    let clients = [Client::to(&running), Client::to(&running)];
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| client.echo_all(lines.as_bytes()));
        }
    });
    assert_eq!(log.frames(), 10_000);
    assert!(running.engine().stats().total().turns >= 5000);
}

#[test]
fn there_is_room_up_to_the_high_water_mark_and_not_beyond() {
    let (answer, answers) = mpsc::channel();
    let (running, _log) = start(local().high_water(1000), move |app| {
        let answer = answer.clone();
        app.react(move |conn, _, _| {
            let rooms = [999, 1, 1].map(|more| {
                conn.write(&vec![b'.'; more]).expect("taken");
                conn.has_room()
            });
            answer.send(rooms).expect("is awaited");
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    let rooms = answers.recv_timeout(LONG).expect("answers");
    assert_eq!(rooms, [true, true, false], "of 999, 1000 and 1001 bytes");
    assert_eq!(client.recv(1001).len(), 1001);
}

#[test]
fn a_reset_ends_a_connection_whose_reads_are_paused() {
    let (running, log) = start(local(), |app| {
        app.react(|conn, _, _| {
            conn.pause_reads();
            conn.write(b"paused").into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert_eq!(client.recv(6), b"paused");
    client.reset();
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    eventually("it is counted", || running.engine().connections() == 0);
    assert_eq!(running.engine().stats().total().resets, 1);
}

#[test]
fn paused_reads_hold_back_frames_and_resuming_needs_no_event() {
    let (running, log) = start(local(), |app| {
        app.codec(Cut::Lines(Lines::new()))
            .react(|conn, session, line| {
                session.number += 1;
                if session.number == 1 {
                    conn.pause_reads();
                    assert!(conn.reads_paused());
                }
                conn.send(line).into()
            })
    });
    let client = Client::to(&running);
    // The second line lies in the inbox, the third in the kernel.
    client.send("one\ntwo\n");
    assert_eq!(client.recv(4), b"one\n");
    client.send("three\n");
    client.end_writes();
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    handle.write("meanwhile\n").unwrap();
    assert_eq!(client.recv(10), b"meanwhile\n");
    assert_eq!(log.frames(), 1);
    handle.run(|_, conn, _| conn.resume_reads()).unwrap();
    assert_eq!(client.recv_to_end(), b"two\nthree\n");
}
