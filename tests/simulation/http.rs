//! HTTP requests in all their forms, also pipelined: each is answered in order, at once or later.

use std::rc::Rc;
use std::time::Duration;

use epicycle::http::{
    Chunk, End, HttpCodec, HttpStreamCodec, RequestPart, ServerRequest, ServerResponse,
};
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world::{self, Farewell};

/// The requests of each peer: what is sent, and the body of the answer.
type Script = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

fn script(rng: &mut Rng, peers: usize) -> Script {
    (0..peers)
        .map(|_| (0..rng.usize(0..12)).map(|n| request(rng, n)).collect())
        .collect()
}

fn request(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<u8>) {
    let mut body = vec![b'x'; world::len(rng).min(20_000)];
    rng.fill(&mut body);
    let answer = |body: &[u8]| [format!("/{n} ").as_bytes(), body].concat();
    let mut sent = format!("PUT /{n} HTTP/1.1\r\nHost: a\r\n").into_bytes();
    match rng.u32(..4) {
        0 => {
            let sent = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            return (sent.into_bytes(), answer(b""));
        }
        1 => {
            sent.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            sent.extend(in_chunks(&body, rng.usize(1..8000)));
        }
        _ => {
            sent.extend(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            sent.extend(&body);
        }
    }
    (sent, answer(&body))
}

/// Answers with the target and the body; some answers are late, and some come in parts.
struct Whole {
    ledger: Ledger,
    rng: Rng,
}

struct Session {
    life: usize,
    answer: Vec<u8>,
}

impl EventHandler for Whole {
    type Codec = HttpCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        Some(Session {
            life,
            answer: Vec::new(),
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        request: ServerRequest<'_>,
    ) -> Action {
        let (_, n) = self.ledger.frame(conn, session.life);
        assert_eq!(request.target(), format!("/{n}"), "a request out of turn");
        assert!(session.answer.is_empty(), "two requests at a time");
        let answer = [request.target().as_bytes(), b" ", request.body()].concat();
        match self.rng.u32(..4) {
            0 => {
                session.answer = answer;
                conn.set_timer(Duration::from_millis(self.rng.u64(..300)), 0);
                Action::Continue
            }
            1 => {
                let begun = conn.send(ServerResponse::ok().streamed());
                let sent = begun.and_then(|()| {
                    let mut parts = answer.chunks(1000);
                    parts.try_for_each(|part| conn.send(Chunk(part)))
                });
                sent.and_then(|()| conn.send(End)).into()
            }
            _ => conn.send(ServerResponse::ok().body(&answer)).into(),
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        let answer = std::mem::take(&mut session.answer);
        conn.send(ServerResponse::ok().body(&answer)).into()
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.ledger.close(info, session.life, &reason);
    }
}

/// The same from the parts of requests, as they arrive.
struct Parts {
    ledger: Ledger,
    rng: Rng,
}

impl EventHandler for Parts {
    type Codec = HttpStreamCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        HttpStreamCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        Some(Session {
            life,
            answer: Vec::new(),
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => {
                let (_, n) = self.ledger.frame(conn, session.life);
                assert_eq!(request.target(), format!("/{n}"), "a request out of turn");
                assert!(session.answer.is_empty(), "two requests at a time");
                session.answer.extend(request.target().as_bytes());
                session.answer.push(b' ');
            }
            RequestPart::Body(part) => session.answer.extend(part),
            RequestPart::End(_) if self.rng.bool() => {
                conn.set_timer(Duration::from_millis(self.rng.u64(..300)), 0);
            }
            _ => return self.on_timer(conn, session, 0),
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        let answer = std::mem::take(&mut session.answer);
        conn.send(ServerResponse::ok().body(&answer)).into()
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.ledger.close(info, session.life, &reason);
    }
}

fn answers<H: EventHandler>(seed: u64, handler: impl Fn(Ledger, Rng) -> H) {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(1..5);
    let script = Rc::new(script(&mut rng, count));
    let ledger = Ledger::default();
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim = Simulation::new(seed, link, server, |_| {
        handler(ledger.clone(), Rng::with_seed(seed))
    })
    .expect("a simulation");
    let peers: Vec<Peer> = (0..count).map(|_| sim.connect()).collect();
    let farewells: Vec<Farewell> = (0..count).map(|_| world::farewell(&mut rng)).collect();
    for (n, peer) in peers.iter().enumerate() {
        sim.set_reading(*peer, world::reading(&mut rng));
        for (sent, _) in &script[n] {
            sim.send(*peer, sent);
            if rng.u32(..4) == 0 {
                sim.run_for(Duration::from_micros(rng.u64(..50_000)));
            }
        }
        world::say(&mut sim, *peer, farewells[n]);
    }
    // Some are shut down in the midst of it: what was answered by then arrives, and nothing else.
    if rng.u32(..4) > 0 {
        sim.run_for(Duration::from_secs(3000));
        for (n, peer) in peers.iter().enumerate() {
            let ending = sim.ending(*peer);
            let patient = matches!(farewells[n], Farewell::Shutdown | Farewell::None);
            if ending != Ending::Reset && patient {
                let answers = parse(sim.received(*peer));
                assert_eq!(answers.len(), script[n].len(), "peer {n} waits in vain");
                let finished = farewells[n] == Farewell::Shutdown;
                assert_eq!(ending == Ending::Finished, finished, "peer {n}");
            }
        }
    }
    sim.finish();
    ledger.check(&sim, &peers);
    for (n, peer) in peers.iter().enumerate() {
        let answers = parse(sim.received(*peer));
        let expected = script[n].iter().map(|(_, answer)| answer);
        assert!(answers.len() <= script[n].len());
        assert!(
            answers.iter().eq(expected.take(answers.len())),
            "peer {n}: another answer"
        );
    }
}

/// The bodies of the answers that are complete.
fn parse(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(len)) = head.parse(bytes) else {
            return bodies;
        };
        // What a request that has begun is answered with when the server shuts down.
        if head.code == Some(503) {
            return bodies;
        }
        assert_eq!(head.code, Some(200));
        let value = |name| header(head.headers, name);
        let rest = &bytes[len..];
        let body = match value("content-length") {
            Some(len) => {
                let len: usize = len.parse().expect("a length");
                rest.get(..len).map(|body| (body.to_vec(), len))
            }
            None => {
                assert_eq!(value("transfer-encoding"), Some("chunked"));
                chunked(rest)
            }
        };
        let Some((body, len)) = body else {
            return bodies;
        };
        bodies.push(body);
        bytes = &rest[len..];
    }
}

/// The value of a header, if it is there and text.
pub(crate) fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut headers = headers.iter();
    let header = headers.find(|h| h.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// A body as it is sent in chunks of up to that size.
pub(crate) fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    for chunk in body.chunks(size) {
        sent.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    sent
}

/// A chunked body and how many bytes it takes up, if it is complete.
pub(crate) fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Ok(httparse::Status::Complete((used, len))) = httparse::parse_chunk_size(&bytes[at..])
        else {
            return None;
        };
        at += used;
        let len = usize::try_from(len).expect("a length");
        body.extend(bytes.get(at..at + len)?);
        at += len;
        assert_eq!(bytes.get(at..at + 2)?, b"\r\n");
        at += 2;
        if len == 0 {
            return Some((body, at));
        }
    }
}

#[test]
fn answers_are_complete_and_in_order_even_when_they_are_late() {
    each_seed(0..1000, |seed| {
        answers(seed, |ledger, rng| Whole { ledger, rng });
    });
}

#[test]
fn answers_to_requests_in_parts_are_complete_and_in_order() {
    each_seed(0..1000, |seed| {
        answers(seed, |ledger, rng| Parts { ledger, rng });
    });
}
