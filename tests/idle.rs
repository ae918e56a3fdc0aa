//! Ten thousand connections open, idle and closed. It is a test binary of its own, because it needs most of the
//! descriptors.

mod util;

use std::env;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use epicycle::{EventHandler, Running, Server, service};
use socket2::{Domain, Socket, Type};

use crate::util::client::Client;
use crate::util::process::{Partner, descriptor_limit, descriptors, limit_descriptors, resident};
use crate::util::{LONG, eventually};

const WANTED: usize = 10_000;

/// The variable that gives the child process the address and the number of connections.
const ROLE: &str = "EPICYCLE_TEST_IDLE_CLIENTS";

const NAME: &str = "ten_thousand_connections_idle_and_leave_nothing_behind";

#[test]
fn ten_thousand_connections_idle_and_leave_nothing_behind() {
    limit_descriptors(descriptor_limit().1);
    if let Ok(role) = env::var(ROLE) {
        return be_the_clients(&role);
    }
    // Each process holds one end of every connection, and a few other descriptors.
    let possible = descriptor_limit().0.saturating_sub(100) as usize;
    let count = WANTED.min(possible);
    if count < WANTED {
        eprintln!(
            "ONLY {count} OF {WANTED} CONNECTIONS: raise the hard limit on descriptors (ulimit -Hn)"
        );
    }
    let running = Server::bind("tcp://127.0.0.1:0")
        .reactors(2)
        .idle_timeout(10 * LONG)
        .start(|_| service(|conn, bytes| conn.write(bytes).into()))
        .unwrap();
    let stats = || running.engine().stats().total();
    Client::to(&running).round_trip("warm up");
    eventually("it is gone", || stats().connections == 0);
    let (before, memory_before) = (descriptors(), resident());

    let mut clients = Clients::start(&format!("{} {count}", running.local_addrs()[0]));
    clients.await_line("open");
    // The pipes to the child are two more descriptors.
    let open = || stats().connections == count as u64;
    eventually("all are accepted", open);
    assert_eq!(descriptors(), before + count + 2);
    // The last connections may still be in transit to their reactor.
    eventually("each has a timer", || stats().timers == count as u64);
    eventually("no idle connection holds a buffer", || {
        stats().buffered == 0
    });
    if let (Some(before), Some(now)) = (memory_before, resident()) {
        let each = now.saturating_sub(before) / count;
        println!("{each} bytes of resident memory a connection");
        assert!(each < 2048, "{each} bytes a connection");
    }

    only_the_active_take_turns(&running);
    eventually("the active one is gone", open);

    clients.go_on();
    clients.await_line("echoed");
    assert!(open());
    eventually("no idle connection holds a buffer", || {
        stats().buffered == 0
    });

    clients.go_on();
    assert!(clients.0.child.wait().unwrap().success());
    drop(clients);
    eventually("all are gone", || stats().connections == 0);
    eventually("no descriptor is left", || descriptors() == before);
    eventually("no timer is left", || stats().timers == 0);
    assert_eq!(stats().closed, count as u64 + 2);
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (0, 0));
}

/// Asserts that the loops sleep, and that an active client causes hardly more turns than messages.
fn only_the_active_take_turns<H: EventHandler>(running: &Running<H>) {
    let turns = || running.engine().stats().total().turns;
    eventually("loops whose connections are idle sleep", || {
        let before = turns();
        thread::sleep(Duration::from_millis(500));
        turns() == before
    });
    let (before, active) = (turns(), Client::to(running));
    for _ in 0..100 {
        active.round_trip("no turn is for the idle ones");
    }
    let turns = turns() - before;
    assert!(
        (100..200).contains(&turns),
        "{turns} turns for 100 messages"
    );
}

/// The child process, with the other ends of the connections.
struct Clients(Partner);

impl Clients {
    fn start(role: &str) -> Self {
        Self(Partner::start(NAME, &[(ROLE, role)]))
    }

    fn await_line(&mut self, expected: &str) {
        let lines = &mut self.0.lines;
        let found = lines.any(|line| line.expect("is text").ends_with(expected));
        assert!(found, "the clients failed");
    }

    fn go_on(&mut self) {
        writeln!(self.0.orders, "go on").expect("it waits");
    }
}

fn be_the_clients(role: &str) {
    let (addr, count) = role.split_once(' ').expect("two words");
    let addr: SocketAddr = addr.parse().expect("an address");
    let count: usize = count.parse().expect("a number");
    let mut orders = std::io::stdin().lines();
    let clients: Vec<_> = (0..count).map(|n| connect(addr, n)).collect();
    println!("open");
    orders.next();
    for some in clients.chunks(100) {
        for client in some {
            client.send("anybody there?");
        }
        for client in some {
            assert_eq!(client.recv(14), b"anybody there?");
        }
    }
    println!("echoed");
    orders.next();
}

/// Connects from one of several addresses, because each has a limited number of ports.
fn connect(addr: SocketAddr, n: usize) -> Client {
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, (n % 8) as u8 + 1));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
    socket
        .bind(&SocketAddr::new(from, 0).into())
        .expect("a port is free");
    socket.connect(&addr.into()).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("sets");
    Client(socket)
}
