//! Scripted nodes: engines that note what gates tell them, send packets back to their clients, and bind users.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epicycle::cluster::Kind;
use epicycle::cluster::drpc::{Answer, Code, FrameCodec, Incoming, Request, Scope, Target, Value};
use epicycle::cluster::link::{Identity, Lane, LaneEvent, LaneOptions, Listener, Verdict};
use epicycle::cluster::packet::{Packet, PacketFrame, PacketOptions};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, Connect, EventHandler, FailedConnect,
    Origin, Reactor,
};
use parking_lot::Mutex;

/// The route of packets that are sent back if they are requests.
pub(crate) const ECHO: i32 = 1;
/// The route of packets whose data is a user, which the connection gets.
pub(crate) const LOGIN: i32 = 2;
/// The route of requests for a token, which is the answer.
pub(crate) const TOKEN: i32 = 4;
/// The same as [`ECHO`], for users that are at a node.
pub(crate) const PLAY: i32 = 3;
/// The route of pushes.
pub(crate) const NEWS: i32 = 9;

/// The routes of control packets that answer a Resume.
pub(crate) const RESUMED: i32 = 2;
pub(crate) const REFUSED: i32 = 3;

/// A message of a gate to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) gate: String,
    pub(crate) cid: i64,
    pub(crate) uid: i64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Event(u8),
    /// A packet, with its data.
    Packet(String),
    /// The answer of the gate to a bind.
    Bound(Code),
    /// The user of the connection is on another one.
    Left,
}

/// What a node was told, in order.
pub(crate) type Log = Arc<Mutex<Vec<Told>>>;

pub(crate) struct Node {
    ours: Identity,
    log: Log,
    /// Its links to gates. The number of each is the token of its connections.
    lanes: Vec<Dialled>,
    began: Option<Instant>,
}

struct Dialled {
    gate: String,
    addr: SocketAddr,
    lane: Lane<Asked>,
    conn: Option<ConnId>,
    is_dialling: bool,
}

/// A bind that a client waits for.
struct Login {
    cid: i64,
    uid: i64,
    seq: i32,
}

/// A request to a gate.
enum Asked {
    Login(Login),
    /// A token, for the packet with this seq of a connection.
    Token(i64, i32),
}

pub(crate) enum Session {
    /// A gate that has dialled.
    Gate(Box<Listener>),
    Lane(usize),
}

impl Node {
    pub(crate) fn new(id: &str, log: Log, gates: &[(&str, SocketAddr)]) -> Self {
        let ours = Identity::new(Kind::Node, id);
        let lanes = gates.iter().map(|(gate, addr)| {
            let theirs = Identity::new(Kind::Gate, *gate);
            Dialled {
                gate: (*gate).to_owned(),
                addr: *addr,
                lane: Lane::new(ours.clone(), theirs, None, LaneOptions::default()),
                conn: None,
                is_dialling: false,
            }
        });
        Self {
            lanes: lanes.collect(),
            ours,
            log,
            began: None,
        }
    }

    /// Sends a request to a gate.
    pub(crate) fn send(
        &mut self,
        gate: &str,
        request: &Request<'_>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let now = self.time(reactor.now());
        let lane = self.lanes.iter_mut().find(|lane| lane.gate == gate);
        let lane = lane.expect("the gate is known");
        lane.lane.send(request, now, 0).expect("there is room");
        reactor.request_turn_end();
    }

    fn serve(&mut self, conn: &mut Conn<'_, Self>, gate: &str, request: &Request<'_>) {
        let told = |cid, uid, what| {
            let gate = gate.to_owned();
            self.log.lock().push(Told {
                gate,
                cid,
                uid,
                what,
            });
        };
        match *request {
            Request::Trigger { event, cid, uid } => told(cid, uid, What::Event(event)),
            Request::Deliver {
                cid,
                uid,
                packet: whole,
            } => {
                let read = PacketOptions::default().decode_message(whole);
                let Ok(PacketFrame::Packet { packet, .. }) = read else {
                    panic!("a gate delivers whole packets: {read:?}");
                };
                let data = String::from_utf8_lossy(packet.data).into_owned();
                told(cid, uid, What::Packet(data.clone()));
                match packet.route {
                    LOGIN => {
                        let now = self.time(conn.now());
                        let uid = data.parse().expect("is a user");
                        let login = Login {
                            cid,
                            uid,
                            seq: packet.seq,
                        };
                        let lane = self.lane(gate);
                        let login = Asked::Login(login);
                        let called = lane.call(&Request::Bind { cid, uid }, login, now, 0);
                        assert!(called.is_ok(), "there is room");
                    }
                    TOKEN => {
                        let (now, seq) = (self.time(conn.now()), packet.seq);
                        let (scope, asked) = (Scope::Conn, Asked::Token(cid, seq));
                        let target = Target { scope, id: cid };
                        let lane = self.lane(gate);
                        let called = lane.call(&Request::GetToken { target }, asked, now, 0);
                        assert!(called.is_ok(), "there is room");
                    }
                    _ if packet.seq > 0 => {
                        let data = format!("{data}@{}", self.ours.id);
                        self.answer(conn.now(), gate, cid, packet.route, packet.seq, &data);
                    }
                    _ => {}
                }
                conn.request_turn_end();
            }
            Request::Leave { cid } => told(cid, 0, What::Left),
            _ => panic!("no request for a node: {request:?}"),
        }
    }

    /// Pushes a packet to a client.
    fn answer(&mut self, now: Instant, gate: &str, cid: i64, route: i32, seq: i32, data: &str) {
        let now = self.time(now);
        let data = data.as_bytes();
        let packet = PacketOptions::default().encode(&Packet { route, seq, data });
        let packet = packet.expect("is short");
        let (scope, disconnect) = (Scope::Conn, false);
        let push = Request::Push {
            target: Target { scope, id: cid },
            disconnect,
            packet: packet.as_bytes(),
        };
        // A link that is down for long loses what is sent on it.
        let _ = self.lane(gate).send(&push, now, 0);
    }

    fn lane(&mut self, gate: &str) -> &mut Lane<Asked> {
        let mut lanes = self.lanes.iter_mut();
        let dialled = lanes.find(|lane| lane.gate == gate);
        &mut dialled.expect("the gate is known").lane
    }

    /// Dials the gates without a connection, sends what is due, and does it again later.
    fn tend(&mut self, reactor: &mut Reactor<'_, Self>) {
        let now = self.time(reactor.now());
        for (token, dialled) in self.lanes.iter_mut().enumerate() {
            let ticked = dialled.lane.tick(now, &mut |_| {});
            if let (Err(_), Some(conn)) = (ticked, dialled.conn) {
                reactor.with(conn, |conn, _| conn.close());
            }
            if dialled.conn.is_none() && !dialled.is_dialling {
                let connect = Connect::to(format!("tcp://{}", dialled.addr)).token(token as u64);
                let connect = connect.timeout(Duration::from_secs(3));
                // A node that is about to end dials nobody.
                dialled.is_dialling = reactor.connect(connect).is_ok();
            }
        }
        reactor.request_turn_end();
        reactor.schedule(Duration::from_millis(50), |node, reactor| {
            node.tend(reactor);
        });
    }

    fn take(&mut self, conn: &mut Conn<'_, Self>, token: usize, frame: Incoming<'_>) -> Action {
        let dialled = &mut self.lanes[token];
        let (gate, mut ended) = (dialled.gate.clone(), Vec::new());
        let received = dialled.lane.receive(frame, &mut |event| {
            if let LaneEvent::Answered { token, result } = event {
                let code = match &result {
                    Ok(answer) => answer.code,
                    Err(_) => Code::Failed,
                };
                let text = match result.map(|answer| answer.value) {
                    Ok(Value::Token(text)) => text.to_owned(),
                    _ => String::new(),
                };
                ended.push((token, code, text));
            }
        });
        for (asked, code, text) in ended {
            let Login { cid, uid, seq } = match asked {
                Asked::Login(login) => login,
                Asked::Token(cid, seq) => {
                    self.answer(conn.now(), &gate, cid, TOKEN, seq, &text);
                    continue;
                }
            };
            self.log.lock().push(Told {
                gate: gate.clone(),
                cid,
                uid,
                what: What::Bound(code),
            });
            let data = format!("{uid}={}", code.code());
            self.answer(conn.now(), &gate, cid, LOGIN, seq, &data);
        }
        conn.request_turn_end();
        match received {
            Ok(()) => Action::Continue,
            Err(_) => Action::Close,
        }
    }

    fn time(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.began.get_or_insert(now))
    }
}

impl EventHandler for Node {
    type Codec = FrameCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> FrameCodec {
        FrameCodec::default()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.schedule(Duration::ZERO, Node::tend);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let Origin::Connected { token } = conn.origin() else {
            let listener = Listener::new(self.ours.clone(), None);
            return Some(Session::Gate(Box::new(listener)));
        };
        let now = self.time(conn.now());
        let dialled = &mut self.lanes[token as usize];
        (dialled.conn, dialled.is_dialling) = (Some(conn.id()), false);
        dialled.lane.connected(now, [7; 16]);
        conn.request_turn_end();
        Some(Session::Lane(token as usize))
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: Incoming<'_>,
    ) -> Action {
        let listener = match session {
            Session::Gate(listener) => listener,
            Session::Lane(token) => return self.take(conn, *token, frame),
        };
        let (now, mut output) = (self.time(conn.now()), Vec::new());
        let verdict = listener.receive(frame, now, || [9; 16], &mut output);
        let mut asked = None;
        if let Ok(Verdict::Serve { seq, request }) = verdict {
            if request == Request::GetState {
                let mut answer = Answer::new(request.op().code(), Code::Done);
                answer.value = Value::State(1);
                answer.encode_into(seq, &mut output).expect("is short");
            } else if request == Request::Ping {
                let answer = Answer::new(request.op().code(), Code::Done);
                answer.encode_into(seq, &mut output).expect("is short");
            } else {
                asked = Some(request);
            }
        }
        let gate = listener.peer().map_or("", |(_, id)| id);
        if let Some(request) = asked {
            self.serve(conn, gate, &request);
        }
        conn.write(&output).into()
    }

    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        for dialled in &mut self.lanes {
            let Some(conn) = dialled.conn else { continue };
            let output = dialled.lane.take_output();
            if !output.is_empty() {
                // What a connection that is closing does not take is lost with it.
                let _ = reactor.with(conn, |conn, _| conn.write(&output));
            }
        }
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        _: CloseReason,
    ) {
        if let Session::Lane(token) = session {
            let dialled = &mut self.lanes[token];
            assert_eq!(dialled.conn, Some(info.id));
            dialled.conn = None;
            dialled.lane.disconnected(&mut |_| {});
        }
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.lanes[failed.token as usize].is_dialling = false;
    }
}
