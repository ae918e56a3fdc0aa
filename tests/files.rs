//! Files as output: in order with other writes, at the pace of the peer, and never whole in memory.

mod util;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use epicycle::codec::Lines;
use epicycle::{
    Action, CloseReason, Conn, Listen, OutboundPolicy, Server, UdpSessions, WriteError,
};
use util::app::{App, Cut, Log, What, local, start, start_shown};
use util::client::{Client, TempPath, shrink};
use util::process::{alone, descriptors, die_of_sigpipe};
use util::{LONG, eventually, noise, not_here};

/// A file of this content, which is gone from the file system already.
fn file_of(bytes: &[u8]) -> Arc<File> {
    let path = TempPath::new();
    let mut file = File::create_new(&path.0).expect("is made");
    file.write_all(bytes).expect("is written");
    Arc::new(File::open(&path.0).expect("opens"))
}

/// How a server sends files.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// The kernel sends them.
    Kernel,
    /// The engine reads them.
    Reads,
}

const BOTH: [By; 2] = [By::Kernel, By::Reads];

impl By {
    /// Makes a connection send files this way.
    fn apply<const SHOWS: bool>(self, conn: &Conn<'_, App<SHOWS>>) {
        // To a descriptor opened for appending sendfile(2) does not send; send(2) does not care.
        #[cfg(target_os = "linux")]
        if self == By::Reads {
            use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
            let flags = fcntl_getfl(conn.as_fd()).expect("has flags");
            fcntl_setfl(conn.as_fd(), flags | OFlags::APPEND).expect("takes them");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = conn.as_fd();
    }
}

#[test]
fn a_file_is_sent_in_order_with_what_is_written_before_and_behind() {
    for by in BOTH {
        let content = noise(1, 3 << 20);
        let file = file_of(&content);
        let (running, _log) = start(local(), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                by.apply(conn);
                conn.write(b"head ").expect("is taken");
                conn.send_file(file.clone(), ..).expect("is taken");
                conn.write(b" between ").expect("is taken");
                conn.write_shared(vec![b'x'; 100_000]).expect("is taken");
                conn.send_file(file.clone(), 7..1000).expect("is taken");
                conn.send_file(file.clone(), 1000..).expect("is taken");
                conn.write(b" end").into()
            })
        });
        let expected = [
            b"head ",
            &content[..],
            b" between ",
            &[b'x'; 100_000],
            &content[7..],
            b" end",
        ]
        .concat();
        let client = Client::to(&running);
        for _ in 0..2 {
            client.send("go");
            assert!(client.recv(expected.len()) == expected, "{by:?}: differs");
        }
    }
}

#[test]
fn every_kind_of_range_is_sent_and_an_empty_one_sends_nothing() {
    use std::ops::Bound::{Excluded, Included, Unbounded};

    let (running, _log) = start(local(), move |app| {
        let mut file = File::options();
        let path = TempPath::new();
        let mut file = file
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path.0)
            .expect("opens");
        file.write_all(b"0123456789").expect("is written");
        // Where the file stands does not matter.
        file.seek(SeekFrom::Start(5)).expect("seeks");
        let file = Arc::new(file);
        app.react(move |conn, _, _| {
            conn.send_file(file.clone(), ..).expect("all");
            conn.send_file(file.clone(), 7..).expect("from");
            conn.send_file(file.clone(), ..3).expect("to");
            conn.send_file(file.clone(), ..=3).expect("to and with");
            conn.send_file(file.clone(), 4..6).expect("between");
            conn.send_file(file.clone(), 9..=9).expect("one");
            conn.send_file(file.clone(), (Excluded(7), Included(8)))
                .expect("excluded");
            conn.send_file(file.clone(), 3..3).expect("nothing");
            conn.send_file(file.clone(), 10..).expect("nothing");
            conn.send_file(file.clone(), (Unbounded, Excluded(0)))
                .expect("nothing");
            assert_eq!((&*file).stream_position().expect("stands"), 5);
            conn.write(b".").into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    let expected = b"012345678978901201234598.";
    assert_eq!(client.recv(expected.len()), expected);
}

#[test]
fn what_cannot_be_sent_is_refused_and_nothing_of_it_is_sent() {
    let (running, log) = start(local(), |app| {
        let file = file_of(b"0123456789");
        let dir = Arc::new(File::open(std::env::temp_dir()).expect("opens"));
        app.react(move |conn, _, _| {
            #[allow(clippy::reversed_empty_ranges, reason = "that is what is tested")]
            for (range, part) in [(5..11, (5, 11)), (11..12, (11, 12)), (7..3, (7, 3))] {
                let refused = conn.send_file(file.clone(), range);
                let Err(WriteError::Range { start, end, len }) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!(((start, end), len), (part, 10));
            }
            assert!(conn.send_file(file.clone(), 0..=u64::MAX).is_err());
            assert!(conn.send_file(file.clone(), u64::MAX..).is_err());
            let refused = conn.send_file(dir.clone(), 0..1);
            assert!(matches!(refused, Err(WriteError::File(_))), "{refused:?}");
            let message = refused.expect_err("is refused").to_string();
            assert!(message.contains("not a regular file"), "{message}");
            conn.write(b"only this").expect("is taken");
            conn.close();
            let refused = conn.send_file(file.clone(), ..);
            assert!(matches!(refused, Err(WriteError::Closed)), "{refused:?}");
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert_eq!(client.recv_to_end(), b"only this");
    drop(client);
    assert!(matches!(*log.await_close(0).1, CloseReason::Local));
}

#[test]
fn a_file_that_gets_shorter_aborts_the_connection() {
    for by in BOTH {
        let path = TempPath::new();
        fs::write(&path.0, vec![1; 64 << 20]).expect("is written");
        let file = Arc::new(File::open(&path.0).expect("opens"));
        let (running, log) = start(local(), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                by.apply(conn);
                shrink(conn);
                conn.send_file(file.clone(), ..).into()
            })
        });
        let client = Client::with_small_window(&running);
        client.send("go");
        client.recv(1000);
        let shorter = File::options().write(true).open(&path.0).expect("opens");
        shorter.set_len(32 << 20).expect("is cut");
        let (bytes, end) = client.recv_to_any_end();
        assert!(Client::is_reset(&end), "{by:?}: {end:?}");
        assert!(bytes.len() <= 32 << 20);
        let (closed, reason) = log.await_close(0);
        let CloseReason::Io(error) = &*reason else {
            panic!("{by:?}: {reason:?}");
        };
        assert!(error.to_string().contains("shorter"), "{error}");
        assert!(closed.unsent >= 32 << 20);
    }
}

/// How many bytes of this process are in memory.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("is there");
    let resident = pages.split(' ').nth(1).expect("is the second");
    resident.parse::<usize>().expect("is a number") * rustix::param::page_size()
}

#[test]
fn a_gibibyte_is_sent_in_constant_memory() {
    if !cfg!(target_os = "linux") {
        return not_here("how much memory is used is read from /proc");
    }
    alone("a_gibibyte_is_sent_in_constant_memory", || {
        const LEN: usize = 1 << 30;
        const MARKS: [usize; 4] = [0, 12_345, LEN / 2 + 1, LEN - 1];
        let path = TempPath::new();
        let mut file = File::create_new(&path.0).expect("is made");
        for at in MARKS {
            file.seek(SeekFrom::Start(at as u64)).expect("seeks");
            file.write_all(&[at as u8 | 1]).expect("is written");
        }
        drop(file);
        let file = Arc::new(File::open(&path.0).expect("opens"));
        let (running, _log) = start(local(), move |app| {
            let file = file.clone();
            app.codec(Cut::Lines(Lines::new()))
                .react(move |conn, _, line| {
                    if line == b"reads" {
                        By::Reads.apply(conn);
                    }
                    conn.send_file(file.clone(), ..).into()
                })
        });
        let client = Client::to(&running);
        let mut buffer = vec![0; 1 << 20];
        let before = resident();
        let mut most = before;
        for how in ["kernel\n", "reads\n"] {
            client.send(how);
            let mut received = 0;
            let mut sum = 0;
            while received < LEN {
                let n = (&client.0).read(&mut buffer).expect("receives");
                assert!(n > 0, "it ends after {received}");
                for at in MARKS {
                    if let Some(byte) = at.checked_sub(received).and_then(|at| buffer[..n].get(at))
                    {
                        assert_eq!(*byte, at as u8 | 1, "at {at}");
                        sum += 1;
                    }
                }
                received += n;
                most = most.max(resident());
            }
            assert_eq!((received, sum), (LEN, MARKS.len()));
        }
        let growth = most - before;
        assert!(growth < 16 << 20, "it grew by {growth} bytes");
    });
}

#[test]
fn a_slow_reader_gets_all_of_it_delays_nobody_and_can_ask_for_no_more_meanwhile() {
    for by in BOTH {
        let content = noise(2, 8 << 20);
        let file = file_of(&content);
        let (running, log) = start(local(), move |app| {
            let file = file.clone();
            app.codec(Cut::Lines(Lines::new()))
                .react(move |conn, _, line| {
                    if line == b"file" {
                        by.apply(conn);
                        shrink(conn);
                        conn.send_file(file.clone(), ..).into()
                    } else {
                        conn.send(line).into()
                    }
                })
        });
        let slow = Client::with_small_window(&running);
        slow.send("file\n".repeat(20));
        let other = Client::to(&running);
        for _ in 0..100 {
            other.round_trip("quick\n");
        }
        let frames = |log: &Log| {
            let ids = log.ids();
            let entries = log.entries();
            let of_slow = entries.iter().filter(|entry| entry.id == ids[0]);
            of_slow
                .filter(|entry| matches!(entry.what, What::Frame(_)))
                .count()
        };
        // Water marks count the bytes of files: its next request waits.
        assert_eq!(frames(&log), 1, "{by:?}");
        for _ in 0..20 {
            assert!(slow.recv(content.len()) == content, "{by:?}: differs");
        }
        assert_eq!(frames(&log), 20);
        eventually("it has drained", || {
            log.count(|what| matches!(what, What::Drain)) > 0
        });
    }
}

#[test]
fn many_files_asked_for_at_once_are_not_all_opened_at_once() {
    let test = "many_files_asked_for_at_once_are_not_all_opened_at_once";
    alone(test, || {
        let path = TempPath::new();
        fs::write(&path.0, noise(3, 100_000)).expect("is written");
        for policy in [OutboundPolicy::PauseReads, OutboundPolicy::Drop] {
            let before = descriptors();
            let server = local().outbound_policy(policy).outbound_limit(1 << 20);
            let name = path.0.clone();
            let (running, log) = start(server, move |app| {
                let name = name.clone();
                app.codec(Cut::Lines(Lines::new()))
                    .on_open(|conn| {
                        shrink(conn);
                        true
                    })
                    .react(move |conn, _, _| {
                        let file = File::open(&name).expect("opens");
                        match conn.send_file(file, ..) {
                            Err(WriteError::TooManyFiles { .. }) => Action::Continue,
                            result => result.into(),
                        }
                    })
            });
            let client = Client::with_small_window(&running);
            client.send("\n".repeat(3000));
            eventually("requests come", || {
                log.frames()
                    >= if policy == OutboundPolicy::Drop {
                        3000
                    } else {
                        1
                    }
            });
            let open = descriptors() - before;
            // The files that may wait, and the sockets.
            assert!(open < 16 + 20, "{open} descriptors are open");
            assert!(running.engine().stats().total().files <= 16);
            client.reset();
            log.await_close(0);
            running.engine().shutdown();
            drop(running.join());
            eventually("all are closed", || descriptors() == before);
        }
    });
}

#[test]
fn who_asks_for_many_small_files_and_does_not_read_holds_few_and_gets_all_of_them() {
    const FILES: usize = 5000;
    for by in BOTH {
        let path = TempPath::new();
        fs::write(&path.0, b"x").expect("is written");
        let name = path.0.clone();
        let (running, log) = start(local(), move |app| {
            let name = name.clone();
            app.codec(Cut::Lines(Lines::new()))
                .on_open(move |conn| {
                    by.apply(conn);
                    shrink(conn);
                    true
                })
                .react(move |conn, _, _| {
                    let file = File::open(&name).expect("opens");
                    conn.send_file(file, ..).into()
                })
        });
        let client = Client::with_small_window(&running);
        client.send("\n".repeat(FILES));
        let files = || running.engine().stats().total().files;
        eventually("some wait", || files() > 4);
        let handled = log.frames();
        let other = Client::to(&running);
        other.send("\n".repeat(100));
        assert_eq!(other.recv(100), [b'x'; 100]);
        assert!(files() <= 16, "{by:?}: {} files wait", files());
        assert!(handled < FILES, "{by:?}: all was handled");
        assert_eq!(client.recv(FILES), [b'x'; FILES]);
        eventually("none waits", || files() == 0);
        assert_eq!(log.closed(), 0);
    }
}

#[test]
fn more_files_than_may_wait_are_refused_and_on_drain_follows() {
    let file = file_of(&noise(10, 100_000));
    let server = local().max_queued_files(2).high_water(64 << 20);
    let (running, log) = start(server, move |app| {
        let (file, rest) = (file.clone(), file.clone());
        app.react(move |conn, session, _| {
            shrink(conn);
            conn.send_file(file.clone(), ..).expect("is taken");
            conn.send_file(file.clone(), ..).expect("is taken");
            // Nothing of it needs to wait.
            conn.send_file(file.clone(), 5..5).expect("is taken");
            let refused = conn.send_file(file.clone(), ..);
            let Err(WriteError::TooManyFiles { queued, limit }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((queued, limit), (2, 2));
            assert!(!conn.has_room());
            conn.write(b".").expect("is taken");
            session.number = 1;
            Action::Continue
        })
        .on_drain(move |conn, session| {
            if session.number == 1 {
                conn.send_file(rest.clone(), ..).expect("is taken");
                session.number = 2;
            }
            Action::Continue
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    let content = noise(10, 100_000);
    let expected = [&content[..], &content[..], b".", &content[..]].concat();
    assert!(client.recv(expected.len()) == expected);
    assert_eq!(running.engine().stats().total().overflows, 1);
    assert_eq!(log.closed(), 0);
}

#[test]
fn closing_after_a_file_sends_all_of_it() {
    for by in BOTH {
        let content = noise(4, 20 << 20);
        let file = file_of(&content);
        let path = TempPath::new();
        let (running, log) = start(local().and(path.addr()), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                by.apply(conn);
                conn.send_file(file.clone(), ..).expect("is taken");
                Action::Close
            })
        });
        for (n, addr) in running.local_addrs().iter().enumerate() {
            let client = Client::connect(addr);
            client.send("go");
            assert!(client.recv_to_end() == content, "{by:?}, {addr}: differs");
            drop(client);
            let (closed, reason) = log.await_close(n);
            assert!(matches!(*reason, CloseReason::Local));
            assert_eq!((closed.bytes_out, closed.unsent), (20 << 20, 0));
        }
    }
}

#[test]
fn a_shutdown_sends_the_rest_of_a_file() {
    for by in BOTH {
        let content = noise(5, 20 << 20);
        let file = file_of(&content);
        let (running, _log) = start(local(), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                by.apply(conn);
                conn.send_file(file.clone(), ..).into()
            })
        });
        let client = Client::to(&running);
        client.send("go");
        let mut received = client.recv(1);
        running.engine().shutdown();
        received.extend(client.recv_to_end());
        assert!(received == content, "{by:?}: differs");
        drop(client);
        let report = running.join();
        assert_eq!((report.drained, report.forced), (1, 0));
    }
}

#[test]
fn an_abort_ends_it_at_once_and_closes_the_file() {
    alone("an_abort_ends_it_at_once_and_closes_the_file", || {
        for by in BOTH {
            let before = descriptors();
            let file = file_of(&vec![0; 20 << 20]);
            let (running, log) = start(local(), move |app| {
                let file = file.clone();
                app.codec(Cut::Lines(Lines::new()))
                    .react(move |conn, _, _| {
                        by.apply(conn);
                        shrink(conn);
                        conn.send_file(file.try_clone().expect("clones"), ..).into()
                    })
            });
            let client = Client::with_small_window(&running);
            client.send("go\n");
            client.recv(1);
            let open = descriptors();
            let id = log.await_open(0);
            let handle = running.engine().handle(id).expect("is open");
            handle.abort().expect("is asked");
            drop(handle);
            assert!(Client::is_reset(&client.recv_to_any_end().1));
            log.await_close(0);
            // Its socket and its file.
            eventually("both are closed", || descriptors() == open - 2);
            drop(client);
            running.engine().shutdown();
            drop(running.join());
            eventually("all are closed", || descriptors() == before);
        }
    });
}

#[test]
fn peers_that_leave_amid_a_file_raise_no_signal() {
    alone("peers_that_leave_amid_a_file_raise_no_signal", || {
        die_of_sigpipe();
        // Few enough bytes that the peer is still read.
        let file = file_of(&vec![0; 900 << 10]);
        let (running, log) = start(local(), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                shrink(conn);
                conn.send_file(file.clone(), ..).into()
            })
        });
        for n in 0..20 {
            let client = Client::with_small_window(&running);
            client.send("go");
            client.recv(1);
            // Behind a FIN, a reset makes the next write a broken pipe.
            client.end_writes();
            eventually("the end is seen", || {
                log.count(|what| matches!(what, What::PeerShutdown)) == n + 1
            });
            drop(client);
            assert!(matches!(*log.await_close(n).1, CloseReason::Peer));
        }
    });
}

#[test]
fn many_connections_send_one_file_at_once() {
    for by in BOTH {
        let content = noise(6, 2 << 20);
        let file = file_of(&content);
        let (running, _log) = start(local().reactors(2), move |app| {
            let file = file.clone();
            app.react(move |conn, _, _| {
                by.apply(conn);
                conn.send_file(file.clone(), ..).expect("is taken");
                Action::Close
            })
        });
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let client = Client::to(&running);
                    client.send("go");
                    assert!(client.recv_to_end() == content, "{by:?}: differs");
                });
            }
        });
    }
}

#[test]
fn a_file_counts_as_output_but_not_as_memory() {
    for by in BOTH {
        let content = noise(7, 1 << 20);
        let file = file_of(&content);
        let (tell, told) = mpsc::channel();
        let server = local().outbound_limit(1 << 20);
        let (running, _log) = start(server, move |app| {
            let (file, tell) = (file.clone(), tell.clone());
            app.react(move |conn, _, _| {
                by.apply(conn);
                shrink(conn);
                conn.send_file(file.clone(), ..).expect("is taken");
                assert_eq!(conn.buffered_out(), 1 << 20);
                conn.write(&[b'x'; 900_000]).expect("is taken");
                let full = conn.write(&[b'x'; 900_000]);
                assert!(matches!(full, Err(WriteError::Full { .. })), "{full:?}");
                let tell = tell.clone();
                let done = move |result: Result<(), WriteError>| {
                    tell.send(result.is_ok()).expect("is awaited");
                };
                conn.write_then("!", done).into()
            })
        });
        let client = Client::with_small_window(&running);
        client.send("go");
        client.recv(1);
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        let expected = [&content[1..], &[b'x'; 900_000], b"!"].concat();
        assert!(client.recv(expected.len()) == expected);
        assert_eq!(told.recv_timeout(LONG), Ok(true));
    }
}

#[test]
fn a_file_is_not_shown_before_it_is_sent() {
    for by in BOTH {
        let shown = Arc::new(AtomicUsize::new(0));
        let file = file_of(&noise(8, 1 << 20));
        let count = shown.clone();
        let (running, _log) = start_shown(local(), move |app| {
            let (file, count) = (file.clone(), count.clone());
            app.pre_write(move |_, bytes| {
                count.fetch_add(bytes.len(), Ordering::Relaxed);
            })
            .react(move |conn, _, _| {
                by.apply(conn);
                conn.write(b"12345").expect("is taken");
                conn.send_file(file.clone(), ..).expect("is taken");
                conn.write(b"67").into()
            })
        });
        let client = Client::to(&running);
        client.send("go");
        client.recv((1 << 20) + 7);
        assert_eq!(shown.load(Ordering::Relaxed), 7, "{by:?}");
    }
}

#[test]
fn a_file_goes_behind_input_that_is_written_back() {
    let file = file_of(b" and a file");
    let (running, _log) = start(local(), move |app| {
        let file = file.clone();
        app.react(move |conn, _, frame| {
            // Long enough to be sent from where it was received.
            conn.write(frame).expect("is taken");
            conn.send_file(file.clone(), ..).into()
        })
    });
    let client = Client::to(&running);
    let bytes = noise(9, 30_000);
    let mut expected = Vec::new();
    client.send(&bytes);
    expected.extend_from_slice(&bytes);
    // It may come in pieces, each of which has the file behind it.
    let mut received = Vec::new();
    while received.len() < bytes.len() + 11 || !received.ends_with(b" and a file") {
        received.extend(client.recv(1));
    }
    let text = received.windows(11).filter(|part| part == b" and a file");
    let pieces = text.count();
    assert_eq!(received.len(), bytes.len() + 11 * pieces);
}

#[test]
fn a_udp_session_refuses_a_file() {
    let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    let file = file_of(b"content");
    let (running, _log) = start(Server::bind(listen).reactors(1), move |app| {
        let file = file.clone();
        app.react(move |conn, _, _| {
            let refused = conn.send_file(file.clone(), ..);
            assert!(matches!(refused, Err(WriteError::File(_))), "{refused:?}");
            conn.write(b"refused").into()
        })
    });
    let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
    peer.set_read_timeout(Some(LONG)).expect("is set");
    let server = running.local_addrs()[0].as_socket_addr();
    peer.send_to(b"go", server.expect("an IP address"))
        .expect("sends");
    let mut answer = [0; 100];
    let n = peer.recv(&mut answer).expect("receives");
    assert_eq!(&answer[..n], b"refused");
}
