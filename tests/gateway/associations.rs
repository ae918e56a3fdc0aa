//! SOCKS listeners that relay datagrams (`UDP ASSOCIATE`).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::gateway::settings::ListenerSettings;
use epicycle::gateway::socks::{SocksDatagram, datagram_header};
use epicycle::gateway::{EndedBy, Gateway, Hooks, NoHooks, Record, Running};

use crate::peers::Asker;
use crate::rig::metric;
use crate::socks::{GREETING, listener as plain_listener, start};
use crate::udp::Echo;
use crate::util::{LONG, eventually, noise};

fn listener(allow: &[&str]) -> ListenerSettings {
    let mut listener = plain_listener(allow);
    listener.datagrams.associate = true;
    listener
}

const ALL: &[&str] = &["127.0.0.0/8:*", "localhost:*"];

/// Returns a request for an association, with the address from which its client says that it sends.
fn request(from: SocketAddr) -> Vec<u8> {
    let mut request = b"\x05\x03\x00".to_vec();
    request.extend(&datagram_header(from).as_slice()[3..]);
    request
}

fn unnamed() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
}

/// A client with an association.
struct Client {
    control: Asker,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Client {
    fn to<H: Hooks>(gateway: &Running<H>) -> Self {
        Self::with(
            gateway,
            UdpSocket::bind("127.0.0.1:0").expect("a port"),
            unnamed(),
        )
    }

    fn with<H: Hooks>(gateway: &Running<H>, socket: UdpSocket, named: SocketAddr) -> Self {
        let mut control = Asker::to(gateway);
        let (code, relay) = ask(&mut control, named);
        assert_eq!(code, 0);
        socket.set_read_timeout(Some(LONG)).expect("is set");
        Self {
            control,
            socket,
            relay,
        }
    }

    fn send(&self, to: SocketAddr, data: &[u8]) {
        self.send_raw(&[datagram_header(to).as_slice(), data].concat());
    }

    fn send_to_name(&self, name: &str, port: u16, data: &[u8]) {
        let mut datagram = b"\0\0\0\x03".to_vec();
        datagram.push(u8::try_from(name.len()).expect("is short"));
        datagram.extend(name.as_bytes());
        datagram.extend(port.to_be_bytes());
        datagram.extend(data);
        self.send_raw(&datagram);
    }

    fn send_raw(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.relay).expect("is sent");
    }

    /// Returns the next answer, with where it comes from.
    fn recv(&self) -> (SocketAddr, Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        let (len, from) = self.socket.recv_from(&mut bytes).expect("it comes");
        assert_eq!(from, self.relay);
        let datagram = SocksDatagram::parse(&bytes[..len]).expect("is sound");
        let from = datagram.target.to_string().parse().expect("an address");
        (from, datagram.data.to_vec())
    }

    fn hears_nothing(&self) -> bool {
        let wait = Some(Duration::from_millis(40));
        self.socket.set_read_timeout(wait).expect("is set");
        let received = self.socket.recv(&mut [0; 10]);
        self.socket.set_read_timeout(Some(LONG)).expect("is set");
        received.is_err()
    }
}

/// Returns the code of the reply, and the address in it.
fn ask(control: &mut Asker, named: SocketAddr) -> (u8, SocketAddr) {
    control.send([GREETING, &request(named)].concat());
    assert_eq!(control.recv(2), b"\x05\x00");
    let head = control.recv(4);
    assert_eq!((head[0], head[2], head[3]), (5, 0, 1), "{head:x?}");
    let ip: [u8; 4] = control.recv(4).try_into().expect("4 bytes");
    let port: [u8; 2] = control.recv(2).try_into().expect("2 bytes");
    (head[1], SocketAddr::from((ip, u16::from_be_bytes(port))))
}

fn count<H: Hooks>(gateway: &Running<H>, name: &str) -> f64 {
    let text = gateway.control().metrics();
    metric(&text, &format!("epicycle_gateway_{name}")).unwrap_or_else(|| panic!("{name}: {text}"))
}

fn dropped<H: Hooks>(gateway: &Running<H>, reason: &str) -> f64 {
    count(
        gateway,
        &format!("dropped_datagrams_total{{reason=\"{reason}\"}}"),
    )
}

fn is_empty<H: Hooks>(gateway: &Running<H>) -> bool {
    count(gateway, "associations") == 0.0 && gateway.engine().connections() == 0
}

#[test]
fn datagrams_reach_their_targets_and_answers_tell_where_they_come_from() {
    let targets = [Echo::start(""), Echo::start("")];
    let gateway = start(listener(ALL));
    let client = Client::to(&gateway);
    assert_eq!(client.relay.ip(), Ipv4Addr::LOCALHOST);
    for target in &targets {
        for len in [0, 1, 1200, 65_497, 0, 5] {
            let data = noise(len as u64, len);
            client.send(target.addr, &data);
            assert_eq!(client.recv(), (target.addr, data), "{len}");
        }
        // A session for each, which stays.
        assert_eq!(target.peers().len(), 1);
    }
    // A name is looked up, and the answer tells the address.
    client.send_to_name("localhost", targets[0].addr.port(), b"by name");
    assert_eq!(client.recv(), (targets[0].addr, b"by name".to_vec()));
    assert_eq!(count(&gateway, "associations"), 1.0);
    drop(client);
    eventually("nothing is left", || is_empty(&gateway));
}

#[test]
fn an_association_ends_with_its_connection_or_with_any_byte_on_it() {
    let target = Echo::start("");
    let gateway = start(listener(ALL));
    for end in 0..3 {
        let mut client = Client::to(&gateway);
        client.send(target.addr, b"x");
        client.recv();
        match end {
            0 => client.control.send(b"?"),
            1 => client.control.end_writes(),
            _ => drop(std::mem::replace(&mut client.control, Asker::to(&gateway))),
        }
        if end < 2 {
            assert_eq!(client.control.recv_to_end(), b"");
        }
        eventually("it has ended", || count(&gateway, "associations") == 0.0);
        drop(client);
        eventually("nothing is left", || is_empty(&gateway));
    }
}

#[test]
fn only_the_client_sends_and_only_targets_answer() {
    let target = Echo::start("");
    let gateway = start(listener(ALL));
    let client = Client::to(&gateway);
    let datagram = [datagram_header(target.addr).as_slice(), b"forged"].concat();
    // Another address of this host is another one's.
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("a port");
    stranger.send_to(&datagram, client.relay).expect("is sent");
    client.send(target.addr, b"mine");
    assert_eq!(client.recv(), (target.addr, b"mine".to_vec()));
    // The first datagram has fixed the port.
    let other_port = UdpSocket::bind("127.0.0.1:0").expect("a port");
    other_port
        .send_to(&datagram, client.relay)
        .expect("is sent");
    // The gateway's socket for the target takes nothing from others.
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    stranger
        .send_to(b"forged", target.peers()[0])
        .expect("is sent");
    assert!(client.hears_nothing());
    assert_eq!(target.peers().len(), 1);
    client.send(target.addr, b"mine too");
    assert_eq!(client.recv(), (target.addr, b"mine too".to_vec()));
}

#[test]
fn a_port_that_the_request_names_is_the_only_one() {
    let target = Echo::start("");
    let gateway = start(listener(ALL));
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let client = Client::with(&gateway, socket, SocketAddr::from((ip, port)));
        let datagram = [datagram_header(target.addr).as_slice(), b"forged"].concat();
        let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let before = target.peers().len();
        let _ = other.send_to(&datagram, client.relay);
        client.send(target.addr, b"mine");
        assert_eq!(client.recv(), (target.addr, b"mine".to_vec()));
        assert_eq!(target.peers().len(), before + 1);
    }
    // Behind a NAT a client names an address that nobody here knows.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let named = SocketAddr::from(([192, 168, 0, 7], 1234));
    let client = Client::with(&gateway, socket, named);
    client.send(target.addr, b"mine");
    assert_eq!(client.recv(), (target.addr, b"mine".to_vec()));
}

#[test]
fn bad_datagrams_are_dropped_and_counted() {
    let target = Echo::start("");
    let gateway = start(listener(ALL));
    let client = Client::to(&gateway);
    let header = datagram_header(target.addr);
    let mut fragment = header.as_slice().to_vec();
    fragment[2] = 1;
    client.send_raw(&fragment);
    client.send_raw(b"");
    client.send_raw(b"\0\0\0\x09");
    client.send_raw(&header.as_slice()[..8]);
    client.send_raw(b"\0\0\0\x03\x05127.1\0\x35");
    client.send(target.addr, b"x");
    assert_eq!(client.recv(), (target.addr, b"x".to_vec()));
    assert_eq!(
        (
            dropped(&gateway, "fragment"),
            dropped(&gateway, "malformed")
        ),
        (1.0, 4.0)
    );
    assert_eq!(target.peers().len(), 1);
}

#[test]
fn the_policy_is_held_for_each_target_and_for_the_address_of_a_name() {
    let (target, other) = (Echo::start(""), Echo::start(""));
    let (address, name) = (
        target.addr.to_string(),
        format!("localhost:{}", other.addr.port()),
    );
    let gateway = start(listener(&[&address, &name]));
    let client = Client::to(&gateway);
    client.send(other.addr, b"x");
    client.send("169.254.169.254:80".parse().expect("is one"), b"x");
    // The name is allowed, and what it stands for is not.
    client.send_to_name("localhost", other.addr.port(), b"x");
    client.send(target.addr, b"x");
    assert_eq!(client.recv(), (target.addr, b"x".to_vec()));
    eventually("three are denied", || dropped(&gateway, "denied") == 3.0);
    assert_eq!(count(&gateway, "egress_refusals_total"), 3.0);
    assert!(other.peers().is_empty());
}

#[test]
fn a_target_that_never_answers_or_does_not_exist_disturbs_no_other() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let closed = UdpSocket::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let target = Echo::start("");
    let gateway = start(listener(&["127.0.0.0/8:*", "*"]));
    let client = Client::to(&gateway);
    for _ in 0..100 {
        client.send(silent.local_addr().expect("bound"), b"x");
        client.send(closed, b"x");
    }
    for _ in 0..20 {
        client.send_to_name("no-such-host.invalid", 53, &[0; 100]);
    }
    client.send(target.addr, b"x");
    assert_eq!(client.recv(), (target.addr, b"x".to_vec()));
    eventually("what waits for a name is dropped", || {
        dropped(&gateway, "unreachable") + dropped(&gateway, "full") >= 20.0
    });
    drop(client);
    eventually("nothing is left", || is_empty(&gateway));
}

#[test]
fn one_more_target_than_possible_takes_the_place_of_the_one_that_was_used_longest_ago() {
    let targets: Vec<Echo> = (0..65).map(|_| Echo::start("")).collect();
    let gateway = start(listener(ALL));
    let client = Client::to(&gateway);
    for target in &targets {
        client.send(target.addr, b"x");
        assert_eq!(client.recv().0, target.addr);
    }
    // 64 targets, the client, and its connection.
    eventually("the first one has gone", || {
        gateway.engine().connections() == 66
    });
    for target in [&targets[64], &targets[0]] {
        client.send(target.addr, b"x");
        assert_eq!(client.recv().0, target.addr);
    }
    assert_eq!(
        (targets[64].peers().len(), targets[0].peers().len()),
        (1, 2)
    );
}

#[test]
fn an_association_in_which_nothing_passes_ends_and_is_recorded() {
    type Seen = Arc<Mutex<Vec<(u16, EndedBy, &'static str, String, (u64, u64))>>>;

    struct Keeper(Seen);

    impl Hooks for Keeper {
        type Exchange = ();

        fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
            let bytes = (record.request_bytes, record.response_bytes);
            self.0.lock().expect("sound").push((
                record.status,
                record.ended_by,
                record.timeout,
                record.target.to_owned(),
                bytes,
            ));
        }
    }

    let target = Echo::start("name");
    let mut settings = listener(ALL);
    settings.datagrams.idle = Duration::from_millis(80);
    let seen = Seen::default();
    let keeper = seen.clone();
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(settings)
        .build()
        .expect("it is sound");
    let gateway = gateway
        .start(move |_| Keeper(keeper.clone()))
        .expect("it starts");
    let mut client = Client::to(&gateway);
    client.send(target.addr, b"x");
    assert_eq!(client.recv().1, b"name:x");
    assert_eq!(client.control.recv_to_end(), b"");
    eventually("it is recorded", || seen.lock().expect("sound").len() == 1);
    let entry = seen.lock().expect("sound")[0].clone();
    assert_eq!(
        entry,
        (200, EndedBy::Timeout, "udp_idle", "udp".to_owned(), (1, 6))
    );
    eventually("nothing is left", || is_empty(&gateway));
    // One without datagrams ends as well.
    let mut client = Client::to(&gateway);
    assert_eq!(client.control.recv_to_end(), b"");
    eventually("nothing is left", || is_empty(&gateway));
}

#[test]
fn associations_are_off_by_default_and_bounded_when_they_are_on() {
    let gateway = start(plain_listener(ALL));
    assert_eq!(ask(&mut Asker::to(&gateway), unnamed()).0, 7);
    let mut settings = listener(ALL);
    settings.datagrams.max_sessions = 2;
    settings.datagrams.advertise = Some(Ipv4Addr::new(192, 0, 2, 1).into());
    let gateway = start(settings);
    let mut controls = [
        Asker::to(&gateway),
        Asker::to(&gateway),
        Asker::to(&gateway),
    ];
    let answers = controls.each_mut().map(|control| ask(control, unnamed()));
    assert_eq!(answers.map(|(code, _)| code), [0, 0, 1]);
    assert_eq!(answers[0].1.ip(), Ipv4Addr::new(192, 0, 2, 1));
    drop(controls);
    eventually("nothing is left", || is_empty(&gateway));
}

#[test]
fn very_many_associations_and_clients_that_leave_at_once_leave_nothing_behind() {
    let target = Echo::start("");
    let gateway = start(listener(ALL));
    let clients: Vec<Client> = (0..200).map(|_| Client::to(&gateway)).collect();
    for client in &clients {
        client.send(target.addr, b"x");
    }
    for client in &clients {
        assert_eq!(client.recv().1, b"x");
    }
    drop(clients);
    for n in 0..100 {
        let addr = gateway.local_addrs()[0]
            .as_socket_addr()
            .expect("an address");
        let mut stream = TcpStream::connect(addr).expect("it listens");
        let whole = [GREETING, &request(unnamed())].concat();
        stream.write_all(&whole).expect("is sent");
        match n % 3 {
            0 => socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .expect("is set"),
            1 => {
                let _ = stream.read(&mut [0; 2]);
            }
            _ => {}
        }
    }
    eventually("nothing is left", || is_empty(&gateway));
}

#[test]
fn the_end_of_the_gateway_ends_associations() {
    let target = Echo::start("");
    let gateway: Running<NoHooks> = start(listener(ALL));
    let mut client = Client::to(&gateway);
    client.send(target.addr, b"x");
    client.recv();
    gateway.shutdown();
    assert_eq!(client.control.recv_to_end(), b"");
}
