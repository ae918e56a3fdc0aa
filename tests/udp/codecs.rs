//! Codecs on sessions: their cost counts, and a faulty answer ends only one datagram.

use std::net::UdpSocket;
use std::sync::mpsc;

use epicycle::codec::{Codec, Decoded, FrameError, Stage};
use epicycle::{
    Action, Addr, Client, Conn, ConnInfo, Connect, EventHandler, Listen, Server, UdpSessions,
};

use crate::peer::Peer;
use crate::util::{LONG, eventually};

/// A frame is one byte. What begins with a digit is answered wrongly.
#[derive(Default)]
struct Bytes {
    cost: usize,
}

impl Codec for Bytes {
    type Frame<'a> = u8;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        let frame = src[0];
        self.cost += COST;
        Ok(match frame {
            b'0' => Decoded::Skip { consumed: 0 },
            b'1' => Decoded::Skip {
                consumed: src.len() + 1,
            },
            b'2' => Decoded::Frame {
                frame,
                consumed: src.len() + 1,
            },
            b'3' => Decoded::Frame { frame, consumed: 0 },
            _ => Decoded::Frame { frame, consumed: 1 },
        })
    }

    fn take_cost(&mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

/// As much as a turn allows.
const COST: usize = 64 << 10;

struct Echo;

impl EventHandler for Echo {
    type Codec = Bytes;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Bytes {
        Bytes::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: u8) -> Action {
        if !frame.is_ascii_digit() {
            conn.write(&[frame]).expect("is queued");
        }
        Action::Continue
    }
}

fn server() -> Server {
    let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    Server::bind(listen).reactors(1).read_budget(COST)
}

#[test]
fn a_codec_that_consumes_nothing_or_too_much_costs_a_datagram() {
    let running = server().start(|_| Echo).expect("starts");
    let peer = Peer::of(&running);
    let dropped = || running.engine().stats().total().datagrams_dropped;
    for (n, wrong) in ["0", "1", "2", "3"].into_iter().enumerate() {
        peer.send(format!("a{wrong}!"));
        assert_eq!(peer.recv(), b"a", "what came before is answered");
        eventually("the rest is dropped", || dropped() == n as u64 + 1);
        peer.round_trip("b");
    }
}

#[test]
fn what_a_codec_has_cost_counts_for_a_sockets_budget() {
    const COUNT: u64 = 40;
    let running = server().start(|_| Echo).expect("starts");
    let peer = Peer::of(&running);
    let stats = || running.engine().stats().total();
    // So that all of them are there when the first is received.
    let (entered, enters) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    running
        .engine()
        .run_on(0, move |_, _| {
            entered.send(()).expect("the test waits");
            goes_on.recv_timeout(LONG).expect("the test goes on");
        })
        .expect("there is room");
    enters.recv_timeout(LONG).expect("the task runs");
    for _ in 0..COUNT {
        peer.send("x");
    }
    let turns = stats().turns;
    go_on.send(()).expect("the task waits");
    for _ in 0..COUNT {
        assert_eq!(peer.recv(), b"x");
    }
    eventually("each has had its turn", || stats().turns - turns >= COUNT);
}

/// A frame is a datagram, also an empty one.
struct Whole;

impl Codec for Whole {
    type Frame<'a> = &'a [u8];
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Ok(Decoded::Frame {
            consumed: src.len(),
            frame: src,
        })
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        self.decode(src)
    }

    fn stage(&self) -> Stage {
        Stage::AwaitingRest
    }
}

/// Sends back each datagram, and tells where a session of its own waits for datagrams.
struct Back(mpsc::Sender<Addr>);

impl EventHandler for Back {
    type Codec = Whole;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Whole {
        Whole
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let _ = self.0.send(conn.local_addr().ok()?);
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        conn.write(frame).into()
    }
}

#[test]
fn an_empty_datagram_is_a_frame_of_a_codec_that_takes_it() {
    let (tell, _told) = mpsc::channel();
    let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    let server = Server::bind(listen).reactors(1);
    let running = server.start(move |_| Back(tell.clone())).expect("starts");
    let peer = Peer::of(&running);
    for datagram in [&b""[..], b"x", b"", b""] {
        peer.send(datagram);
        assert_eq!(peer.recv(), datagram);
    }
}

#[test]
fn a_session_of_any_port_belongs_to_the_port_of_the_first_datagram_of_its_host() {
    let (tell, told) = mpsc::channel();
    let running = Client::new().reactors(1).start(move |_| Back(tell.clone()));
    let running = running.expect("starts");
    let own = "127.0.0.1:0".parse().expect("is one");
    let connect = || Connect::to("udp://127.0.0.1:0").local_addr(own);
    assert!(
        running.engine().connect(connect()).is_err(),
        "port 0 is a slip unless it is meant"
    );
    let asked = running.engine().connect(connect().any_port(true));
    asked.expect("is asked");
    let at = told.recv_timeout(LONG).expect("it opens");
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("binds");
    let addr = at.as_socket_addr().expect("an address");
    stranger.send_to(b"stranger", addr).expect("sends");
    let (first, second) = (Peer::to(&at), Peer::to(&at));
    first.send(b"first");
    assert_eq!(first.recv(), b"first");
    second.send(b"second");
    first.send(b"again");
    assert_eq!(first.recv(), b"again");
    assert_eq!(second.recv_soon(), None);
    let dropped = running.engine().stats().total().datagrams_dropped;
    assert_eq!(dropped, 2);
}

#[test]
fn an_address_that_is_shared_can_be_opened_before_it_is_closed() {
    let start = |on: &str, shares: bool| {
        let (tell, _told) = mpsc::channel();
        let listen = Listen::on(on).sessions(UdpSessions::new());
        let server = Server::bind(listen.share_addr(shares)).reactors(1);
        server.start(move |_| Back(tell.clone()))
    };
    let first = start("udp://127.0.0.1:0", true).expect("starts");
    let on = format!("udp://{}", first.local_addrs()[0]);
    assert!(start(&on, false).is_err());
    let second = start(&on, true).expect("starts");
    drop(first);
    let peer = Peer::of(&second);
    peer.send(b"x");
    assert_eq!(peer.recv(), b"x");
}
