//! Small WebSocket messages that decompress to large ones: the loop budgets their work by the large size.

use epicycle::codec::{Codec, Decoded, encode_to_vec};
use epicycle::testing::{Link, Peer, Simulation};
use epicycle::ws::{
    ClientCodec, DeflateOptions, Event, Handshake, Incoming, Message, ServerCodec, accept,
};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame, Server};

/// Notes how long the messages are that come; one of a byte it answers with as many as the byte says of 1 MiB.
#[derive(Default)]
struct Lengths(Vec<usize>);

const MIB: usize = 1 << 20;

impl EventHandler for Lengths {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        match frame {
            Incoming::Request(request) => {
                let answer = accept(&request);
                conn.send(answer.map(|accept| accept.deflate(DeflateOptions::default())))
                    .into()
            }
            Incoming::Message(message) => {
                let bytes = message.as_bytes();
                self.0.push(bytes.len());
                if let [count] = *bytes {
                    for _ in 0..count {
                        conn.send(Message::Binary(vec![0; MIB].into()))
                            .expect("there is room");
                    }
                }
                Action::Continue
            }
            Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
        }
    }
}

struct Client {
    peer: Peer,
    codec: ClientCodec,
}

impl Client {
    fn open(sim: &mut Simulation<Lengths>) -> Self {
        let mut codec = ClientCodec::default();
        let handshake = Handshake::new("chat.example", "/").deflate(DeflateOptions::default());
        let peer = sim.connect();
        sim.send(
            peer,
            encode_to_vec(&mut codec, handshake).expect("a handshake"),
        );
        sim.run_until_quiet();
        let mut answer = sim.take_received(peer);
        let opened = codec.decode(&mut answer).expect("an answer");
        assert!(
            matches!(opened, Decoded::Frame { frame: Event::Opened(opened), .. } if opened.compressed)
        );
        Self { peer, codec }
    }

    fn encode(&mut self, message: Vec<u8>) -> Vec<u8> {
        encode_to_vec(&mut self.codec, Message::Binary(message.into())).expect("a message")
    }
}

/// Sends `input` and, from a neighbour, a message of two bytes at the same time; returns how many turns it all takes, and
/// how many messages come before the neighbour's.
fn flood(input: impl FnOnce(&mut Client) -> Vec<u8>) -> (u64, usize) {
    let server = Server::bind("tcp://:1").read_budget(256 << 10);
    let make = |_| Lengths::default();
    let mut sim = Simulation::new(1, Link::calm(), server, make).expect("a simulation");
    let (mut flooder, mut neighbour) = (Client::open(&mut sim), Client::open(&mut sim));
    let input = input(&mut flooder);
    assert!(input.len() < 64 << 10, "no more than one read brings");
    let turns = sim.stats().turns;
    sim.send(flooder.peer, input);
    let two = neighbour.encode(b"hi".to_vec());
    sim.send(neighbour.peer, two);
    sim.run_until_quiet();
    let before = sim.handler().0.iter().position(|len| *len == 2);
    (
        sim.stats().turns - turns,
        before.expect("the neighbour is heard"),
    )
}

#[test]
fn a_neighbour_does_not_wait_for_compression_bombs() {
    // 40 KiB that inflate to 40 MiB.
    let (turns, before) =
        flood(|client| (0..40).flat_map(|_| client.encode(vec![0; MIB])).collect());
    assert!(before <= 1, "{before} of 1 MiB first");
    assert!((40..=50).contains(&turns), "{turns} turns");
}

#[test]
fn a_neighbour_does_not_wait_for_answers_that_are_compressed() {
    let (turns, before) = flood(|client| (0..40).flat_map(|_| client.encode(vec![1])).collect());
    assert!(before <= 1, "{before} answers of 1 MiB first");
    assert!((40..=100).contains(&turns), "{turns} turns");
}
