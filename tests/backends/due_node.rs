//! A node of due, as a stand-in over real sockets: it takes what gates deliver, and calls a gate with the operations of due.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::Addr;
use epicycle::cluster::drpc::{Answer, Code, Op, Request, Scope, Targets, Value};
use epicycle::cluster::packet::{PacketFrame, PacketOptions};
use parking_lot::Mutex;
use redis::{Commands, Connection};
use serde_json::{Value as Json, json};

use crate::rig::{Link, Wire, conn, frame_of, packet, user};

pub(crate) struct DueNode {
    addr: SocketAddr,
    links: Arc<Mutex<Vec<TcpStream>>>,
    is_over: Arc<AtomicBool>,
}

impl DueNode {
    /// Starts a node that calls `deliver` with the connection, the user and the bytes of each packet.
    pub(crate) fn start(deliver: impl FnMut(i64, i64, &[u8]) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let node = Self {
            addr,
            links: Arc::default(),
            is_over: Arc::default(),
        };
        let (links, is_over) = (node.links.clone(), node.is_over.clone());
        let deliver = Arc::new(Mutex::new(deliver));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                links.lock().push(stream.try_clone().expect("is cloned"));
                let deliver = deliver.clone();
                thread::spawn(move || serve(Wire::over(stream), &mut *deliver.lock()));
            }
        });
        node
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("drpc://{}?is_secure=false", self.addr)
    }
}

impl Drop for DueNode {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for link in self.links.lock().drain(..) {
            let _ = link.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addr));
    }
}

fn serve(mut wire: Wire, deliver: &mut impl FnMut(i64, i64, &[u8])) {
    let long = Some(Duration::from_secs(3600));
    wire.0.set_read_timeout(long).expect("is set");
    while let Some(mut bytes) = wire.next() {
        let Some(frame) = frame_of(&mut bytes) else {
            continue;
        };
        // It does not know the extensions.
        if frame.op >= 32 {
            continue;
        }
        let mut answer = Answer::new(frame.op, Code::Done);
        match Request::decode(&frame).expect("a gate sends sound requests") {
            Request::Deliver { cid, uid, packet } => deliver(cid, uid, packet),
            Request::GetState => answer.value = Value::State(1),
            Request::Trigger { .. } => {}
            request => assert_eq!(request.op(), Op::Handshake),
        }
        if frame.seq != 0 {
            let mut bytes = Vec::new();
            answer.encode_into(frame.seq, &mut bytes).expect("is sound");
            wire.send(bytes);
        }
    }
}

/// The application of the recordings.
pub(crate) struct App {
    link: Link,
    redis: Connection,
}

impl App {
    pub(crate) fn new(gate: &Addr, redis: Connection) -> Self {
        let link = Link::dial(gate, "due-node");
        Self { link, redis }
    }

    pub(crate) fn deliver(&mut self, cid: i64, uid: i64, message: &[u8]) {
        let read = PacketOptions::default().decode_message(message);
        let Ok(PacketFrame::Packet { packet: read, .. }) = read else {
            panic!("a gate delivers whole packets: {read:?}");
        };
        let body: Json = serde_json::from_slice(read.data).expect("is JSON");
        let answer = self.answer(cid, uid, read.route, &body);
        let answer = packet(read.route, read.seq, &answer.to_string());
        self.push(false, cid, &answer);
    }

    fn answer(&mut self, cid: i64, uid: i64, route: i32, body: &Json) -> Json {
        match route {
            1 => json!({"code": 0, "echo": body}),
            2 => {
                let uid = body["uid"].as_i64().expect("has one");
                assert_eq!(self.link.bind(cid, uid), Code::Done);
                json!({"code": 0, "err": "<nil>"})
            }
            3 => json!({"stateful": true, "uid": uid}),
            4 => json!({"authorized": true, "uid": uid}),
            6 => {
                let key = format!("due:locate:locate:user:{uid}:node");
                let () = self.redis.hset(key, "node", "due-node").expect("is set");
                let event = json!({"uid": uid, "type": 2, "insID": "due-node", "insKind": "node", "insName": "node"});
                let channel = "due:locate:locate:cluster:node:event";
                let () = (self.redis.publish(channel, event.to_string())).expect("is published");
                json!({"bindnode": "<nil>"})
            }
            9 => self.operate(cid, body),
            route => panic!("no route {route}"),
        }
    }

    fn operate(&mut self, cid: i64, body: &Json) -> Json {
        let op = body["op"].as_str().expect("has one");
        let number = |name: &str| body[name].as_i64().unwrap_or_default();
        let pushed = packet(100, 0, &json!({"msg": body["msg"]}).to_string());
        let (disconnect, packet, acked) = (false, &pushed[..], body["ack"] == true);
        let scope = match number("kind") {
            2 => Scope::User,
            _ => Scope::Conn,
        };
        let channel = body["ch"].as_str().unwrap_or_default();
        let lost = "not found user's location";
        let (mut err, mut r) = ("<nil>", Json::Null);
        match op {
            "push_conn" => self.push(acked, cid, packet),
            "push_user" if !self.located(number("uid")) => err = lost,
            "push_user" => {
                let target = user(number("uid"));
                let push = Request::Push {
                    target,
                    disconnect,
                    packet,
                };
                assert_eq!(self.link.call(&push), Code::Done);
            }
            "multicast_conn" => {
                let targets = [cid, cid, 2, 999];
                let (scope, targets) = (Scope::Conn, Targets::from(&targets));
                r = self.count(
                    acked,
                    &Request::Multicast {
                        scope,
                        targets,
                        disconnect,
                        packet,
                    },
                );
            }
            // Its proxy pushes to one user after the other, and 999 is nowhere.
            "multicast_user" => {
                let target = user(7);
                let push = Request::Push {
                    target,
                    disconnect,
                    packet,
                };
                assert_eq!(self.link.call(&push), Code::Done);
                (err, r) = (lost, json!(0));
            }
            "multicast_user_gid" => {
                let (scope, targets) = (Scope::User, Targets::from(&[7, 999]));
                r = self.count(
                    acked,
                    &Request::Multicast {
                        scope,
                        targets,
                        disconnect,
                        packet,
                    },
                );
            }
            "broadcast" => {
                r = self.count(
                    acked,
                    &Request::Broadcast {
                        scope,
                        disconnect,
                        packet,
                    },
                );
            }
            "publish" => {
                r = self.count(
                    acked,
                    &Request::Publish {
                        channel,
                        disconnect,
                        packet,
                    },
                );
            }
            "subscribe" | "subscribe_user" | "unsubscribe" => {
                let own = [cid];
                let (scope, targets) = match op {
                    "subscribe_user" => (Scope::User, Targets::from(&[7])),
                    _ => (Scope::Conn, Targets::from(&own)),
                };
                let request = match op {
                    "unsubscribe" => Request::Unsubscribe {
                        scope,
                        targets,
                        channel,
                    },
                    _ => Request::Subscribe {
                        scope,
                        targets,
                        channel,
                    },
                };
                assert_eq!(self.link.call(&request), Code::Done);
            }
            "getip" => {
                let target = conn(cid);
                r = self
                    .link
                    .ask(&Request::GetIp { target }, |answer| match answer.value {
                        Value::Ip(Some(ip)) => json!(ip.to_string()),
                        value => panic!("{value:?} is no address"),
                    });
            }
            // A fault of due: it reads the number 16 bits too early.
            "stat" => r = json!(self.link.total(&Request::Stat { scope }) >> 16),
            "online_user" => {
                let is_located = self.located(number("uid"));
                err = if is_located { err } else { lost };
                r = json!(is_located && self.link.is_online(user(number("uid"))));
            }
            "online_conn" => r = json!(self.link.is_online(conn(cid))),
            "busy" | "work" => {}
            op => panic!("{op} is not known"),
        }
        json!({"err": err, "op": op, "r": r})
    }

    fn push(&mut self, acked: bool, cid: i64, packet: &[u8]) {
        let (target, disconnect) = (conn(cid), false);
        let push = Request::Push {
            target,
            disconnect,
            packet,
        };
        match acked {
            true => assert_eq!(self.link.call(&push), Code::Done),
            false => self.link.send(0, &push),
        }
    }

    /// Without an answer, due returns 0.
    fn count(&mut self, acked: bool, request: &Request<'_>) -> Json {
        if acked {
            return json!(self.link.total(request));
        }
        self.link.send(0, request);
        json!(0)
    }

    fn located(&mut self, uid: i64) -> bool {
        let key = format!("due:locate:locate:user:{uid}:gate");
        self.redis.exists(key).expect("answers")
    }
}
