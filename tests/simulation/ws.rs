//! WebSocket messages, also compressed: the echoes are in order, and the closing handshake ends the connection.

use std::time::Duration;

use epicycle::codec::{Codec, Decoded, encode_to_vec, poll_output_to_vec};
use epicycle::testing::{Ending, Link, Peer, Simulation, each_seed};
use epicycle::ws::{
    ClientCodec, Close, CloseCode, DeflateOptions, Event, Handshake, Incoming, Message, Ping,
    ServerCodec, accept,
};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Frame, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

struct Echo {
    ledger: Ledger,
    deflate: Option<DeflateOptions>,
}

impl EventHandler for Echo {
    type Codec = ServerCodec;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        Some(self.ledger.open(conn))
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        life: &mut usize,
        frame: Frame<'_, Self>,
    ) -> Action {
        self.ledger.frame(conn, *life);
        match frame {
            Incoming::Request(request) => {
                let accepted = accept(&request).map(|accept| match self.deflate {
                    Some(options) => accept.deflate(options),
                    None => accept,
                });
                conn.send(accepted).into()
            }
            Incoming::Message(message) => conn.send(message).into(),
            Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
        }
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        life: usize,
        reason: CloseReason,
    ) {
        self.ledger.close(info, life, &reason);
    }
}

/// A client: its codec, what it has not read yet, and what has come to it.
struct Client {
    peer: Peer,
    codec: ClientCodec,
    input: Vec<u8>,
    got: Vec<Message<'static>>,
    sent: Vec<Message<'static>>,
    pongs: usize,
    closed: bool,
}

impl Client {
    /// Reads what has arrived, and answers as the codec wants.
    fn read(&mut self, sim: &mut Simulation<Echo>) {
        self.input.extend(sim.take_received(self.peer));
        while !self.input.is_empty() {
            let taken = match self.codec.decode(&mut self.input).expect("valid frames") {
                Decoded::Frame { frame, consumed } => {
                    assert!(!self.closed, "a frame after the Close");
                    match frame {
                        Event::Opened(_) => {}
                        Event::Message(message) => self.got.push(message.into_owned()),
                        Event::Pong(bytes) => {
                            assert_eq!(bytes, b"are you there?");
                            self.pongs += 1;
                        }
                        Event::Closed(close) => {
                            assert_eq!(close.code, Some(CloseCode::NORMAL));
                            self.closed = true;
                        }
                    }
                    consumed
                }
                Decoded::Skip { consumed } => consumed,
                Decoded::NeedMore { .. } => return,
                Decoded::Hold => panic!("a client holds nothing back"),
            };
            self.input.drain(..taken);
            let answer = poll_output_to_vec(&mut self.codec);
            sim.send(self.peer, answer);
        }
    }
}

pub(crate) fn message(rng: &mut Rng) -> Message<'static> {
    let mut bytes = vec![0; world::len(rng).min(20_000)];
    rng.fill(&mut bytes);
    // Some of it can be compressed, and all of it is UTF-8.
    bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 16);
    match rng.bool() {
        true => Message::Binary(bytes.into()),
        false => Message::Text(String::from_utf8_lossy(&bytes).into_owned().into()),
    }
}

fn messages(seed: u64, deflate: Option<DeflateOptions>) {
    let mut rng = Rng::with_seed(seed);
    let ledger = Ledger::default();
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim = Simulation::new(seed, link, server, |_| Echo {
        ledger: ledger.clone(),
        deflate,
    })
    .expect("a simulation");
    let mut clients = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let peer = sim.connect();
        sim.set_reading(peer, world::reading(&mut rng));
        let mut codec = ClientCodec::default();
        let mut handshake = Handshake::new("chat.example", "/");
        if let Some(options) = deflate {
            handshake = handshake.deflate(options);
        }
        let request = encode_to_vec(&mut codec, handshake).expect("a handshake");
        sim.send(peer, request);
        clients.push(Client {
            peer,
            codec,
            input: Vec::new(),
            got: Vec::new(),
            sent: Vec::new(),
            pongs: 0,
            closed: false,
        });
    }
    let minute = Duration::from_secs(60);
    let peers: Vec<Peer> = clients.iter().map(|client| client.peer).collect();
    sim.run_for(minute);
    for client in &mut clients {
        client.read(&mut sim);
        assert!(client.codec.is_open() || sim.ending(client.peer) == Ending::Reset);
    }
    clients.retain(|client| client.codec.is_open());
    let mut pings = vec![0; clients.len()];
    for _ in 0..rng.usize(0..20) {
        for (n, client) in clients.iter_mut().enumerate() {
            let bytes = if rng.u32(..5) == 0 {
                pings[n] += 1;
                encode_to_vec(&mut client.codec, Ping(b"are you there?")).expect("a ping")
            } else {
                let message = message(&mut rng);
                client.sent.push(message.clone());
                encode_to_vec(&mut client.codec, message).expect("a message")
            };
            sim.send(client.peer, bytes);
            client.read(&mut sim);
        }
        sim.run_for(Duration::from_micros(rng.u64(..20_000)));
    }
    for client in &mut clients {
        let close = Close::new(CloseCode::NORMAL, "that was it");
        let close = encode_to_vec(&mut client.codec, close).expect("a close");
        sim.send(client.peer, close);
    }
    sim.run_for(50 * minute);
    for (n, client) in clients.iter_mut().enumerate() {
        client.read(&mut sim);
        assert!(
            client.sent.starts_with(&client.got),
            "another message, or out of order"
        );
        let ending = sim.ending(client.peer);
        assert_ne!(ending, Ending::Open, "the server does not close");
        if ending == Ending::Finished {
            assert_eq!(client.got.len(), client.sent.len(), "messages are lost");
            assert_eq!(client.pongs, pings[n], "pongs are lost");
            assert!(client.closed, "the end came without a Close");
        }
    }
    sim.finish();
    let stats = sim.stats();
    assert_eq!(
        (stats.connections, stats.buffered, stats.frame_errors),
        (0, 0, 0)
    );
    assert_eq!(stats.closed, peers.len() as u64);
}

#[test]
fn messages_come_back_in_order_and_the_close_comes_last() {
    each_seed(0..1000, |seed| messages(seed, None));
}

#[test]
fn compressed_messages_come_back_in_order_and_the_close_comes_last() {
    each_seed(0..300, |seed| {
        let options = DeflateOptions::default().level(1).threshold(100);
        messages(seed, Some(options.context_takeover(seed % 2 == 0)));
    });
}

#[test]
fn a_ping_that_is_answered_keeps_a_connection_alive() {
    let second = Duration::from_secs(1);
    let server = world::server_on("tcp://:1", &mut Rng::with_seed(1)).idle_timeout(20 * second);
    let mut sim = Simulation::new(1, Link::calm(), server, |_| Echo {
        ledger: Ledger::default(),
        deflate: None,
    })
    .expect("a simulation");
    let peer = sim.connect();
    let mut codec = ClientCodec::default();
    let request = encode_to_vec(&mut codec, Handshake::new("a", "/")).expect("a handshake");
    sim.send(peer, request);
    for _ in 0..30 {
        sim.run_for(5 * second);
        assert_eq!(sim.ending(peer), Ending::Open);
        sim.send(peer, b"\x89\x80\0\0\0\0");
    }
    sim.run_for(30 * second);
    assert_ne!(sim.ending(peer), Ending::Open, "nothing comes any more");
    sim.finish();
}
