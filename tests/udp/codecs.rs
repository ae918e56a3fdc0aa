//! Codecs on sessions: their cost counts, and a faulty answer ends only one datagram.

use std::sync::mpsc;

use epicycle::codec::{Codec, Decoded, FrameError};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Listen, Server, UdpSessions};

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
