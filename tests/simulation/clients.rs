//! The engine as an HTTP client, pipelined or not, against a server that answers in every form and breaks off.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use epicycle::codec::{Codec, Decoded, encode_to_vec, poll_output_to_vec};
use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
use epicycle::http::{self, Chunk, End, HttpCodec};
use epicycle::testing::{Ending, Peer, Reading, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

/// The forms of requests.
const METHODS: [&str; 4] = ["GET", "HEAD", "PUT", "POST"];

/// How a request is answered.
#[derive(Clone, Debug)]
struct Planned {
    form: Form,
    body: Vec<u8>,
    /// Interim responses stand before it.
    interims: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Sized,
    Chunks,
    /// The server says that it is the last one.
    Last,
    /// Its body ends with the connection.
    UntilClose,
    /// It is cut short.
    Torn,
}

impl Planned {
    fn random(rng: &mut Rng) -> Self {
        let mut body = vec![0; world::len(rng).min(20_000)];
        rng.fill(&mut body);
        let form = match rng.u32(..40) {
            0 => Form::Last,
            1 => Form::UntilClose,
            2 => Form::Torn,
            3..15 => Form::Chunks,
            _ => Form::Sized,
        };
        let interims = if rng.u32(..5) == 0 {
            rng.usize(1..4)
        } else {
            0
        };
        Self {
            form,
            body,
            interims,
        }
    }
}

/// Asks one thing after the other, a few at a time, and checks the answers.
struct Asker {
    ledger: Ledger,
    plan: Rc<Vec<Vec<Planned>>>,
    rng: Rng,
    ended: Vec<(usize, Session, String)>,
}

#[derive(Clone, Debug)]
struct Session {
    life: usize,
    peer: usize,
    asked: usize,
    answered: usize,
    /// The methods of the requests under way.
    methods: VecDeque<&'static str>,
    most: usize,
    /// The last response lets the connection be used on.
    keeps_alive: bool,
}

impl Asker {
    /// Asks as long as it may and there is something to ask.
    fn ask(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) {
        let all = self.plan[session.peer].len();
        while session.asked < all
            && session.asked - session.answered < session.most
            && session.keeps_alive
        {
            let method = METHODS[self.rng.usize(..METHODS.len())];
            let target = format!("/{}", session.asked);
            let body = vec![b'q'; world::len(&mut self.rng)];
            let request = ClientRequest::new(method, "example.org", &target);
            let sent = match method {
                "PUT" => conn.send(request.body(&body)),
                "POST" => conn.send(request.streamed()).and_then(|()| {
                    body.chunks(500)
                        .try_for_each(|part| conn.send(Chunk(part)))?;
                    conn.send(End)
                }),
                _ => conn.send(request),
            };
            sent.expect("an open connection");
            session.methods.push_back(method);
            session.asked += 1;
        }
    }
}

impl EventHandler for Asker {
    type Codec = ClientCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        let mut session = Session {
            life,
            peer: self.ledger.peer_of(conn.id()),
            asked: 0,
            answered: 0,
            methods: VecDeque::new(),
            most: self.rng.usize(1..6),
            keeps_alive: true,
        };
        self.ask(conn, &mut session);
        Some(session)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        response: ClientResponse<'_>,
    ) -> Action {
        let (peer, n) = self.ledger.frame(conn, session.life);
        let planned = &self.plan[peer][n];
        assert_eq!(
            response.header("n"),
            Some(&*n.to_string()),
            "an answer out of turn"
        );
        assert_ne!(planned.form, Form::Torn, "an answer that is not whole");
        match session.methods.pop_front() {
            Some("HEAD") => assert_eq!(response.body(), b""),
            _ => assert_eq!(response.body(), planned.body, "another answer"),
        }
        session.answered += 1;
        session.keeps_alive = response.keep_alive();
        if self.rng.u32(..4) == 0 {
            conn.set_timer(Duration::from_millis(self.rng.u64(..100)), 0);
        } else {
            self.ask(conn, session);
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        self.ask(conn, session);
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
        self.ended.push((session.peer, session, reason.to_string()));
    }
}

/// A server, seen from its own side.
struct Server {
    peer: Peer,
    codec: HttpCodec,
    input: Vec<u8>,
    answered: usize,
    /// How many answers were sent as a whole.
    whole: usize,
    is_done: bool,
    torn: bool,
}

impl Server {
    /// Answers what has been asked.
    fn serve(&mut self, sim: &mut Simulation<Asker>, plan: &[Planned], rng: &mut Rng) {
        self.input.extend(sim.take_received(self.peer));
        while !self.is_done && !self.input.is_empty() {
            let (consumed, is_head) = match self.codec.decode(&mut self.input).expect("a request") {
                Decoded::Frame { frame, consumed } => {
                    assert_eq!(frame.target(), format!("/{}", self.answered));
                    (consumed, frame.method() == "HEAD")
                }
                Decoded::Skip { consumed } => {
                    self.input.drain(..consumed);
                    continue;
                }
                Decoded::NeedMore { .. } => return,
                Decoded::Hold => panic!("everything is answered at once"),
            };
            self.input.drain(..consumed);
            let said = poll_output_to_vec(&mut self.codec);
            assert_eq!(said, b"", "nobody has asked to go on");
            let planned = &plan[self.answered];
            let mut answer = self.answer(planned, is_head);
            if planned.form == Form::Torn {
                // Without a byte of it there is none.
                answer.truncate(rng.usize(1..answer.len()));
                self.torn = true;
            }
            for _ in 0..planned.interims {
                sim.send(
                    self.peer,
                    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
                );
            }
            sim.send(self.peer, answer);
            self.answered += 1;
            if matches!(planned.form, Form::Last | Form::UntilClose | Form::Torn) {
                self.is_done = true;
                sim.shutdown(self.peer);
            }
            self.whole += usize::from(planned.form != Form::Torn);
        }
    }

    fn answer(&mut self, planned: &Planned, is_head: bool) -> Vec<u8> {
        let number = self.answered.to_string();
        let codec = &mut self.codec;
        let response = http::ServerResponse::ok().header("N", &number);
        match planned.form {
            Form::Chunks => {
                let mut answer = encode_to_vec(codec, response.streamed()).expect("is owed");
                for part in planned.body.chunks(900) {
                    answer.extend(encode_to_vec(codec, Chunk(part)).expect("has begun"));
                }
                answer.extend(encode_to_vec(codec, End).expect("has begun"));
                answer
            }
            Form::UntilClose => {
                let mut answer = format!("HTTP/1.0 200 OK\r\nN: {number}\r\n\r\n").into_bytes();
                answer.extend(if is_head { &[][..] } else { &planned.body });
                answer
            }
            Form::Last => {
                let response = response.body(&planned.body).close();
                encode_to_vec(codec, response).expect("is owed")
            }
            Form::Sized | Form::Torn => {
                encode_to_vec(codec, response.body(&planned.body)).expect("is owed")
            }
        }
    }
}

fn asks(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(1..4);
    let plan: Vec<Vec<Planned>> = (0..count)
        .map(|_| {
            (0..rng.usize(0..15))
                .map(|_| Planned::random(&mut rng))
                .collect()
        })
        .collect();
    let plan = Rc::new(plan);
    let ledger = Ledger::default();
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim = Simulation::new(seed, link, server, |_| Asker {
        ledger: ledger.clone(),
        plan: plan.clone(),
        rng: Rng::with_seed(!seed),
        ended: Vec::new(),
    })
    .expect("a simulation");
    let mut servers: Vec<Server> = (0..count)
        .map(|_| Server {
            peer: sim.connect(),
            codec: HttpCodec::default(),
            input: Vec::new(),
            answered: 0,
            whole: 0,
            is_done: false,
            torn: false,
        })
        .collect();
    let readings: Vec<Reading> = (0..count).map(|_| world::reading(&mut rng)).collect();
    for (server, reading) in servers.iter().zip(readings) {
        sim.set_reading(server.peer, reading);
    }
    for round in 0..150 {
        for (server, plan) in servers.iter_mut().zip(&*plan) {
            server.serve(&mut sim, plan, &mut rng);
        }
        sim.run_for(world::pause(&mut rng, round));
    }
    for server in &servers {
        sim.shutdown(server.peer);
    }
    sim.run_for(Duration::from_secs(3000));
    for (n, server) in servers.iter().enumerate() {
        let ended = sim.handler().ended.iter().find(|(peer, _, _)| *peer == n);
        let Some((_, session, reason)) = ended else {
            panic!("the connection to server {n} does not end");
        };
        assert!(
            session.answered <= server.whole,
            "an answer that was not given"
        );
        if sim.ending(server.peer) != Ending::Reset {
            assert_eq!(session.answered, server.whole, "answers are lost: {reason}");
            let cut_short = reason.contains("ended within a response");
            let nothing = session.asked == session.answered;
            assert_eq!(cut_short, server.torn && !nothing, "{reason}");
            assert!(
                server.is_done || session.answered == plan[n].len(),
                "{reason}"
            );
        }
    }
    sim.finish();
    let stats = sim.stats();
    assert_eq!((stats.connections, stats.buffered), (0, 0));
    assert_eq!(stats.closed, count as u64);
}

#[test]
fn requests_have_their_responses_in_order_or_none() {
    each_seed(0..600, asks);
}
