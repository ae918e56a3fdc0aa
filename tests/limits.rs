//! Timeouts, counts, options, addresses and the balance between reactors.

mod util;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::codec::Lines;
use epicycle::{
    AcceptMode, Action, Addr, Balance, BalancePolicy, CloseReason, Error, Running, Server,
    TimeoutKind,
};
use socket2::SockRef;

use crate::util::app::{App, Cut, Log, local, start};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, expect_panics};

/// Short, but long against what a busy machine delays things by.
const LIMIT: Duration = Duration::from_millis(400);

fn lines(app: App) -> App {
    app.codec(Cut::Lines(Lines::new()))
        .react(|conn, _, line| conn.send(line).into())
}

/// Waits for the `n`th close and asserts that it was for this timeout, and not before its time.
fn assert_timed_out(log: &Log, n: usize, expected: TimeoutKind, at_least: Duration) {
    let (closed, reason) = log.await_close(n);
    let CloseReason::Timeout(kind) = *reason else {
        panic!("{reason:?}");
    };
    assert_eq!(kind, expected);
    assert!(closed.open_for >= at_least, "after {:?}", closed.open_for);
}

#[test]
fn the_idle_timeout_closes_a_silent_connection_and_spares_a_busy_one() {
    let (running, log) = start(local().idle_timeout(LIMIT), lines);
    let silent = Client::to(&running);
    let busy = Client::to(&running);
    let began = Instant::now();
    while began.elapsed() < 2 * LIMIT {
        busy.round_trip("ping\n");
        thread::sleep(LIMIT / 40);
    }
    assert_eq!(silent.recv_to_end(), b"");
    drop(silent);
    assert_timed_out(&log, 0, TimeoutKind::Idle, LIMIT);
    busy.round_trip("still here\n");
    assert_eq!(busy.recv_to_end(), b"");
    drop(busy);
    assert_timed_out(&log, 1, TimeoutKind::Idle, 3 * LIMIT);
    assert_eq!(running.engine().stats().total().timeouts, 2);
}

#[test]
fn output_alone_keeps_a_connection_from_idling() {
    let (running, log) = start(local().idle_timeout(LIMIT), |app| {
        app.on_open(|conn| {
            conn.set_timer(LIMIT / 40, 80);
            true
        })
        .on_timer(|conn, _, left| {
            conn.write(b".").expect("taken");
            if left > 0 {
                conn.set_timer(LIMIT / 40, left - 1);
            }
            Action::Continue
        })
    });
    let client = Client::to(&running);
    assert_eq!(client.recv_to_end().len(), 81);
    drop(client);
    assert_timed_out(&log, 0, TimeoutKind::Idle, 3 * LIMIT);
}

#[test]
fn the_read_timeout_closes_on_a_frame_that_stays_incomplete() {
    let (running, log) = start(local().read_timeout(LIMIT), lines);
    let silent = Client::to(&running);
    let client = Client::to(&running);
    // Each byte is activity, but none completes the frame.
    let began = Instant::now();
    client.send("whole\n");
    assert_eq!(client.recv(6), b"whole\n");
    while began.elapsed() < LIMIT * 3 / 2 {
        // The server may have ended it already.
        let _ = (&client.0).write(b"x");
        thread::sleep(LIMIT / 40);
    }
    let _ = client.recv_to_any_end();
    drop(client);
    assert_timed_out(&log, 0, TimeoutKind::Read, LIMIT);
    silent.round_trip("no frame has begun here\n");
}

#[test]
fn frames_that_arrive_in_pieces_in_time_do_not_time_out() {
    let (running, log) = start(local().read_timeout(LIMIT), lines);
    let client = Client::to(&running);
    let began = Instant::now();
    while began.elapsed() < 3 * LIMIT {
        // There is always an incomplete frame, but never the same for long.
        client.send("end\nbegin");
        thread::sleep(LIMIT / 40);
    }
    assert_eq!(log.closed(), 0);
    drop(client);
}

#[test]
fn the_write_stall_timeout_closes_a_peer_that_does_not_read() {
    let (running, log) = start(local().write_stall_timeout(LIMIT), |app| {
        app.react(|conn, _, frame| {
            if frame == b"stall" {
                shrink(conn);
            }
            conn.write_shared(vec![0; 8 << 20]).into()
        })
    });
    let idle = Client::to(&running);
    let client = Client::with_small_window(&running);
    client.send("stall");
    assert_timed_out(&log, 0, TimeoutKind::WriteStall, LIMIT);
    let (_, end) = client.recv_to_any_end();
    assert!(
        Client::is_reset(&end),
        "what is lost must not look whole: {end:?}"
    );
    idle.send("go");
    idle.recv(8 << 20);
}

#[test]
fn a_peer_that_stops_reading_has_the_write_stall_timeout_once() {
    let limit = 5 * LIMIT;
    let (tell, told) = mpsc::channel();
    let server = local().write_stall_timeout(limit);
    let (running, log) = start(server, move |app| {
        let tell = tell.clone();
        app.react(move |conn, _, _| {
            conn.set_timer(limit / 2, 0);
            conn.write_shared(vec![0; 32 << 20]).into()
        })
        .on_timer(move |conn, _, _| {
            tell.send(conn.buffered_out()).expect("is awaited");
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("go");
    client.recv(1);
    let waiting = told.recv_timeout(LONG).expect("it is told");
    assert_timed_out(&log, 0, TimeoutKind::WriteStall, limit);
    let (closed, _) = log.await_close(0);
    // That the kernel would have taken a little more is no sign of life.
    assert_eq!(closed.unsent, waiting);
    assert!(closed.open_for < 2 * limit, "after {:?}", closed.open_for);
}

/// Reads a little at a time, until as much time has passed or the stream ends; returns how much it was.
fn sip(client: &Client, time: Duration) -> usize {
    let began = Instant::now();
    let mut sips = 0;
    while began.elapsed() < time && client.try_recv(2000).is_some() {
        sips += 1;
        thread::sleep(LIMIT / 40);
    }
    2000 * sips
}

#[test]
fn a_peer_that_reads_slowly_is_neither_stalled_nor_idle() {
    type Limited = fn(Server) -> Server;
    let limited: [(Limited, Action); 3] = [
        (|server| server.write_stall_timeout(LIMIT), Action::Continue),
        (|server| server.write_stall_timeout(LIMIT), Action::Close),
        (|server| server.idle_timeout(LIMIT), Action::Continue),
    ];
    thread::scope(|scope| {
        for (limit, then) in limited {
            scope.spawn(move || {
                let closes = matches!(then, Action::Close);
                let (running, log) = start(limit(local()), move |app| {
                    app.react(move |conn, _, _| {
                        conn.write_shared(vec![0; 32 << 20]).expect("is taken");
                        match closes {
                            true => Action::Close,
                            false => Action::Continue,
                        }
                    })
                });
                // So slow that the kernel has no room to announce all the while.
                let client = Client::with_small_window(&running);
                client.send("go");
                let read = sip(&client, 5 * LIMIT);
                assert_eq!(log.closed(), 0, "closes: {closes}, after {read} bytes");
            });
        }
    });
}

#[test]
fn the_handshake_timeout_closes_unless_a_first_frame_comes() {
    let (running, log) = start(local().handshake_timeout(LIMIT), lines);
    let greeter = Client::to(&running);
    greeter.round_trip("hello\n");
    let silent = Client::to(&running);
    let partial = Client::to(&running);
    partial.send("hel");
    assert_eq!(silent.recv_to_end(), b"");
    assert_eq!(partial.recv_to_end(), b"");
    drop((silent, partial));
    assert_timed_out(&log, 0, TimeoutKind::Handshake, LIMIT);
    assert_timed_out(&log, 1, TimeoutKind::Handshake, LIMIT);
    greeter.round_trip("still here\n");
}

#[test]
fn a_loop_that_is_late_looks_for_input_before_it_takes_a_peer_for_silent() {
    // More than one poll tells of.
    const CLIENTS: usize = 400;
    let limit = 5 * LIMIT;
    let (blocked, is_blocked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let released = Arc::new(Mutex::new(released));
    let server = local().reactors(1).handshake_timeout(limit);
    let (running, log) = start(server, move |app| {
        let (blocked, released) = (blocked.clone(), released.clone());
        app.react(move |conn, _, bytes| {
            if bytes == b"wait" {
                blocked.send(()).expect("the test waits");
                let released = released.lock().expect("nobody has panicked");
                released.recv().expect("the test says so");
            }
            conn.write(bytes).into()
        })
    });
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::to(&running)).collect();
    log.await_open(CLIENTS - 1);
    let all_open = Instant::now();
    let culprit = Client::to(&running);
    culprit.send("wait");
    is_blocked.recv_timeout(LONG).expect("is blocked");
    for client in &clients {
        client.send("in time");
    }
    thread::sleep((all_open + limit + LIMIT / 4).saturating_duration_since(Instant::now()));
    release.send(()).expect("it is awaited");
    for client in &clients {
        assert_eq!(client.recv(7), b"in time");
    }
    assert_eq!(culprit.recv(4), b"wait");
}

#[test]
fn the_lifetime_ends_even_a_busy_connection() {
    let (running, log) = start(local().lifetime(LIMIT), lines);
    let client = Client::to(&running);
    while log.closed() == 0 {
        if (&client.0).write_all(b"ping\n").is_err() || client.try_recv(5).is_none() {
            break;
        }
    }
    drop(client);
    assert_timed_out(&log, 0, TimeoutKind::Lifetime, LIMIT);
}

#[test]
fn max_connections_refuses_the_rest_until_one_leaves() {
    for server in [
        Server::bind("tcp://127.0.0.1:0").reactors(2),
        Server::bind("tcp://127.0.0.1:0")
            .reactors(2)
            .accept_mode(AcceptMode::ReusePort),
    ] {
        let (running, log) = start(server.max_connections(3), |app| app);
        let mut clients: Vec<_> = (0..3).map(|_| Client::to(&running)).collect();
        for client in &clients {
            client.round_trip("in");
        }
        let (bytes, _) = Client::to(&running).recv_to_any_end();
        assert_eq!(bytes, b"");
        assert_eq!(running.engine().stats().total().refused, 1);
        assert_eq!(log.opened(), 3);
        clients.pop();
        eventually("it has left", || running.engine().connections() == 2);
        let client = Client::to(&running);
        client.round_trip("in");
        drop((client, clients));
    }
}

#[test]
fn max_connections_per_ip_counts_addresses_apart() {
    let (running, log) = start(local().max_connections_per_ip(2), |app| app);
    let [one, two] = [1, 2].map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)));
    let mut clients = Vec::new();
    for ip in [one, one, two, two] {
        let client = Client::from_ip(&running, ip);
        client.round_trip("in");
        clients.push(client);
    }
    for ip in [one, two] {
        let (bytes, _) = Client::from_ip(&running, ip).recv_to_any_end();
        assert_eq!(bytes, b"");
    }
    assert_eq!(log.opened(), 4);
    clients.pop();
    eventually("it has left", || running.engine().connections() == 3);
    let (bytes, _) = Client::from_ip(&running, one).recv_to_any_end();
    assert_eq!(bytes, b"");
    let client = Client::from_ip(&running, two);
    client.round_trip("in");
    drop((client, clients));
}

/// A loopback network of IPv6 has one address, so that two tell nothing apart: mapped ones have 2^24.
#[test]
fn max_connections_per_ip_counts_networks() {
    for (addr, prefix) in [("tcp://127.0.0.1:0", 24), ("tcp://:0", 24)] {
        let server = Server::bind(addr)
            .reactors(1)
            .max_connections_per_ip(2)
            .per_ip_prefix(prefix, 64);
        let (running, log) = start(server, |app| app);
        let port = running.local_addrs()[0]
            .as_socket_addr()
            .expect("an IP")
            .port();
        let from = |ip: [u8; 4]| {
            let server = (Ipv4Addr::LOCALHOST, port).into();
            Client::from_ip_to(server, IpAddr::from(ip))
        };
        let clients = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 1, 1]].map(|ip| {
            let client = from(ip);
            client.round_trip("in");
            client
        });
        let (bytes, _) = from([127, 0, 0, 3]).recv_to_any_end();
        assert_eq!(bytes, b"");
        assert_eq!(log.opened(), 3);
        drop(clients);
    }
}

/// Starts a server that must not start; gives the error.
fn refusal(server: Server) -> Error {
    let started = server.start(|_| App::echo(&Arc::default()));
    started.expect_err("it must not start")
}

#[test]
fn bad_options_are_named_with_what_would_be_right() {
    let zero = Duration::ZERO;
    type Change = fn(Server) -> Server;
    let cases: [(&str, &str, Change); 31] = [
        ("lookup_threads", "1 to 256", |s| s.lookup_threads(0)),
        ("lookup_threads", "1 to 256", |s| s.lookup_threads(257)),
        ("lookup_queue", "1", |s| s.lookup_queue(0)),
        ("recv_buffer", "2147483647", |s| {
            s.recv_buffer((1 << 32) + 1)
        }),
        ("send_buffer", "2147483647", |s| s.send_buffer(1 << 31)),
        ("linger", "1 s", |s| s.linger(Duration::from_millis(500))),
        ("linger", "32767", |s| {
            s.linger(Duration::from_secs(1 << 32))
        }),
        ("keepalive", "32767", |s| {
            s.keepalive(Duration::from_secs(32_768), Duration::from_secs(1), 1)
        }),
        ("keepalive", "127", |s| {
            s.keepalive(Duration::from_secs(1), Duration::from_secs(1), 128)
        }),
        ("per_ip_prefix", "1 to 32", |s| s.per_ip_prefix(0, 64)),
        ("per_ip_prefix", "1 to 32", |s| s.per_ip_prefix(33, 64)),
        ("per_ip_prefix", "1 to 128", |s| s.per_ip_prefix(32, 129)),
        ("reactors", "1", |s| s.reactors(0)),
        ("reactors", "1024", |s| s.reactors(5000)),
        ("accept_mode", "leave one", |s| {
            s.reactors(2).accept_mode(AcceptMode::SingleLoop)
        }),
        ("mailbox", "1", |s| s.mailbox(0)),
        ("read_budget", "1", |s| s.read_budget(0)),
        ("frame_budget", "1", |s| s.frame_budget(0)),
        ("max_frame", "1", |s| s.max_frame(0)),
        ("max_frame", "512 MiB", |s| s.max_frame(1 << 30)),
        ("outbound_limit", "16 KiB", |s| s.outbound_limit(1000)),
        ("outbound_limit", "512 MiB", |s| s.outbound_limit(1 << 30)),
        ("high_water", "1", |s| s.high_water(0)),
        ("high_water", "outbound limit", |s| {
            s.high_water(2 << 20).outbound_limit(1 << 20)
        }),
        ("low_water", "high-water", |s| {
            s.high_water(10).low_water(10)
        }),
        ("read_buffer", "16 KiB", |s| s.read_buffer(100)),
        ("read_buffer", "16 MiB", |s| s.read_buffer(1 << 30)),
        ("max_connections", "1", |s| s.max_connections(0)),
        ("max_connections_per_ip", "1", |s| {
            s.max_connections_per_ip(0)
        }),
        ("backlog", "1", |s| s.backlog(0)),
        ("idle_timeout", "for never", |s| {
            s.idle_timeout(Duration::ZERO)
        }),
    ];
    for (option, right, change) in cases {
        let error = refusal(change(Server::bind("tcp://127.0.0.1:0")));
        let message = error.to_string();
        assert!(
            matches!(error, Error::Option { name, .. } if name == option),
            "{option}: {message}"
        );
        assert!(
            message.contains(option) && message.contains(right),
            "{option}: {message}"
        );
    }
    type Timeout = fn(Server, Duration) -> Server;
    let timeouts: [(&str, Timeout); 4] = [
        ("read_timeout", Server::read_timeout),
        ("write_stall_timeout", Server::write_stall_timeout),
        ("handshake_timeout", Server::handshake_timeout),
        ("lifetime", Server::lifetime),
    ];
    for (option, change) in timeouts {
        let message = refusal(change(local(), zero)).to_string();
        assert!(message.contains(option), "{message}");
    }
}

#[test]
fn bad_addresses_are_shown_with_what_would_be_right() {
    let cases = [
        ("tcp://127.0.0.1", "no port"),
        ("127.0.0.1", "no port"),
        ("tcp://127.0.0.1:http", "0 to 65535"),
        ("tcp://127.0.0.1:65536", "0 to 65535"),
        ("tcp://::1:9000", "brackets"),
        ("tcp4://[::1]:9000", "tcp6://"),
        ("tcp6://127.0.0.1:9000", "tcp4://"),
        ("tpc://127.0.0.1:9000", "tcp://"),
        ("udp://127.0.0.1", "write udp://"),
        ("http://127.0.0.1:9000", "tcp://"),
        ("unix://", "unix:///run/app.sock"),
        ("tcp://a b:9000", "tcp://127.0.0.1:9000"),
        ("tcp://[[]:9000", "brackets"),
        ("tcp://[::1:9000", "brackets"),
        ("tcp://[zz]:9000", "brackets"),
        ("tcp://a:+80", "0 to 65535"),
        ("unix:/run/app.sock", "unix:///run/app.sock"),
        ("tcp4:127.0.0.1:9000", "tcp4://127.0.0.1:9000"),
        ("udp:[::1]:9000", "udp://[::1]:9000"),
        ("tcp://a:", "no port"),
        ("tcp://a:b:80", "brackets"),
        ("tcp://%61:9000", "tcp://127.0.0.1:9000"),
        ("", "no port"),
    ];
    for (addr, right) in cases {
        for server in [Server::bind(addr), local().and(addr)] {
            let message = refusal(server).to_string();
            assert!(message.contains(&format!("{addr:?}")), "{addr}: {message}");
            assert!(message.contains(right), "{addr}: {message}");
        }
    }
}

#[test]
fn a_bind_error_names_the_address() {
    let (running, _log) = start(local(), |app| app);
    let taken = format!("tcp://{}", running.local_addrs()[0]);
    let message = refusal(local().and(&taken)).to_string();
    assert!(
        message.contains(&taken) && message.contains("in use"),
        "{message}"
    );

    // Documentation addresses are nobody's.
    let foreign = "tcp4://192.0.2.1:9000";
    let message = refusal(Server::bind(foreign)).to_string();
    assert!(message.contains(foreign), "{message}");

    let path = TempPath::new();
    let nowhere = format!("{}/socket", path.addr());
    let message = refusal(Server::bind(&nowhere)).to_string();
    assert!(message.contains(&nowhere), "{message}");
    let folder = nowhere
        .trim_start_matches("unix://")
        .trim_end_matches("/socket");
    let remedy = format!("make the folder {folder} first");
    assert!(message.contains(&remedy), "{message}");

    let long = format!("unix:///tmp/{}", "x".repeat(200));
    let message = refusal(Server::bind(&long)).to_string();
    assert!(message.contains(&long), "{message}");
}

#[test]
fn socket_options_reach_the_connections() {
    let server = Server::bind("tcp://127.0.0.1:0")
        .reactors(2)
        .keepalive(Duration::from_secs(77), Duration::from_secs(7), 3)
        .recv_buffer(50_000)
        .send_buffer(60_000);
    let (running, _log) = start(server, |app| {
        app.react(|conn, _, _| {
            let socket = SockRef::from(&*conn);
            assert!(socket.tcp_nodelay().expect("reads"));
            assert!(socket.keepalive().expect("reads"));
            assert_eq!(socket.tcp_keepalive_time().expect("reads").as_secs(), 77);
            assert!((50_000..=100_000).contains(&socket.recv_buffer_size().expect("reads")));
            assert!((60_000..=120_000).contains(&socket.send_buffer_size().expect("reads")));
            conn.set_nodelay(false).expect("sets");
            assert!(!SockRef::from(&*conn).tcp_nodelay().expect("reads"));
            conn.set_keepalive(false).expect("sets");
            assert!(!SockRef::from(&*conn).keepalive().expect("reads"));
            let (local, engine) = (conn.local_addr().expect("reads"), conn.engine());
            assert_eq!(local, engine.local_addrs()[0]);
            conn.write(b"fine").into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert_eq!(client.recv(4), b"fine");

    let (running, _log) = start(local().nodelay(false), |app| {
        app.react(|conn, _, _| {
            let socket = SockRef::from(&*conn);
            assert!(!socket.tcp_nodelay().expect("reads"));
            assert!(!socket.keepalive().expect("reads"));
            conn.write(b"fine").into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    assert_eq!(client.recv(4), b"fine");
}

#[test]
fn buffer_sizes_reach_unix_connections_which_inherit_nothing() {
    let path = TempPath::new();
    let server = Server::bind(path.addr())
        .recv_buffer(50_000)
        .send_buffer(60_000);
    let (running, _log) = start(server, |app| {
        app.react(|conn, _, _| {
            let socket = SockRef::from(&*conn);
            let sizes = [
                socket.recv_buffer_size().expect("reads"),
                socket.send_buffer_size().expect("reads"),
            ];
            conn.write(format!("{sizes:?}").as_bytes()).into()
        })
    });
    let client = Client::to(&running);
    client.send("go");
    // Linux reports twice the size that it was asked for.
    let doubled = b"[100000, 120000]";
    let exact = b"[50000, 60000]";
    let expected: &[u8] = if cfg!(target_os = "linux") {
        doubled
    } else {
        exact
    };
    assert_eq!(client.recv(expected.len()), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn an_option_that_the_kernel_refuses_is_named_with_the_address() {
    let server = local().bind_to_device("no-such-device");
    let message = refusal(server).to_string();
    assert!(message.contains("option bind_to_device: "), "{message}");
    assert!(message.contains("tcp://127.0.0.1:0"), "{message}");
}

#[test]
fn the_accept_mode_is_the_one_that_was_named_last() {
    let server = Server::bind("tcp://127.0.0.1:0")
        .reactors(3)
        .accept_mode(AcceptMode::SingleLoop)
        .accept_mode(AcceptMode::ReusePort);
    let (running, _log) = start(server, |app| app);
    // The main reactor would have accepted it.
    Client::to(&running).round_trip("hello");
    let stats = running.engine().stats();
    assert_eq!((stats.main.accepted, stats.total().accepted), (0, 1));
    assert_eq!(running.engine().reactors(), 3);

    let server = local().accept_mode(AcceptMode::SingleLoop);
    let server = server.accept_mode(AcceptMode::MainReactor).reactors(2);
    let (running, _log) = start(server, |app| app);
    Client::to(&running).round_trip("hello");
    assert_eq!(running.engine().stats().main.accepted, 1);
}

#[test]
fn a_buffer_of_a_size_that_the_kernel_would_misread_is_refused_on_a_connection() {
    let (running, _log) = start(local(), |app| {
        app.on_open(|conn| {
            for refused in [conn.set_recv_buffer(1 << 32), conn.set_send_buffer(1 << 31)] {
                let error = refused.expect_err("it would be misread");
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
                assert!(error.to_string().contains("2147483647"), "{error}");
            }
            true
        })
    });
    Client::to(&running).round_trip("hello");
}

/// Opens a connection and says which reactor it came to.
fn reactor_of(running: &Running<App>, ip: IpAddr) -> (Client, usize) {
    let client = Client::from_ip(running, ip);
    client.send("?");
    let reactor = usize::from(client.recv(1)[0]);
    (client, reactor)
}

fn dealing(server: Server) -> (Running<App>, Arc<Log>) {
    start(server.reactors(4), |app| {
        app.react(|conn, _, _| {
            let reactor = [conn.id().reactor() as u8];
            conn.write(&reactor).into()
        })
    })
}

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn round_robin_deals_evenly() {
    let (running, _log) = dealing(Server::bind("tcp://127.0.0.1:0"));
    let dealt: Vec<_> = (0..40).map(|_| reactor_of(&running, HOME)).collect();
    for four in dealt.chunks(4) {
        let reactors: HashSet<_> = four.iter().map(|(_, reactor)| *reactor).collect();
        assert_eq!(reactors.len(), 4);
    }
    let stats = running.engine().stats();
    assert!(
        stats
            .reactors
            .iter()
            .all(|reactor| reactor.connections == 10)
    );
    drop(dealt);
}

#[test]
fn least_connections_fills_up_the_emptiest() {
    let policy = BalancePolicy::LeastConnections;
    let (running, _log) = dealing(Server::bind("tcp://127.0.0.1:0").balance(policy));
    let dealt: Vec<_> = (0..12).map(|_| reactor_of(&running, HOME)).collect();
    let (leaving, staying): (Vec<_>, Vec<_>) =
        dealt.into_iter().partition(|(_, reactor)| *reactor == 2);
    assert_eq!(leaving.len(), 3);
    drop(leaving);
    eventually("they have left", || running.engine().connections() == 9);
    for _ in 0..2 {
        let more: Vec<_> = (0..3).map(|_| reactor_of(&running, HOME)).collect();
        assert!(more.iter().all(|(_, reactor)| *reactor == 2));
        drop(more);
        eventually("they have left", || running.engine().connections() == 9);
    }
    drop(staying);
}

#[test]
fn source_hash_goes_by_the_address_and_not_the_port() {
    let policy = BalancePolicy::SourceHash;
    let (running, _log) = dealing(Server::bind("tcp://127.0.0.1:0").balance(policy));
    let mut reactors = HashSet::new();
    let mut clients = Vec::new();
    for n in 1..=40 {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, n));
        let dealt: HashMap<_, _> = (0..4)
            .map(|_| reactor_of(&running, ip))
            .map(|(client, reactor)| (reactor, clients.push(client)))
            .collect();
        assert_eq!(dealt.len(), 1, "{ip} came to several reactors");
        reactors.extend(dealt.keys().copied());
    }
    // All of 40 addresses on one of 4 reactors: once in 4^39.
    assert!(reactors.len() > 1);
}

#[test]
fn random_reaches_every_reactor() {
    let policy = BalancePolicy::Random;
    let (running, _log) = dealing(Server::bind("tcp://127.0.0.1:0").balance(policy));
    let mut reactors = HashSet::new();
    // 200 without one of 4 reactors: once in 10^24.
    let dealt: Vec<_> = (0..200).map(|_| reactor_of(&running, HOME)).collect();
    reactors.extend(dealt.iter().map(|(_, reactor)| *reactor));
    assert_eq!(reactors.len(), 4);
}

/// By the last byte of the address; panics at 13.
struct LastByte;

impl Balance for LastByte {
    fn pick(&mut self, peer: &Addr, loads: &[usize]) -> usize {
        assert_eq!(loads.len(), 4);
        let Some(IpAddr::V4(ip)) = peer.ip() else {
            return 0;
        };
        let last = ip.octets()[3];
        if last == 13 {
            panic!("on purpose");
        }
        usize::from(last)
    }
}

#[test]
fn a_policy_of_ones_own_decides() {
    expect_panics();
    let (running, _log) = dealing(Server::bind("tcp://127.0.0.1:0").balance_with(LastByte));
    let cases = [(2, 2), (3, 3), (4, 0), (7, 3), (13, 0), (5, 1)];
    for (last, expected) in cases {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let (_client, reactor) = reactor_of(&running, ip);
        assert_eq!(reactor, expected, "{ip}");
    }
}
