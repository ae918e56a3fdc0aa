//! Host names: looked up off the event loop, and each of their addresses is tried.

use std::net::{SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::time::Duration;

use epicycle::{Connect, ConnectError, Endpoint, Reconnect};
use socket2::{Domain, Socket, Type};

use crate::util::app::start_client;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::process::alone_with_hosts;
use crate::util::{LONG, eventually, skipped};
use crate::{client, is_quiet, plain_echo};

const HOSTS: &str =
    "127.0.0.1 localhost\n::1 threefold\n127.0.0.1 threefold\n127.0.0.2 threefold\n";

#[test]
fn a_host_name_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    plain_echo(listener);
    for scheme in ["tcp", "tcp4"] {
        let (running, log) = start_client(client(1), |app| {
            app.on_open(|conn| conn.write(b"hello").is_ok())
                .react(|_, _, _| epicycle::Action::Close)
        });
        let addr = format!("{scheme}://localhost:{port}");
        running.engine().connect(&addr).expect("is taken");
        assert_eq!(log.await_close(0).0.bytes_in, 5);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_told() {
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to("tcp://no-such-host.invalid:80").timeout(LONG);
    running.engine().connect(connect).expect("is taken");
    let failed = log.await_failure(0);
    let ConnectError::Address(error) = &failed.error else {
        panic!("{}", failed.error);
    };
    assert!(error.to_string().contains("no-such-host.invalid"));
    is_quiet(&running);
}

#[test]
fn when_the_first_addresses_of_a_name_refuse_the_next_is_tried() {
    let name = "names::when_the_first_addresses_of_a_name_refuse_the_next_is_tried";
    alone_with_hosts(name, HOSTS, || {
        let listener = TcpListener::bind("127.0.0.2:0").expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        plain_echo(listener);
        let (running, log) = start_client(client(1), |app| app);
        let addr = format!("tcp://threefold:{port}");
        running.engine().connect(&addr).expect("is taken");
        log.await_open(0);
        assert!(log.failures().is_empty());
        let total = running.shutdown().stats.total();
        assert_eq!((total.connected, total.connect_failures), (1, 0));
    });
}

#[test]
fn an_address_that_does_not_answer_leaves_time_for_the_next() {
    let name = "names::an_address_that_does_not_answer_leaves_time_for_the_next";
    alone_with_hosts(name, HOSTS, || {
        let mute = MutePort::new();
        let listener = TcpListener::bind(("127.0.0.2", mute.addr.port())).expect("binds");
        plain_echo(listener);
        let (running, log) = start_client(client(1), |app| app);
        let addr = format!("tcp4://threefold:{}", mute.addr.port());
        let connect = Connect::to(&addr).timeout(Duration::from_secs(2));
        running.engine().connect(connect).expect("is taken");
        log.await_open(0);
        assert!(log.failures().is_empty());
    });
}

#[test]
fn when_all_addresses_of_a_name_refuse_one_failure_is_told() {
    let name = "names::when_all_addresses_of_a_name_refuse_one_failure_is_told";
    alone_with_hosts(name, HOSTS, || {
        let dead = DeadPort::new();
        let (running, log) = start_client(client(1), |app| app);
        let addr = format!("tcp://threefold:{}", dead.addr.port());
        let limited = Reconnect::new(Duration::from_millis(1), Duration::from_millis(1)).limit(2);
        let connect = Connect::to(&addr).reconnect(limited);
        running.engine().connect(connect).expect("is taken");
        assert!(log.await_failure(0).retry_in.is_some());
        let last = log.await_failure(1);
        assert_eq!((last.attempt, last.retry_in), (2, None));
        eventually("none is left", || running.engine().connections() == 0);
        running.shutdown();
        assert_eq!(log.failures().len(), 2);
    });
}

#[test]
fn of_a_names_addresses_those_of_the_local_addresss_version_are_tried() {
    let name = "names::of_a_names_addresses_those_of_the_local_addresss_version_are_tried";
    alone_with_hosts(name, HOSTS, || {
        // Both listen, on one port.
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        plain_echo(listener);
        let six = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
        six.set_only_v6(true).expect("is set");
        let addr: SocketAddr = format!("[::1]:{port}").parse().expect("an address");
        six.bind(&addr.into()).expect("binds");
        plain_echo({
            six.listen(8).expect("listens");
            six.into()
        });
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let local: SocketAddr = local.parse().expect("an address");
            let (running, log) = start_client(client(1), move |app| {
                app.on_open(move |conn| {
                    conn.peer_addr().ip().is_some_and(|ip| ip == local.ip())
                        && conn.write(b"hello").is_ok()
                })
                .react(|_, _, _| epicycle::Action::Close)
            });
            let connect = Connect::to(format!("tcp://threefold:{port}")).local_addr(local);
            running.engine().connect(connect).expect("is taken");
            assert_eq!(log.await_close(0).0.bytes_in, 5);
        }
        let (running, log) = start_client(client(1), |app| app);
        let local: SocketAddr = "[::1]:0".parse().expect("an address");
        let connect = Connect::to(format!("tcp://localhost:{port}")).local_addr(local);
        running.engine().connect(connect).expect("is taken");
        let error = log.await_failure(0).error.to_string();
        assert!(
            error.contains("no address of the local address's"),
            "{error}"
        );
    });
}

#[test]
fn a_lookup_that_takes_long_can_time_out_be_cancelled_and_does_not_delay_the_shutdown() {
    let name =
        "names::a_lookup_that_takes_long_can_time_out_be_cancelled_and_does_not_delay_the_shutdown";
    alone_with_hosts(name, HOSTS, || {
        // A name server that never answers.
        let Ok(_server) = UdpSocket::bind("127.0.0.1:53") else {
            return skipped(&format!("{name} needs the port of a name server"));
        };
        let (running, log) = start_client(client(1), |app| app);
        let connect = |token, timeout| {
            let connect = Connect::to("tcp://slow.test:80").token(token);
            running
                .engine()
                .connect(connect.timeout(timeout))
                .expect("is taken")
        };
        connect(1, Duration::from_millis(100));
        let failed = log.await_failure(0);
        assert_eq!(failed.token, 1);
        assert!(matches!(failed.error, ConnectError::Timeout));
        let connecting = connect(2, LONG);
        connecting.cancel().expect("is taken");
        let failed = log.await_failure(1);
        assert_eq!(failed.token, 2);
        assert!(matches!(failed.error, ConnectError::Cancelled));
        // The others are served meanwhile.
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("has an address");
        plain_echo(listener);
        running.engine().connect(addr).expect("is taken");
        log.await_open(0);
        connect(3, LONG);
        eventually("it is looked up", || {
            running.engine().stats().total().queued == 0
                && running.engine().stats().total().timers >= 1
        });
        running.shutdown();
        let failed = log.await_failure(2);
        assert_eq!(failed.token, 3);
        assert!(matches!(failed.error, ConnectError::Stopped));
        assert_eq!(log.failures().len(), 3);
    });
}

#[test]
fn a_link_local_address_keeps_its_interface() {
    let addr = SocketAddrV6::new("fe80::1".parse().expect("an address"), 80, 0, 3);
    let listen = Endpoint::from(SocketAddr::from(addr));
    assert_eq!(listen.to_string(), "tcp6://[fe80::1%3]:80");
    assert_eq!(
        listen.to_string().parse::<Endpoint>().ok(),
        Some(listen.clone())
    );
    assert_eq!(listen.resolve().expect("is one"), [SocketAddr::from(addr)]);
}
