//! The engine as the WebSocket client of an echo server: fragments, control frames between them, compression with and
//! without context takeover, and a closing handshake that either side begins.

use std::collections::VecDeque;
use std::time::Duration;

use epicycle::codec::{Codec, Decoded, encode_to_vec, poll_output_to_vec};
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::ws::{
    ClientCodec, Close, CloseCode, DeflateOptions, Event, Fragment, Handshake, Incoming, Message,
    Ping, ServerCodec, accept,
};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;
use super::ws::message;

/// Says so much, checks what comes back, and closes if that is its part.
struct Chatter {
    ledger: Ledger,
    rng: Rng,
    deflate: Option<DeflateOptions>,
    /// What of each connection has come to nothing, if it ended well.
    missing: usize,
}

struct Session {
    life: usize,
    to_say: usize,
    said: VecDeque<Message<'static>>,
    pings: usize,
    /// It begins the closing handshake when it has heard everything.
    begins: bool,
    closed: bool,
}

impl Chatter {
    fn say(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) {
        let some = self.rng.usize(..4).min(session.to_say);
        for _ in 0..some {
            session.to_say -= 1;
            let message = message(&mut self.rng);
            session.said.push_back(message.clone());
            if self.rng.u32(..3) > 0 {
                conn.send(message).expect("it is open");
                continue;
            }
            for fragment in fragments(&mut self.rng, message) {
                conn.send(fragment).expect("it is open");
                if self.rng.u32(..4) == 0 {
                    conn.send(Ping(b"well?")).expect("it is open");
                    session.pings += 1;
                }
            }
        }
        if session.to_say > 0 {
            conn.set_timer(Duration::from_millis(self.rng.u64(..20)), 0);
        } else if session.said.is_empty() && session.begins {
            conn.send(Close::new(CloseCode::NORMAL, "bye"))
                .expect("it is open");
        }
    }
}

/// A message in a few fragments; text is cut between its characters or inside.
fn fragments(rng: &mut Rng, message: Message<'static>) -> Vec<Fragment<'static>> {
    let count = rng.usize(1..5);
    let size = message.as_bytes().len() / count + 1;
    let is_text = message.as_text().is_some();
    let mut parts: Vec<Vec<u8>> = message
        .as_bytes()
        .chunks(size)
        .map(<[u8]>::to_vec)
        .collect();
    if parts.is_empty() || rng.u32(..3) == 0 {
        parts.push(Vec::new());
    }
    let last = parts.len() - 1;
    let fragment = |(n, part): (usize, Vec<u8>)| Fragment {
        part: match is_text {
            true => Message::Text(String::from_utf8(part).expect("ASCII").into()),
            false => Message::Binary(part.into()),
        },
        last: n == last,
    };
    parts.into_iter().enumerate().map(fragment).collect()
}

impl EventHandler for Chatter {
    type Codec = ClientCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        let handshake = Handshake::new("chat.example", "/");
        let handshake = match self.deflate {
            Some(options) => handshake.deflate(options),
            None => handshake,
        };
        conn.send(handshake).expect("an open connection");
        Some(Session {
            life,
            to_say: self.rng.usize(..30),
            said: VecDeque::new(),
            pings: 0,
            begins: self.rng.bool(),
            closed: false,
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        event: Event<'_>,
    ) -> Action {
        self.ledger.frame(conn, session.life);
        assert!(!session.closed, "an event after the Close");
        match event {
            Event::Opened(opened) => {
                assert_eq!(opened.compressed, self.deflate.is_some());
                self.say(conn, session);
            }
            Event::Message(message) => {
                assert_eq!(Some(message), session.said.pop_front(), "out of order");
                if session.said.is_empty() && session.to_say == 0 {
                    self.say(conn, session);
                }
            }
            Event::Pong(bytes) => {
                assert_eq!(bytes, b"well?");
                session.pings -= 1;
            }
            Event::Closed(close) => {
                assert_eq!(close.code, Some(CloseCode::NORMAL));
                session.closed = true;
            }
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        self.say(conn, session);
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.ledger.close(info, session.life, &reason);
        if session.closed {
            self.missing += session.said.len() + session.pings + session.to_say;
        }
    }
}

/// The server: its codec, and what it has not read yet.
struct Server {
    peer: Peer,
    codec: ServerCodec,
    input: Vec<u8>,
    echoed: usize,
    closed: bool,
}

impl Server {
    fn serve(
        &mut self,
        sim: &mut Simulation<Chatter>,
        rng: &mut Rng,
        deflate: Option<DeflateOptions>,
    ) {
        self.input.extend(sim.take_received(self.peer));
        while !self.input.is_empty() && !self.closed {
            let mut answer = Vec::new();
            let mut echo = None;
            let consumed = match self.codec.decode(&mut self.input).expect("valid frames") {
                Decoded::Frame { frame, consumed } => {
                    match frame {
                        Incoming::Request(request) => {
                            let accepted = accept(&request).expect("a handshake");
                            let accepted = match deflate {
                                Some(options) => accepted.deflate(options),
                                None => accepted,
                            };
                            let accepted = accepted.into_owned();
                            answer = encode_to_vec(&mut self.codec, accepted).expect("is owed");
                        }
                        Incoming::Message(message) => echo = Some(message.into_owned()),
                        Incoming::Pong(bytes) => assert_eq!(bytes, b"and you?"),
                        Incoming::Closed(close) => {
                            assert_eq!(close.code, Some(CloseCode::NORMAL));
                            self.closed = true;
                        }
                    }
                    consumed
                }
                Decoded::Skip { consumed } => consumed,
                Decoded::NeedMore { .. } => return,
                Decoded::Hold => panic!("the handshake is answered at once"),
            };
            self.input.drain(..consumed);
            sim.send(self.peer, answer);
            let said = poll_output_to_vec(&mut self.codec);
            sim.send(self.peer, said);
            let Some(message) = echo else {
                continue;
            };
            self.echoed += 1;
            if rng.u32(..3) > 0 {
                let frame = encode_to_vec(&mut self.codec, message).expect("it is open");
                sim.send(self.peer, frame);
                continue;
            }
            for fragment in fragments(rng, message) {
                let frame = encode_to_vec(&mut self.codec, fragment).expect("it is open");
                sim.send(self.peer, frame);
                let ping = encode_to_vec(&mut self.codec, Ping(b"and you?")).expect("it is open");
                sim.send(self.peer, ping);
            }
        }
        // The server is to close the connection once both have said goodbye.
        if self.closed {
            sim.shutdown(self.peer);
        }
    }
}

fn chats(seed: u64, deflate: Option<DeflateOptions>, answer: Option<DeflateOptions>) {
    let mut rng = Rng::with_seed(seed);
    let ledger = Ledger::default();
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim = Simulation::new(seed, link, server, |_| Chatter {
        ledger: ledger.clone(),
        rng: Rng::with_seed(!seed),
        deflate,
        missing: 0,
    })
    .expect("a simulation");
    let mut servers: Vec<Server> = (0..rng.usize(1..3))
        .map(|_| Server {
            peer: sim.connect(),
            codec: ServerCodec::default(),
            input: Vec::new(),
            echoed: 0,
            closed: false,
        })
        .collect();
    for server in &servers {
        sim.set_reading(server.peer, world::reading(&mut rng));
    }
    for round in 0..150 {
        for server in &mut servers {
            server.serve(&mut sim, &mut rng, answer);
        }
        // Whoever has not begun to close by now has left it to the server.
        if round == 130 {
            for server in servers.iter_mut().filter(|server| server.codec.is_open()) {
                let close = Close::new(CloseCode::NORMAL, "enough");
                if let Ok(close) = encode_to_vec(&mut server.codec, close) {
                    sim.send(server.peer, close);
                }
            }
        }
        sim.run_for(world::pause(&mut rng, round));
    }
    for server in &servers {
        let ending = sim.ending(server.peer);
        assert_ne!(ending, Ending::Open, "there is no end");
        assert!(
            server.closed || ending == Ending::Reset,
            "an end without a Close"
        );
    }
    sim.finish();
    let stats = sim.stats();
    assert_eq!(
        (stats.connections, stats.buffered, stats.frame_errors),
        (0, 0, 0)
    );
    assert_eq!(stats.closed, servers.len() as u64);
    assert_eq!(sim.handler().missing, 0, "an echo or a pong is missing");
}

#[test]
fn a_client_hears_its_messages_again_and_the_close_comes_last() {
    each_seed(0..300, |seed| chats(seed, None, None));
}

#[test]
fn a_client_hears_its_compressed_messages_again() {
    each_seed(0..100, |seed| {
        let options = DeflateOptions::default().level(1).threshold(100);
        let client = options.context_takeover(seed % 2 == 0);
        let server = options.context_takeover(seed % 4 < 2);
        chats(seed, Some(client), Some(server));
    });
}
