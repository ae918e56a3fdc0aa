//! The addresses of a name race each other, as RFC 8305 describes.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::{Client, Connect, ConnectError, Reconnect, Resolve};
use socket2::{Domain, Socket, Type};

use crate::util::app::start_client;
use crate::util::ports::DeadPort;
use crate::util::{eventually, skipped};
use crate::{client, is_quiet, plain_echo};

/// Finds these addresses for every name.
fn found(addrs: impl IntoIterator<Item = IpAddr>) -> impl Resolve {
    let addrs: Vec<_> = addrs.into_iter().collect();
    move |_: &str| -> io::Result<Vec<SocketAddr>> {
        Ok(addrs.iter().map(|ip| SocketAddr::new(*ip, 9)).collect())
    }
}

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn with(last: impl IntoIterator<Item = u8>) -> Client {
    client(1).resolver(found(last.into_iter().map(local)))
}

/// A listener whose queue is full, and those who fill it.
struct Mute {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl Mute {
    fn on(addr: SocketAddr) -> Option<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&addr.into()).ok()?;
        socket.listen(1).expect("listens");
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().expect("has an address");
        let next = || TcpStream::connect_timeout(&addr, Duration::from_millis(300)).ok();
        let queued = std::iter::from_fn(next).collect();
        Some(Self { listener, queued })
    }

    /// Accepts connections until one comes that is not of those who filled the queue.
    fn accept_other(&self) -> TcpStream {
        let own: Vec<_> = self
            .queued
            .iter()
            .map(|stream| stream.local_addr().expect("has an address"))
            .collect();
        loop {
            let (stream, peer) = self.listener.accept().expect("comes");
            if !own.contains(&peer) {
                return stream;
            }
        }
    }
}

/// Two listeners on the same port of 127.0.0.1 and 127.0.0.2 that do not answer.
fn two_mutes() -> (Mute, Mute) {
    loop {
        let first = Mute::on((local(1), 0).into()).expect("binds");
        let port = first.listener.local_addr().expect("has an address").port();
        if let Some(second) = Mute::on((local(2), port).into()) {
            return (first, second);
        }
    }
}

#[test]
fn an_address_that_does_not_answer_holds_up_the_next_one_only_for_a_moment() {
    let mute = Mute::on((local(1), 0).into()).expect("binds");
    let port = mute.listener.local_addr().expect("has an address").port();
    let Ok(listener) = TcpListener::bind((local(2), port)) else {
        return skipped("the port of the second address is taken");
    };
    plain_echo(listener);
    let (running, log) = start_client(with([1, 2]), |app| app);
    // A share of that time would never be over.
    let connect = Connect::to(format!("tcp://two.test:{port}")).timeout(Duration::MAX);
    running.engine().connect(connect).expect("is taken");
    log.await_open(0);
    eventually("the other attempt is dropped", || {
        running.engine().connections() == 1
    });
    let total = running.shutdown().stats.total();
    assert_eq!((total.connected, total.connect_failures), (1, 0));
    assert_eq!((total.drained, total.closed), (1, 1));
    assert_eq!(log.opened(), 1);
}

#[test]
fn of_two_connections_that_open_in_the_same_turn_one_is_kept() {
    let (first, second) = two_mutes();
    let port = first.listener.local_addr().expect("has an address").port();
    let (running, log) = start_client(with([1, 2]), |app| app);
    let connect = Connect::to(format!("tcp://two.test:{port}")).timeout(Duration::MAX);
    running.engine().connect(connect).expect("is taken");
    eventually("both are tried", || running.engine().connections() == 2);
    // The loop sees both at once.
    let (release, held) = mpsc::channel::<()>();
    let hold = move |_: &mut _, _: &mut epicycle::Reactor<'_, _>| {
        let _ = held.recv();
    };
    running.engine().run_on(0, hold).expect("is taken");
    let streams = [first.accept_other(), second.accept_other()];
    drop(release);
    log.await_open(0);
    eventually("the other one is closed", || {
        running.engine().connections() == 1
    });
    running.engine().shutdown();
    let ended = streams.map(|mut stream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| rest)
    });
    assert!(ended.iter().flatten().all(Vec::is_empty), "{ended:?}");
    let total = running.join().stats.total();
    assert_eq!((total.connected, total.connect_failures), (1, 0));
    assert_eq!((log.opened(), log.closed()), (1, 1));
}

#[test]
fn addresses_that_fail_are_told_each_with_its_reason() {
    let dead = DeadPort::new();
    let port = dead.addr.port();
    let (running, log) = start_client(with([1, 2, 3]), |app| app);
    let connect = Connect::to(format!("tcp://three.test:{port}"))
        .timeout(Duration::MAX)
        .allow(|ip| ip != local(2));
    running.engine().connect(connect).expect("is taken");
    let failed = log.await_failure(0);
    let ConnectError::Host(failures) = &failed.error else {
        panic!("{}", failed.error);
    };
    let addrs: Vec<_> = failures
        .iter()
        .map(|failed| failed.addr.to_string())
        .collect();
    let mut expected = [1, 2, 3].map(|last| SocketAddr::new(local(last), port).to_string());
    // The second is refused at once, while the first is under way.
    let mut sorted = addrs.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    for one in failures {
        let is_second = one.addr.ip() == Some(local(2));
        match &one.error {
            ConnectError::Denied { addr } => assert!(is_second && addr.ip() == local(2)),
            ConnectError::Io(error) => {
                assert!(!is_second && error.kind() == io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other}"),
        }
        let told = format!("{}: {}", one.addr, one.error);
        assert!(failed.error.to_string().contains(&told), "{}", failed.error);
    }
    assert!(matches!(failed.error.last(), ConnectError::Io(_)));
    is_quiet(&running);
}

#[test]
fn addresses_without_an_answer_fail_together_at_the_timeout() {
    let (first, _second) = two_mutes();
    let port = first.listener.local_addr().expect("has an address").port();
    let (running, log) = start_client(with([1, 2]), |app| app);
    let connect = Connect::to(format!("tcp://two.test:{port}")).timeout(Duration::from_millis(200));
    running.engine().connect(connect).expect("is taken");
    let failed = log.await_failure(0);
    let ConnectError::Host(failures) = &failed.error else {
        panic!("{}", failed.error);
    };
    assert_eq!(failures.len(), 2, "{}", failed.error);
    for one in failures {
        assert!(matches!(one.error, ConnectError::Timeout), "{}", one.error);
    }
    is_quiet(&running);
    assert_eq!(log.failures().len(), 1);
}

#[test]
fn a_race_that_is_cancelled_is_told_once_and_leaves_nothing() {
    let (first, _second) = two_mutes();
    let port = first.listener.local_addr().expect("has an address").port();
    let (running, log) = start_client(with([1, 2]), |app| app);
    let connect = Connect::to(format!("tcp://two.test:{port}"))
        .timeout(Duration::MAX)
        .reconnect(Reconnect::default());
    let connecting = running.engine().connect(connect).expect("is taken");
    eventually("both are tried", || running.engine().connections() == 2);
    connecting.cancel().expect("is taken");
    let failed = log.await_failure(0);
    assert!(matches!(failed.error, ConnectError::Cancelled));
    is_quiet(&running);
    assert_eq!(log.failures().len(), 1);
}

#[test]
fn the_ip_versions_take_turns() {
    let v6 = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let resolver = found([v6(1), v6(2), v6(3), local(1), local(2)]);
    let (running, log) = start_client(client(1).resolver(resolver), |app| app);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asking = asked.clone();
    let connect = Connect::to("tcp://five.test:80").allow(move |ip| {
        asking.lock().expect("is whole").push(ip);
        false
    });
    running.engine().connect(connect).expect("is taken");
    log.await_failure(0);
    let order = [v6(1), local(1), v6(2), local(2), v6(3)];
    assert_eq!(*asked.lock().expect("is whole"), order);
}

#[test]
fn a_hundred_addresses_without_an_answer_hold_few_sockets() {
    let mute = Mute::on(SocketAddr::from(([0, 0, 0, 0], 0))).expect("binds");
    let port = mute.listener.local_addr().expect("has an address").port();
    let (running, log) = start_client(with(1..=100), |app| app);
    // The engine uses 64 of them, and has 10 ms for each.
    let connect =
        Connect::to(format!("tcp://many.test:{port}")).timeout(Duration::from_millis(640));
    running.engine().connect(connect).expect("is taken");
    let mut most = 0;
    eventually("it fails", || {
        most = most.max(running.engine().connections());
        !log.failures().is_empty()
    });
    // The oldest is closed at the end of the turn in which the next one begins.
    assert!((2..=9).contains(&most), "{most}");
    is_quiet(&running);
}

#[test]
fn a_connect_is_a_profile_for_many_addresses() {
    let listeners = [1, 2].map(|last| TcpListener::bind((local(last), 0)).expect("binds"));
    let addrs = listeners
        .each_ref()
        .map(|listener| listener.local_addr().expect("has an address"));
    let (running, log) = start_client(client(1), |app| app);
    let profile = Connect::to("tcp://nowhere.invalid:1").local_addr(SocketAddr::new(local(3), 0));
    for addr in addrs {
        running
            .engine()
            .connect(profile.at(addr))
            .expect("is taken");
    }
    let same = profile.at(addrs[0]);
    running.engine().connect(same.clone()).expect("is taken");
    running.engine().connect(same).expect("is taken");
    log.await_open(3);
    for listener in listeners {
        let (_, peer) = listener.accept().expect("comes");
        assert_eq!(peer.ip(), local(3));
    }
    // A bad address is told each time.
    let bad = profile.at("tpc://x");
    for _ in 0..2 {
        let error = running
            .engine()
            .connect(bad.clone())
            .expect_err("is refused");
        assert!(error.to_string().contains("use tcp://"), "{error}");
    }
}
