//! Rare exchanges of HTTP: 100-continue, HEAD, HTTP/1.0, all forms of answers, event streams, and every end of a
//! connection.

use std::time::Duration;

use epicycle::codec::Encode;
use epicycle::http::{
    Chunk, Continue, End, HttpCodec, HttpStreamCodec, RequestPart, ServerRequest, ServerResponse,
    SseEvent,
};
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, WriteError};
use fastrand::Rng;

use super::http::{chunked, header, in_chunks};
use super::ledger::Ledger;
use super::world;

/// One request of a script.
struct Asked {
    head: Vec<u8>,
    body: Vec<u8>,
    /// The body is sent when the server says that it wants it; `None` if the server is not asked.
    waits: Option<bool>,
    is_head: bool,
    /// The connection ends with the answer.
    is_last: bool,
    answer: Vec<u8>,
}

const FORMS: [&str; 5] = ["whole", "chunks", "sized", "events", "last"];

impl Asked {
    fn random(rng: &mut Rng, n: usize) -> Self {
        let (is_head, is_old) = (rng.u32(..4) == 0, rng.u32(..12) == 0);
        let form = FORMS[rng.usize(..if n > 3 { 5 } else { 4 })];
        let late = if rng.bool() { rng.u64(1..200) } else { 0 };
        let mut body = vec![
            b'a' + n as u8;
            if is_head {
                0
            } else {
                world::len(rng).min(9000)
            }
        ];
        let method = if is_head { "HEAD" } else { "PUT" };
        let version = if is_old { "1.0" } else { "1.1" };
        let mut head = format!("{method} /{n}/{form}/{late} HTTP/{version}\r\nHost: a\r\n");
        let mut waits = None;
        let mut is_last = form == "last" || is_old;
        // Without a body there is nothing to go on with.
        if !is_head && !is_old && !body.is_empty() && rng.bool() {
            waits = Some(rng.bool());
            head += "Expect: 100-continue\r\n";
        }
        let answer = answer(form, n, &body);
        if is_old {
            // A body without chunks and of unknown length ends with the connection.
            is_last = form != "whole" && form != "sized" || rng.bool();
            head += if is_last {
                ""
            } else {
                "Connection: keep-alive\r\n"
            };
        } else if rng.u32(..10) == 0 {
            is_last = true;
            head += "Connection: close\r\n";
        }
        if !is_old && rng.bool() && !is_head {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            body = in_chunks(&body, rng.usize(1..4000));
        } else {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
        }
        let head = head.into_bytes();
        Self {
            head,
            body,
            waits,
            is_head,
            is_last,
            answer,
        }
    }
}

/// What a request is answered with.
fn answer(form: &str, n: usize, body: &[u8]) -> Vec<u8> {
    match form {
        "events" => format!("id: {n}\ndata: {}\n\n: \n\n", body.len()).into_bytes(),
        _ => [format!("/{n} ").as_bytes(), body].concat(),
    }
}

/// Sends an answer, in the form that the target wants.
fn respond<H>(conn: &mut Conn<'_, H>, target: &str, body: &[u8]) -> Result<(), WriteError>
where
    H: EventHandler,
    H::Codec: for<'a> Encode<ServerResponse<'a>>
        + for<'a> Encode<Chunk<'a>>
        + for<'a> Encode<SseEvent<'a>>
        + Encode<End>,
{
    let (n, form, _) = parts(target);
    let answer = answer(form, n, body);
    match form {
        "whole" => conn.send(ServerResponse::ok().body(&answer)),
        "last" => conn.send(ServerResponse::ok().body(&answer).close()),
        "events" => {
            conn.send(ServerResponse::event_stream())?;
            conn.send(SseEvent::new(&body.len().to_string()).id(&n.to_string()))?;
            conn.send(SseEvent::comment(""))?;
            conn.send(End)
        }
        _ => {
            let response = ServerResponse::ok();
            let begun = match form {
                "chunks" => response.streamed(),
                _ => response.sized(answer.len() as u64),
            };
            conn.send(begun)?;
            answer
                .chunks(700)
                .try_for_each(|chunk| conn.send(Chunk(chunk)))?;
            if form == "chunks" {
                conn.send(End)
            } else {
                Ok(())
            }
        }
    }
}

/// Number, form and delay of a target.
fn parts(target: &str) -> (usize, &str, Duration) {
    let mut parts = target[1..].split('/');
    let mut part = || parts.next().expect("three parts");
    let (n, form, late) = (part(), part(), part());
    let late = late.parse().expect("a number");
    (
        n.parse().expect("a number"),
        form,
        Duration::from_millis(late),
    )
}

/// The request under way: its target, and what there is of its body.
#[derive(Default)]
struct UnderWay {
    life: usize,
    target: String,
    body: Vec<u8>,
    /// Gives an answer that has been deferred.
    give: Option<Box<dyn FnOnce()>>,
}

/// Takes requests in one piece.
struct Whole(Ledger);

impl EventHandler for Whole {
    type Codec = HttpCodec;
    type Session = UnderWay;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<UnderWay> {
        let life = self.0.open(conn);
        Some(UnderWay {
            life,
            ..UnderWay::default()
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        under_way: &mut UnderWay,
        request: ServerRequest<'_>,
    ) -> Action {
        let (_, n) = self.0.frame(conn, under_way.life);
        let (number, _, late) = parts(request.target());
        assert_eq!(number, n, "a request out of turn");
        if late.is_zero() {
            return respond(conn, request.target(), request.body()).into();
        }
        under_way.target = request.target().to_owned();
        under_way.body = request.body().to_vec();
        conn.set_timer(late, 0);
        if number % 2 == 1 {
            let answer = conn.defer_answer();
            under_way.give = Some(Box::new(move || {
                let _ = answer.run(|_, conn, what| {
                    if respond(conn, &what.target, &what.body).is_err() {
                        conn.close();
                    }
                });
            }));
        }
        Action::Continue
    }

    /// Answers at once, or by the mailbox.
    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, what: &mut UnderWay, _: u64) -> Action {
        match what.give.take() {
            Some(give) => give(),
            None => return respond(conn, &what.target, &what.body).into(),
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        what: UnderWay,
        reason: CloseReason,
    ) {
        self.0.close(info, what.life, &reason);
    }
}

/// Takes them in parts, and says itself when it wants a body.
struct Parts(Ledger);

const WANT: u64 = 1;

impl EventHandler for Parts {
    type Codec = HttpStreamCodec;
    type Session = UnderWay;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        HttpStreamCodec::default().manual_continue()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<UnderWay> {
        let life = self.0.open(conn);
        Some(UnderWay {
            life,
            ..UnderWay::default()
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        under_way: &mut UnderWay,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => {
                let (_, n) = self.0.frame(conn, under_way.life);
                let (number, _, late) = parts(request.target());
                assert_eq!(number, n, "a request out of turn");
                under_way.target = request.target().to_owned();
                under_way.body.clear();
                if request.expects_continue() && late.is_zero() {
                    return conn.send(Continue).into();
                }
                if request.expects_continue() {
                    conn.set_timer(late, WANT);
                }
            }
            RequestPart::Body(part) => under_way.body.extend(part),
            RequestPart::End(_) => {
                let (_, _, late) = parts(&under_way.target);
                if late.is_zero() {
                    return respond(conn, &under_way.target, &under_way.body).into();
                }
                conn.set_timer(late, 0);
            }
            part => panic!("an unknown part: {part:?}"),
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, what: &mut UnderWay, token: u64) -> Action {
        match token {
            // Its body may have come without; then nothing is said any more.
            WANT => drop(conn.send(Continue)),
            _ => return respond(conn, &what.target, &what.body).into(),
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        what: UnderWay,
        reason: CloseReason,
    ) {
        self.0.close(info, what.life, &reason);
    }
}

/// What a client has got in answer to its requests.
struct Got {
    /// How many answers are complete.
    answers: usize,
    /// How often each request was told to go on.
    interims: Vec<usize>,
    /// The status behind the answers, if there is one.
    refusal: Option<u16>,
}

/// Reads answers as the client that has sent the script, and checks each.
fn read(script: &[Asked], mut bytes: &[u8], finished: bool) -> Got {
    let interims = vec![0; script.len() + 1];
    let mut got = Got {
        answers: 0,
        interims,
        refusal: None,
    };
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(len)) = head.parse(bytes) else {
            return got;
        };
        bytes = &bytes[len..];
        match head.code {
            Some(100) => {
                got.interims[got.answers] += 1;
                continue;
            }
            Some(200) => {}
            status => {
                got.refusal = status;
                return got;
            }
        }
        let asked = &script[got.answers];
        let value = |name| header(head.headers, name);
        let closes = value("connection").is_some_and(|value| value == "close");
        assert_eq!(closes, asked.is_last, "request {}", got.answers);
        let length: Option<usize> =
            value("content-length").map(|len| len.parse().expect("a length"));
        let body = match length {
            _ if asked.is_head => {
                // What it would be is said, and nothing of it is sent.
                assert!(length.is_none_or(|len| len == asked.answer.len()));
                Some((Vec::new(), 0))
            }
            Some(len) => bytes.get(..len).map(|body| (body.to_vec(), len)),
            None if value("transfer-encoding").is_some() => chunked(bytes),
            None => finished.then(|| (bytes.to_vec(), bytes.len())),
        };
        let Some((body, len)) = body else {
            return got;
        };
        assert!(
            asked.is_head || body == asked.answer,
            "request {}: another answer",
            got.answers
        );
        bytes = &bytes[len..];
        got.answers += 1;
    }
}

/// A client that sends its script, and waits with bodies until it is told to go on.
struct Client {
    peer: Peer,
    script: Vec<Asked>,
    at: usize,
    /// The head of the request is sent.
    is_within: bool,
    /// It says nonsense at the end.
    is_rude: bool,
}

impl Client {
    fn read<H: EventHandler>(&self, sim: &Simulation<H>) -> Got {
        let finished = sim.ending(self.peer) == Ending::Finished;
        read(&self.script, sim.received(self.peer), finished)
    }

    /// Sends what can be sent; returns whether all of it is.
    fn go_on<H: EventHandler>(&mut self, sim: &mut Simulation<H>) -> bool {
        let Some(asked) = self.script.get(self.at) else {
            return true;
        };
        if !self.is_within {
            sim.send(self.peer, &asked.head);
            self.is_within = true;
        } else if asked.waits != Some(true) || self.read(sim).interims[self.at] > 0 {
            sim.send(self.peer, &asked.body);
            self.is_within = false;
            self.at += 1;
            if self.at == self.script.len() && self.is_rude {
                sim.send(self.peer, b"no request\r\n\r\n");
            }
        }
        false
    }

    fn check<H: EventHandler>(&self, sim: &Simulation<H>) {
        let got = self.read(sim);
        for (n, asked) in self.script.iter().enumerate().take(got.answers) {
            let interims = got.interims[n];
            match asked.waits {
                Some(true) => assert_eq!(interims, 1, "request {n}"),
                Some(false) => assert!(interims <= 1, "request {n}"),
                None => assert_eq!(interims, 0, "request {n}"),
            }
        }
        match sim.ending(self.peer) {
            Ending::Open => panic!("everything was said, and it is not the end"),
            Ending::Reset => {}
            _ => {
                let last = self.script.iter().position(|asked| asked.is_last);
                let due = last.map_or(self.script.len(), |last| last + 1);
                assert_eq!(got.answers, due, "a client waits in vain");
                let refused = self.is_rude && last.is_none();
                assert_eq!(got.refusal, refused.then_some(400));
            }
        }
    }
}

fn exchanges<H: EventHandler>(seed: u64, handler: impl Fn(Ledger) -> H) {
    let mut rng = Rng::with_seed(seed);
    let ledger = Ledger::default();
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim =
        Simulation::new(seed, link, server, |_| handler(ledger.clone())).expect("a simulation");
    let mut clients: Vec<Client> = (0..rng.usize(1..4))
        .map(|_| {
            let script = (0..rng.usize(1..8))
                .map(|n| Asked::random(&mut rng, n))
                .collect();
            let (peer, is_rude) = (sim.connect(), rng.u32(..4) == 0);
            Client {
                peer,
                script,
                at: 0,
                is_within: false,
                is_rude,
            }
        })
        .collect();
    for client in &clients {
        sim.set_reading(client.peer, world::reading(&mut rng));
    }
    // Whoever waits waits longer in the end.
    for round in 0..100 {
        let mut all = true;
        for client in &mut clients {
            all &= client.go_on(&mut sim);
        }
        if all {
            break;
        }
        sim.run_for(match round {
            0..40 => Duration::from_micros(rng.u64(..30_000)),
            _ => Duration::from_secs(100),
        });
    }
    for client in &clients {
        sim.shutdown(client.peer);
    }
    sim.run_for(Duration::from_secs(3000));
    for client in &clients {
        client.check(&sim);
    }
    sim.finish();
    let peers: Vec<Peer> = clients.iter().map(|client| client.peer).collect();
    ledger.check(&sim, &peers);
}

#[test]
fn every_form_of_exchange_comes_to_its_end() {
    each_seed(0..600, |seed| exchanges(seed, Whole));
}

#[test]
fn every_form_of_exchange_in_parts_comes_to_its_end() {
    each_seed(0..600, |seed| exchanges(seed, Parts));
}
