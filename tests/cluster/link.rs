//! Both sides of a link, joined by the test in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use epicycle::cluster::drpc::{
    Answer, Code, FrameCodec, Incoming, Op, RejectReason, Request, Secret, Target, Value,
};
use epicycle::cluster::link::{
    Identity, Lane, LaneEvent, LaneOptions, Listener, ListenerStats, Verdict,
};
use epicycle::cluster::{Error, Kind};
use epicycle::codec::{Codec, Decoded};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// A gate that dials a node. The node records the packets that it is given, and answers states.
struct Pair {
    now: Duration,
    lane: Lane<u64>,
    listener: Option<Listener>,
    /// The secret of the node.
    secret: Option<Secret>,
    /// True for a node that ignores operations from 32 on, as due does.
    is_due: bool,
    /// The kind of the listener.
    kind: Kind,
    /// Bytes on their way.
    to_listener: Vec<u8>,
    to_lane: Vec<u8>,
    /// Bytes that have arrived and are no whole frame yet.
    at_listener: Vec<u8>,
    at_lane: Vec<u8>,
    /// The connections, in the order in which their packets were served.
    served: Vec<i64>,
    /// The operations by which addresses were asked for.
    asked: Vec<Op>,
    /// The result of each call.
    results: BTreeMap<u64, Result<Code, Error>>,
    told: Vec<String>,
    nonce: u8,
}

fn identity(kind: Kind, id: &str) -> Identity {
    Identity::new(kind, id)
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.as_bytes()).expect("is long enough"))
}

const OURS: &str = "the secret of this cluster";

impl Pair {
    fn new(ours: Option<Secret>, theirs: Option<Secret>, options: LaneOptions) -> Self {
        let (gate, node) = (
            identity(Kind::Gate, "gate-1"),
            identity(Kind::Node, "node-1"),
        );
        Self {
            now: SECOND,
            lane: Lane::new(gate, node, ours, options),
            listener: None,
            secret: theirs,
            is_due: false,
            kind: Kind::Node,
            to_listener: Vec::new(),
            to_lane: Vec::new(),
            at_listener: Vec::new(),
            at_lane: Vec::new(),
            served: Vec::new(),
            asked: Vec::new(),
            results: BTreeMap::new(),
            told: Vec::new(),
            nonce: 0,
        }
    }

    fn plain() -> Self {
        Self::new(None, None, LaneOptions::default())
    }

    fn connect(&mut self) {
        self.nonce += 1;
        let theirs = identity(self.kind, "node-1");
        self.listener = Some(Listener::new(theirs, self.secret.clone()));
        self.lane.connected(self.now, [self.nonce; 16]);
    }

    fn disconnect(&mut self) {
        self.listener = None;
        for bytes in [
            &mut self.to_listener,
            &mut self.to_lane,
            &mut self.at_listener,
            &mut self.at_lane,
        ] {
            bytes.clear();
        }
        let mut record = Record {
            results: &mut self.results,
            told: &mut self.told,
        };
        self.lane.disconnected(&mut |event| record.take(event));
    }

    fn deliver(&mut self, cid: i64) -> Result<(), Error> {
        let packet = b"\0\0\0\x05\0\0\x01\0\0";
        let deliver = Request::Deliver {
            cid,
            uid: 0,
            packet,
        };
        self.lane.send(&deliver, self.now, 0)
    }

    fn call(&mut self, token: u64) -> Result<u64, Error> {
        let state = token as u8 % 4;
        let call = Request::SetState { state };
        let called = self.lane.call(&call, token, self.now, 0);
        called.map_err(|(given_back, error)| {
            assert_eq!(given_back, token);
            error
        })
    }

    fn tick(&mut self) -> Result<Option<Duration>, Error> {
        let mut record = Record {
            results: &mut self.results,
            told: &mut self.told,
        };
        self.lane.tick(self.now, &mut |event| record.take(event))
    }

    /// Moves up to so many bytes each way.
    fn pass(&mut self, max: usize) -> Result<(), Error> {
        let output = self.lane.take_output();
        let Some(listener) = &mut self.listener else {
            return Ok(());
        };
        self.to_listener.extend(output);
        arrive(&mut self.to_listener, &mut self.at_listener, max);
        while let Some((frame, consumed)) = first(&mut self.at_listener) {
            let is_unknown =
                matches!(frame, Incoming::Frame(frame) if self.is_due && frame.op >= 32);
            if !is_unknown {
                let nonce = || [0x80 | self.nonce; 16];
                match listener.receive(frame, self.now, nonce, &mut self.to_lane)? {
                    Verdict::Serve { seq, request } => {
                        let mut answer = Answer::new(request.op().code(), Code::Done);
                        match request {
                            Request::Deliver { cid, .. } => self.served.push(cid),
                            Request::GetState => answer.value = Value::State(1),
                            Request::GetIp { .. } | Request::GetAddr { .. } | Request::Bye => {
                                self.asked.push(request.op());
                            }
                            _ => {}
                        }
                        if seq != 0 {
                            answer.encode_into(seq, &mut self.to_lane).expect("fits");
                        }
                    }
                    Verdict::Done => {}
                    other => panic!("{other:?}"),
                }
            }
            self.at_listener.drain(..consumed);
        }
        arrive(&mut self.to_lane, &mut self.at_lane, max);
        let mut record = Record {
            results: &mut self.results,
            told: &mut self.told,
        };
        while let Some((frame, consumed)) = first(&mut self.at_lane) {
            self.lane.receive(frame, &mut |event| record.take(event))?;
            self.at_lane.drain(..consumed);
        }
        Ok(())
    }

    /// Moves bytes until none are left.
    fn settle(&mut self) -> Result<(), Error> {
        loop {
            self.pass(usize::MAX)?;
            let output = self.lane.take_output();
            self.to_listener.extend(output);
            if self.to_listener.is_empty() && self.to_lane.is_empty() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.tick().expect("the link is open or down");
    }

    fn stats(&self) -> ListenerStats {
        self.listener.as_ref().expect("is connected").stats()
    }
}

struct Record<'r> {
    results: &'r mut BTreeMap<u64, Result<Code, Error>>,
    told: &'r mut Vec<String>,
}

impl Record<'_> {
    fn take(&mut self, event: LaneEvent<'_, u64>) {
        match event {
            LaneEvent::Answered { token, result } => {
                let result = result.map(|answer| answer.code);
                let before = self.results.insert(token, result);
                assert!(before.is_none(), "{token} has ended twice");
            }
            other => self.told.push(format!("{other:?}")),
        }
    }
}

/// Moves up to so many bytes.
fn arrive(from: &mut Vec<u8>, to: &mut Vec<u8>, max: usize) {
    to.extend(from.drain(..max.min(from.len())));
}

fn first(input: &mut [u8]) -> Option<(Incoming<'_>, usize)> {
    if input.is_empty() {
        return None;
    }
    match FrameCodec::default().decode(input).expect("is sound") {
        Decoded::Frame { frame, consumed } => Some((frame, consumed)),
        _ => None,
    }
}

#[test]
fn a_link_without_a_secret_goes_on_at_once_and_what_waited_comes_first() {
    let mut pair = Pair::plain();
    for cid in 1..=3 {
        pair.deliver(cid).expect("waits");
    }
    pair.call(7).expect("waits");
    assert_eq!(pair.lane.stats().sent, 0);
    pair.connect();
    pair.deliver(4).expect("is sent");
    // Nothing has come back yet.
    assert_eq!(pair.lane.stats().sent, 5);
    pair.settle().expect("both agree");
    assert_eq!(pair.served, [1, 2, 3, 4]);
    assert_eq!(pair.told, ["Up { extensions: true, state: Some(1) }"]);
    assert!(matches!(pair.results[&7], Ok(Code::Done)));
    assert!(pair.lane.is_up());
    let peer = pair.listener.as_ref().and_then(Listener::peer);
    assert_eq!(peer, Some((Kind::Gate.code(), "gate-1")));
}

#[test]
fn a_peer_that_answers_the_state_and_not_the_hello_is_due() {
    let mut pair = Pair::plain();
    pair.is_due = true;
    pair.connect();
    pair.settle().expect("due is accepted");
    assert_eq!(pair.told, ["Up { extensions: false, state: Some(1) }"]);
    pair.deliver(1).expect("is sent");
    pair.settle().expect("due is accepted");
    assert_eq!(pair.served, [1]);
}

#[test]
fn with_a_secret_nothing_is_sent_before_both_have_proved_that_they_have_it() {
    let mut pair = Pair::new(secret(OURS), secret(OURS), LaneOptions::default());
    pair.connect();
    pair.deliver(1).expect("waits");
    pair.call(2).expect("waits");
    assert_eq!(pair.lane.stats().sent, 0);
    // The opening, and then the proof.
    pair.pass(usize::MAX).expect("is right");
    assert!(!pair.lane.is_up() && pair.served.is_empty());
    pair.settle().expect("is right");
    assert!(pair.lane.is_up());
    assert_eq!(pair.served, [1]);
    assert!(matches!(pair.results[&2], Ok(Code::Done)));
    // GetState came before the proof.
    assert_eq!(pair.stats().refused, 1);
}

#[test]
fn a_wrong_secret_and_none_are_refused_on_either_side() {
    let other = || secret("the secret of another one");
    for (ours, theirs, is_due) in [
        (secret(OURS), other(), false),
        (secret(OURS), None, false),
        (None, other(), false),
        (secret(OURS), None, true),
    ] {
        let what = format!("{ours:?} {theirs:?} {is_due}");
        let mut pair = Pair::new(ours, theirs, LaneOptions::default());
        pair.is_due = is_due;
        pair.connect();
        let error = pair.settle().expect_err("must not come up");
        assert!(
            matches!(error, Error::Unauthorized { .. }),
            "{what}: {error}"
        );
        assert!(pair.served.is_empty() && pair.told.is_empty(), "{what}");
    }
}

#[test]
fn a_listener_with_a_secret_refuses_everything_but_the_opening_and_a_wrong_proof_ends_the_link() {
    let gate = identity(Kind::Gate, "gate-1");
    let mut listener = Listener::new(gate, secret(OURS));
    let mut ask = |request: Request<'_>| {
        let (mut wire, mut output) = (Vec::new(), Vec::new());
        request.encode_into(9, &mut wire).expect("fits");
        let (frame, _) = first(&mut wire).expect("is whole");
        let result = listener.receive(frame, SECOND, || [5; 16], &mut output);
        assert!(!matches!(result, Ok(Verdict::Serve { .. })), "{request:?}");
        let (Incoming::Frame(frame), _) = first(&mut output).expect("is answered") else {
            panic!("is an answer");
        };
        let answer = Answer::decode(&frame).expect("is sound");
        assert_eq!((frame.op, frame.seq), (request.op().code(), 9));
        (answer.code, result.err())
    };
    let (id, kind) = ("node-1", Kind::Node.code());
    // A proof is for nonces and names that are known.
    assert!(matches!(
        ask(Request::Prove { mac: [0; 32] }),
        (Code::Failed, None)
    ));
    for request in [Request::GetState, Request::Unbind { uid: 1 }, Request::Ping] {
        assert!(matches!(ask(request), (Code::Failed, None)));
    }
    assert!(matches!(
        ask(Request::Handshake { kind, id }),
        (Code::Done, None)
    ));
    assert!(matches!(ask(Request::GetState), (Code::Failed, None)));
    let proved = ask(Request::Prove { mac: [0; 32] });
    assert!(
        matches!(proved, (Code::Failed, None)),
        "no Hello came before"
    );
    let hello = epicycle::cluster::drpc::Hello {
        version: 1,
        features: 0,
        nonce: [1; 16],
    };
    assert!(matches!(ask(Request::Hello(hello)), (Code::Done, None)));
    let (code, error) = ask(Request::Prove { mac: [0; 32] });
    assert_eq!(code, Code::Failed);
    assert!(matches!(error, Some(Error::Unauthorized { .. })));
}

#[test]
fn a_peer_that_has_introduced_itself_is_nobody_else_on_that_link() {
    let mut listener = Listener::new(Identity::new(Kind::Gate, "gate-1"), None);
    let mut introduce = |kind: Kind, id: &str| {
        let (mut wire, mut output) = (Vec::new(), Vec::new());
        let kind = kind.code();
        let handshake = Request::Handshake { kind, id };
        handshake.encode_into(9, &mut wire).expect("fits");
        let (frame, _) = first(&mut wire).expect("is whole");
        let done = listener.receive(frame, SECOND, || [5; 16], &mut output);
        assert!(matches!(done, Ok(Verdict::Done)));
        let (Incoming::Frame(frame), _) = first(&mut output).expect("is answered") else {
            panic!("is an answer");
        };
        let code = Answer::decode(&frame).expect("is sound").code;
        let peer = listener.peer().map(|(kind, id)| (kind, id.to_owned()));
        (code, peer)
    };
    let first = Some((Kind::Node.code(), "node-1".to_owned()));
    for (kind, id, code) in [
        (Kind::Node, "node-1", Code::Done),
        (Kind::Node, "node-2", Code::Failed),
        (Kind::Gate, "node-1", Code::Failed),
        (Kind::Node, "node-1", Code::Done),
    ] {
        assert_eq!(introduce(kind, id), (code, first.clone()));
    }
}

#[test]
fn requests_for_another_kind_of_server_are_refused_and_garbage_is_counted() {
    let target = Target {
        scope: epicycle::cluster::drpc::Scope::Conn,
        id: 1,
    };
    for (kind, served) in [
        (
            Kind::Gate,
            vec![Op::Unbind, Op::GetIp, Op::GetAddr, Op::GetState],
        ),
        (Kind::Node, vec![Op::Deliver, Op::GetState]),
        (Kind::Mesh, vec![Op::GetState]),
    ] {
        let mut listener = Listener::new(identity(kind, "x"), None);
        for request in [
            Request::Unbind { uid: 1 },
            Request::GetIp { target },
            Request::GetAddr { target },
            Request::Deliver {
                cid: 1,
                uid: 1,
                packet: b"",
            },
            Request::GetState,
        ] {
            let (mut wire, mut output) = (Vec::new(), Vec::new());
            request.encode_into(9, &mut wire).expect("fits");
            let (frame, _) = first(&mut wire).expect("is whole");
            let verdict = listener.receive(frame, SECOND, || [0; 16], &mut output);
            let is_served = matches!(verdict, Ok(Verdict::Serve { seq: 9, .. }));
            assert_eq!(
                is_served,
                served.contains(&request.op()),
                "{kind} {request:?}"
            );
            assert_eq!(output.is_empty(), is_served);
        }
        assert_eq!(listener.stats().refused, 5 - served.len() as u64);
        // An unknown operation, with and without a wish for an answer.
        for (seq, answered) in [(3, true), (0, false)] {
            let mut wire = b"\0\0\0\x0a\0\x63\0\0\0\0\0\0\0".to_vec();
            wire.push(seq);
            let (frame, _) = first(&mut wire).expect("is whole");
            let mut output = Vec::new();
            let verdict = listener.receive(frame, SECOND, || [0; 16], &mut output);
            assert!(matches!(verdict, Ok(Verdict::Done)));
            assert_eq!(!output.is_empty(), answered);
        }
        assert_eq!(listener.stats().malformed, 2);
    }
}

#[test]
fn a_cancelled_call_leaves_the_link_working_and_its_answer_is_dropped() {
    let mut pair = Pair::plain();
    pair.connect();
    pair.settle().expect("is open");
    let first = pair.call(1).expect("is sent");
    pair.call(2).expect("is sent");
    assert_eq!(pair.lane.cancel(first), Some(1));
    assert_eq!(pair.lane.cancel(first), None);
    pair.settle().expect("is open");
    assert!(!pair.results.contains_key(&1));
    assert!(matches!(pair.results[&2], Ok(Code::Done)));
    assert_eq!(pair.lane.stats().late, 1);
    // One that is cancelled while it waits for a connection is never sent.
    pair.disconnect();
    let third = pair.call(3).expect("waits");
    assert_eq!(pair.lane.cancel(third), Some(3));
    pair.connect();
    pair.settle().expect("is open");
    assert_eq!(pair.lane.stats().late, 1);
    assert_eq!(pair.lane.stats().calls, 0);
}

#[test]
fn a_call_that_is_not_answered_in_time_fails_and_so_does_one_whose_connection_ends() {
    let mut pair = Pair::plain();
    pair.connect();
    pair.settle().expect("is open");
    pair.call(1).expect("is sent");
    pair.wait(2 * SECOND);
    pair.call(2).expect("is sent");
    assert!(pair.results.is_empty());
    let next = pair.tick().expect("is open").expect("calls wait");
    assert_eq!(next, pair.now + SECOND);
    pair.wait(SECOND);
    assert!(matches!(pair.results[&1], Err(Error::Timeout { .. })));
    assert!(!pair.results.contains_key(&2));
    pair.disconnect();
    assert!(matches!(pair.results[&2], Err(Error::LinkDown { .. })));
    assert_eq!(
        (pair.lane.stats().calls, pair.lane.stats().timeouts),
        (0, 1)
    );
}

#[test]
fn what_waits_for_a_connection_has_bounds_and_is_counted_when_it_is_given_up() {
    let mut options = LaneOptions::default();
    options.queue_bytes = 400;
    options.max_calls = 2;
    let mut pair = Pair::new(None, None, options);
    let mut accepted = 0;
    let error = loop {
        match pair.deliver(accepted) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    // Each frame has 39 bytes.
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert_eq!((accepted, pair.lane.stats().queued_bytes), (10, 390));
    pair.wait(3 * SECOND);
    assert_eq!(pair.told, ["GaveUp { frames: 10, bytes: 390 }"]);
    for token in 1..=2 {
        pair.call(token).expect("waits");
    }
    assert!(matches!(pair.call(3), Err(Error::Busy { .. })));
    assert_eq!(pair.lane.stats().refused, 2);
    pair.wait(3 * SECOND);
    assert!(matches!(pair.results[&1], Err(Error::LinkDown { .. })));
    let stats = pair.lane.stats();
    assert_eq!(
        (stats.calls, stats.queued_bytes, stats.given_up),
        (0, 0, 12)
    );
    assert_eq!(pair.tick().expect("is down"), None);
}

#[test]
fn a_peer_that_does_not_read_is_busy_and_nothing_grows() {
    let mut options = LaneOptions::default();
    options.max_backlog = 100;
    let mut pair = Pair::new(None, None, options);
    pair.connect();
    pair.settle().expect("is open");
    let deliver = Request::Deliver {
        cid: 1,
        uid: 0,
        packet: b"",
    };
    assert!(pair.lane.send(&deliver, pair.now, 100).is_ok());
    let error = pair
        .lane
        .send(&deliver, pair.now, 100)
        .expect_err("is over");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let (token, error) = pair
        .lane
        .call(&deliver, 5, pair.now, 101)
        .expect_err("is over");
    assert!(token == 5 && matches!(error, Error::Busy { .. }), "{error}");
    assert_eq!(pair.lane.stats().calls, 0);
}

#[test]
fn heartbeats_are_sent_every_ten_seconds_and_a_silent_link_is_due_to_end_after_twenty() {
    let mut pair = Pair::plain();
    pair.connect();
    pair.settle().expect("is open");
    let listener = pair.listener.as_ref().expect("is there");
    assert_eq!(listener.deadline(), pair.now + 20 * SECOND);
    for _ in 0..5 {
        pair.wait(9 * SECOND);
        assert!(pair.lane.take_output().is_empty());
        pair.wait(SECOND);
        assert_eq!(pair.tick().expect("is open"), Some(pair.now + 10 * SECOND));
        pair.settle().expect("is open");
        let listener = pair.listener.as_ref().expect("is there");
        assert_eq!(listener.deadline(), pair.now + 20 * SECOND);
    }
    // Also while there is other traffic: due counts heartbeats.
    pair.wait(9 * SECOND);
    pair.deliver(1).expect("is sent");
    pair.settle().expect("is open");
    pair.wait(SECOND);
    assert_eq!(pair.lane.take_output(), b"\0\0\0\x01\x80");
    pair.disconnect();
    assert_eq!(pair.tick().expect("is down"), None);
}

#[test]
fn an_opening_that_is_not_answered_in_time_is_an_error() {
    let mut pair = Pair::plain();
    pair.connect();
    assert_eq!(pair.tick().expect("is open"), Some(pair.now + 3 * SECOND));
    pair.now += 3 * SECOND;
    assert!(matches!(pair.tick(), Err(Error::Timeout { .. })));
}

#[test]
fn after_a_bye_nothing_more_is_taken_and_calls_are_still_answered() {
    let mut pair = Pair::plain();
    pair.connect();
    pair.settle().expect("is open");
    pair.deliver(1).expect("is sent");
    pair.call(2).expect("is sent");
    let listener = pair.listener.as_ref().expect("is there");
    listener.reject(3, 4, 5, RejectReason::Moved, &mut pair.to_lane);
    listener.bye(&mut pair.to_lane);
    pair.settle().expect("is open");
    assert_eq!(
        pair.told[1..],
        [
            "Rejected { cid: 3, route: 4, seq: 5, reason: Moved }",
            "Bye"
        ]
    );
    assert!(matches!(pair.results[&2], Ok(Code::Done)));
    assert_eq!(pair.served, [1]);
    // Now the listener knows that nothing else is under way.
    assert_eq!(pair.asked.last(), Some(&Op::Bye));
    assert!(matches!(pair.deliver(6), Err(Error::Draining)));
    assert!(matches!(pair.call(7), Err(Error::Draining)));
    // Another connection takes them again.
    pair.disconnect();
    pair.connect();
    pair.deliver(8).expect("is sent");
    pair.settle().expect("is open");
    assert_eq!(pair.served, [1, 8]);
    // due is told neither.
    let mut due = Pair::plain();
    due.is_due = true;
    due.connect();
    due.settle().expect("is open");
    let listener = due.listener.as_ref().expect("is there");
    listener.bye(&mut due.to_lane);
    assert!(due.to_lane.is_empty());
}

#[test]
fn a_peer_that_says_bye_amid_the_opening_is_known_before_it_leaves() {
    let mut pair = Pair::plain();
    pair.connect();
    pair.deliver(1).expect("is sent");
    // The listener has read Handshake and Hello, and stops.
    let output = pair.lane.take_output();
    let hello = 14 + 1 + "gate-1".len() + 14 + 1 + 4 + 16;
    pair.to_listener = output;
    let rest = pair.to_listener.split_off(hello);
    pair.pass(usize::MAX).expect("is open");
    let listener = pair.listener.as_ref().expect("is there");
    listener.bye(&mut pair.to_lane);
    pair.pass(usize::MAX).expect("is open");
    assert!(pair.told.is_empty(), "{:?}", pair.told);
    assert!(matches!(pair.deliver(2), Err(Error::Draining)));
    // It answers what it was asked before.
    pair.to_listener.extend(rest);
    pair.settle().expect("is open");
    assert_eq!(
        pair.told,
        ["Up { extensions: true, state: Some(1) }", "Bye"]
    );
    assert!(matches!(pair.deliver(3), Err(Error::Draining)));
    assert_eq!(
        (&pair.served[..], &pair.asked[..]),
        (&[1][..], &[Op::Bye][..])
    );
}

#[test]
fn with_a_secret_no_bye_comes_before_the_proofs() {
    let mut pair = Pair::new(secret(OURS), secret(OURS), LaneOptions::default());
    pair.connect();
    let output = pair.lane.take_output();
    pair.to_listener = output;
    pair.pass(usize::MAX).expect("is open");
    let listener = pair.listener.as_ref().expect("is there");
    listener.bye(&mut pair.to_lane);
    pair.settle().expect("the link stays");
    assert_eq!(pair.told, ["Up { extensions: true, state: None }"]);
}

#[test]
fn the_address_of_a_client_is_asked_by_the_operation_that_the_peer_knows() {
    for is_due in [false, true] {
        let mut pair = Pair::plain();
        (pair.is_due, pair.kind) = (is_due, Kind::Gate);
        let target = Target::conn(5);
        let ask = |pair: &mut Pair, token| {
            let asked = pair
                .lane
                .call(&Request::GetAddr { target }, token, pair.now, 0);
            asked.map_err(|(_, error)| error).expect("is sent");
        };
        // Before there is a connection, amid the opening, and once the peer is known.
        ask(&mut pair, 1);
        pair.connect();
        ask(&mut pair, 2);
        pair.settle().expect("is open");
        ask(&mut pair, 3);
        pair.settle().expect("is open");
        let op = if is_due { Op::GetIp } else { Op::GetAddr };
        assert_eq!(pair.asked, [op; 3]);
        assert_eq!(pair.results.len(), 3);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Deliver,
    Call,
    Cancel,
    Pass(usize),
    Wait(u64),
    Connect,
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Deliver),
        3 => Just(Step::Call),
        1 => Just(Step::Cancel),
        6 => (1..200_usize).prop_map(Step::Pass),
        2 => (0..4000_u64).prop_map(Step::Wait),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
    ]
}

proptest! {
    /// Whatever happens to the connection: packets come in order, each at most once, and none is lost without a count or a reset;
    /// each call ends exactly once.
    #[test]
    fn order_and_ends_hold_whatever_happens_to_the_connection(
        steps in proptest::collection::vec(step(), 0..120),
        has_secret in any::<bool>(),
        is_due in any::<bool>(),
    ) {
        let secret = secret(OURS).filter(|_| has_secret);
        let mut pair = Pair::new(secret.clone(), secret, LaneOptions::default());
        pair.is_due = is_due && !has_secret;
        let (mut delivered, mut calls, mut seqs) = (0, 0, Vec::new());
        let mut cancelled = 0;
        let mut resets = 0;
        for step in steps {
            match step {
                Step::Deliver => {
                    delivered += 1;
                    prop_assert!(pair.deliver(delivered).is_ok());
                }
                Step::Call => {
                    calls += 1;
                    seqs.push(pair.call(calls).expect("has room"));
                }
                Step::Cancel => {
                    if let Some(seq) = seqs.pop() {
                        cancelled += usize::from(pair.lane.cancel(seq).is_some());
                    }
                }
                Step::Pass(bytes) => pair.pass(bytes).expect("both agree"),
                Step::Wait(time) => {
                    pair.now += Duration::from_millis(time);
                    if pair.tick().is_err() {
                        pair.disconnect();
                        resets += 1;
                    }
                }
                Step::Connect => {
                    if pair.listener.is_some() {
                        pair.disconnect();
                        resets += 1;
                    }
                    pair.connect();
                }
                Step::Disconnect => {
                    pair.disconnect();
                    resets += 1;
                }
            }
        }
        // In the end the link is there.
        if pair.listener.is_none() {
            pair.connect();
        }
        pair.settle().expect("both agree");
        prop_assert!(pair.lane.is_up());
        pair.wait(4 * SECOND);
        prop_assert!(pair.served.is_sorted_by(|a, b| a < b), "{:?}", pair.served);
        let stats = pair.lane.stats();
        prop_assert_eq!((stats.calls, stats.queued_bytes), (0, 0));
        prop_assert_eq!(pair.results.len() + cancelled, calls as usize);
        if resets == 0 && stats.given_up == 0 {
            prop_assert_eq!(pair.served.len(), delivered as usize);
        }
    }
}
