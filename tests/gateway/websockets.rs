//! `websocket = "frames"`: what both sides of a WebSocket get, and above all when it ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{PoolSettings, RouteSettings, WebSocketMode};
use epicycle::gateway::{NoHooks, Running};

use crate::peers::builder;
use crate::rig::metric;
use crate::util::{LONG, eventually};

/// A WebSocket through a gateway, with both of its ends.
struct Joined {
    gateway: Running<NoHooks>,
    client: TcpStream,
    node: TcpStream,
}

/// Reads up to the end of a head.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("is text")
}

fn join(change: impl FnOnce(&mut PoolSettings)) -> Joined {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut pool = PoolSettings::of([url]);
    change(&mut pool);
    let mut route = RouteSettings::to("app");
    route.websocket = WebSocketMode::Frames;
    let gateway = builder(pool).route(route).build().expect("it is sound");
    let gateway = gateway.start_plain().expect("it starts");
    let addr = gateway.local_addrs()[0].as_socket_addr();
    let mut client = TcpStream::connect(addr.expect("an address")).expect("it listens");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    // The first frame comes early.
    let request = format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}");
    let early = [request.as_bytes(), &masked(1, b"early")].concat();
    client.write_all(&early).expect("is taken");
    let (mut node, _) = listener.accept().expect("a connection");
    for stream in [&client, &node] {
        stream.set_read_timeout(Some(LONG)).expect("is set");
    }
    assert!(read_head(&mut node).starts_with("GET /chat"));
    let response = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}");
    let early = [response.as_bytes(), &frame(1, b"hello")].concat();
    node.write_all(&early).expect("is taken");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    let mut joined = Joined {
        gateway,
        client,
        node,
    };
    joined.gets_client(&frame(1, b"hello"));
    joined.gets_node(&masked(1, b"early"));
    joined
}

/// Returns a short frame of a server.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | opcode, payload.len() as u8], payload].concat()
}

/// Returns a short frame of a client. Its mask changes nothing.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let len = 0x80 | payload.len() as u8;
    [&[0x80 | opcode, len, 0, 0, 0, 0], payload].concat()
}

fn recv(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("they come");
    bytes
}

impl Joined {
    fn gets_client(&mut self, wanted: &[u8]) {
        assert_eq!(recv(&self.client, wanted.len()), wanted);
    }

    fn gets_node(&mut self, wanted: &[u8]) {
        assert_eq!(recv(&self.node, wanted.len()), wanted);
    }

    fn client_is_told(&mut self, code: u16) {
        let [high, low] = code.to_be_bytes();
        self.gets_client(&[0x88, 2, high, low]);
    }

    /// Asserts that the node gets a Close, with a mask as from any client.
    fn node_is_told(&mut self, code: u16) {
        let close = recv(&self.node, 8);
        assert_eq!(close[..2], [0x88, 0x82]);
        let said = [close[6] ^ close[2], close[7] ^ close[3]];
        assert_eq!(u16::from_be_bytes(said), code);
    }
}

/// Asserts that a stream ends, without a reset.
fn ends(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("it ends properly");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn frames_pass_both_ways_as_they_are() {
    let mut joined = join(|_| {});
    // A long one, of a compressed message in fragments, with a ping in between.
    let mut long = vec![0x42, 0xFF];
    long.extend(200_000_u64.to_be_bytes());
    long.extend([1, 2, 3, 4]);
    long.extend(vec![7; 200_000]);
    long.extend(masked(9, b"ping"));
    long.extend(masked(0, b"end"));
    let mut client = joined.client.try_clone().expect("a copy");
    let sent = long.clone();
    let sender = thread::spawn(move || client.write_all(&sent).expect("is taken"));
    joined.gets_node(&long);
    sender.join().expect("is sent");
    joined
        .node
        .write_all(&frame(10, b"ping"))
        .expect("is taken");
    joined.gets_client(&frame(10, b"ping"));
    let tunnels = |joined: &Joined| {
        metric(
            &joined.gateway.control().metrics(),
            "epicycle_gateway_tunnels",
        )
    };
    assert_eq!(tunnels(&joined), Some(1.0));

    // The closing handshake is that of the peers.
    joined
        .client
        .write_all(&masked(8, &[3, 232]))
        .expect("is taken");
    joined.gets_node(&masked(8, &[3, 232]));
    joined
        .node
        .write_all(&frame(8, &[3, 232]))
        .expect("is taken");
    joined.node.shutdown(Shutdown::Write).expect("is open");
    joined.gets_client(&frame(8, &[3, 232]));
    ends(&joined.client);
    joined.client.shutdown(Shutdown::Write).expect("is open");
    ends(&joined.node);
    eventually("it is over", || tunnels(&joined) == Some(0.0));
}

#[test]
fn a_gateway_that_ends_tells_both_sides_of_a_websocket() {
    let mut joined = join(|_| {});
    joined.gateway.control().shutdown();
    joined.client_is_told(1001);
    joined.node_is_told(1001);
    for stream in [&joined.client, &joined.node] {
        ends(stream);
        stream.shutdown(Shutdown::Both).ok();
    }
    joined.gateway.join();
}

#[test]
fn a_gateway_that_ends_waits_for_the_end_of_a_frame() {
    let mut joined = join(|_| {});
    let long = masked(2, b"0123456789");
    let (begin, rest) = long.split_at(9);
    joined.client.write_all(begin).expect("is taken");
    joined.gets_node(begin);
    joined.gateway.control().shutdown();
    // A frame to the client is complete, and the Close comes behind it.
    joined.client.write_all(rest).expect("is taken");
    joined.gets_node(rest);
    joined.node_is_told(1001);
    joined.client_is_told(1001);
    for stream in [&joined.client, &joined.node] {
        ends(stream);
        stream.shutdown(Shutdown::Both).ok();
    }
    joined.gateway.join();
}

#[test]
fn a_side_that_sends_no_frames_is_told_and_the_other_one_too() {
    let mut joined = join(|_| {});
    // Without a mask.
    joined.client.write_all(&frame(1, b"x")).expect("is taken");
    joined.client_is_told(1002);
    joined.node_is_told(1001);
}

#[test]
fn a_websocket_that_is_idle_for_too_long_ends_with_a_close() {
    let mut joined = join(|pool| pool.timeouts.tunnel_idle = Duration::from_millis(100));
    joined.client_is_told(1001);
    joined.node_is_told(1001);

    // So does one whose frame stands still. The node gets no Close in the middle of it.
    let mut joined = join(|pool| pool.timeouts.tunnel_idle = Duration::from_secs(1));
    let half = &masked(2, b"0123456789")[..9];
    joined.client.write_all(half).expect("is taken");
    joined.gets_node(half);
    joined.client_is_told(1001);
    ends(&joined.node);
}

#[test]
fn a_side_that_is_gone_ends_the_other_one() {
    let joined = join(|_| {});
    socket2::SockRef::from(&joined.client)
        .set_linger(Some(Duration::ZERO))
        .expect("is set");
    drop(joined.client);
    let end = (&joined.node)
        .read(&mut [0; 1])
        .map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));

    let mut joined = join(|_| {});
    // It is silent, but its stream has an end.
    joined.node.shutdown(Shutdown::Write).expect("is open");
    ends(&joined.client);
    joined
        .client
        .write_all(&masked(1, b"still"))
        .expect("is taken");
    joined.gets_node(&masked(1, b"still"));
}
