//! A gate of due, as a stand-in over real sockets: clients, links in both directions, the records of etcd, the keys of Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::Kind;
use epicycle::cluster::drpc::{Answer, Code, Frame, Request, Scope, Target, Value};
use epicycle::cluster::packet::{PacketFrame, PacketOptions};
use parking_lot::Mutex;
use redis::{Commands, Connection};
use serde_json::{Value as Json, json};

use crate::rig::{Wire, frame_of};
use crate::{etcd_server, redis_server};

pub(crate) struct DueGate {
    pub(crate) links: SocketAddr,
    clients: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    id: &'static str,
    redis: Mutex<Connection>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_cid: i64,
    clients: BTreeMap<i64, Client>,
    channels: BTreeMap<String, BTreeSet<i64>>,
    nodes: Vec<Node>,
    turn: usize,
    /// That of the gate, as a number.
    number: u8,
    sockets: Vec<TcpStream>,
    is_over: bool,
}

struct Client {
    stream: TcpStream,
    uid: i64,
}

/// A node that it has dialled.
struct Node {
    record: Json,
    link: TcpStream,
}

impl DueGate {
    pub(crate) fn start(id: &'static str, redis: &redis_server::Server) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("binds");
        let (links, clients) = (bind(), bind());
        let of = |listener: &TcpListener| listener.local_addr().expect("is bound");
        let number = 1;
        let shared = Arc::new(Shared {
            id,
            redis: Mutex::new(redis.stranger()),
            state: Mutex::new(State {
                number,
                ..State::default()
            }),
        });
        let gate = Self {
            links: of(&links),
            clients: of(&clients),
            shared,
        };
        let (own, other) = (gate.shared.clone(), gate.shared.clone());
        thread::spawn(move || own.accept(&links, Shared::serve_link));
        thread::spawn(move || other.accept(&clients, Shared::serve_client));
        gate
    }

    /// Its record, as due writes it.
    pub(crate) fn record(&self) -> Json {
        let (id, links) = (self.shared.id, self.links);
        json!({
            "id": id, "name": "gate", "kind": "gate", "alias": "gate", "state": "work",
            "endpoint": format!("drpc://{links}?is_secure=false"),
        })
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::over(TcpStream::connect(self.clients).expect("connects"))
    }

    /// The address for clients.
    pub(crate) fn addr(&self) -> String {
        format!("tcp://{}", self.clients)
    }

    /// The number of the next client is the one after this.
    pub(crate) fn number_from(&self, cid: i64) {
        self.shared.state.lock().last_cid = cid;
    }

    /// Reads the records of the nodes, and dials the new ones. due does so whenever etcd tells of a change.
    pub(crate) fn follow(&self, etcd: &etcd_server::Server) {
        let prefix = "/services/node/";
        let found = etcd.ctl(&["get", "--prefix", "--print-value-only", prefix]);
        let records = found.lines().filter(|line| !line.is_empty());
        let mut state = self.shared.state.lock();
        let mut old = std::mem::take(&mut state.nodes);
        for record in records {
            let record: Json = serde_json::from_str(record).expect("is JSON");
            let known = old
                .iter()
                .position(|node| node.record["id"] == record["id"]);
            let node = match known {
                Some(known) => Node {
                    record,
                    ..old.swap_remove(known)
                },
                None => Node::dial(self.shared.id, record),
            };
            state.nodes.push(node);
        }
        for node in old {
            let _ = node.link.shutdown(Shutdown::Both);
        }
    }

    /// Ends as a process does that is killed: what is in Redis and etcd stays.
    pub(crate) fn kill(&self) {
        let mut state = self.shared.state.lock();
        state.is_over = true;
        for socket in state.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for node in state.nodes.drain(..) {
            let _ = node.link.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the threads that accept.
        for addr in [self.links, self.clients] {
            drop(TcpStream::connect(addr));
        }
    }
}

impl Drop for DueGate {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn dial(gate: &str, record: Json) -> Self {
        let endpoint = record["endpoint"].as_str().expect("has one");
        let addr = endpoint.strip_prefix("drpc://").expect("is of drpc");
        let addr = addr.split('?').next().expect("has an address");
        let mut wire = Wire::over(TcpStream::connect(addr).expect("is there"));
        let (kind, id) = (Kind::Gate.code(), gate);
        wire.send(encoded(1, &Request::Handshake { kind, id }));
        let mut answer = wire.next().expect("is open");
        let frame = frame_of(&mut answer).expect("is no heartbeat");
        let answer = Answer::decode(&frame).expect("is an answer");
        assert_eq!((frame.seq, answer.code), (1, Code::Done));
        let link = wire.0;
        Self { record, link }
    }

    fn tell(&mut self, request: &Request<'_>) {
        let _ = self.link.write_all(&encoded(0, request));
    }

    fn has_event(&self, event: u8) -> bool {
        let events = self.record["events"].as_array();
        events.is_some_and(|events| events.contains(&json!(event)))
    }

    fn route(&self, id: i32) -> Option<&Json> {
        let routes = self.record["routes"].as_array()?;
        routes.iter().find(|route| route["i"] == id)
    }
}

fn encoded(seq: u64, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode_into(seq, &mut bytes).expect("is sound");
    bytes
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener, serve: fn(&Self, Wire)) {
        while let Ok((stream, _)) = listener.accept() {
            let mut state = self.state.lock();
            if state.is_over {
                return;
            }
            state.sockets.push(stream.try_clone().expect("is cloned"));
            drop(state);
            let (own, wire) = (self.clone(), Wire::over(stream));
            let long = Some(Duration::from_secs(3600));
            wire.0.set_read_timeout(long).expect("is set");
            thread::spawn(move || serve(&own, wire));
        }
    }

    fn serve_client(&self, mut wire: Wire) {
        let stream = wire.0.try_clone().expect("is cloned");
        let mut state = self.state.lock();
        state.last_cid += 1;
        let cid = state.last_cid;
        state.clients.insert(cid, Client { stream, uid: 0 });
        state.trigger(1, cid, 0);
        drop(state);
        while let Some(message) = wire.next() {
            let read = PacketOptions::default().decode_message(&message);
            match read.expect("clients of the tests send packets") {
                PacketFrame::Heartbeat(_) => wire.send(b"\0\0\0\x01\x80"),
                PacketFrame::Packet { packet, .. } => self.dispatch(cid, packet.route, &message),
                other => panic!("{other:?}"),
            }
        }
        let mut state = self.state.lock();
        if let Some(client) = state.clients.remove(&cid)
            && !state.is_over
        {
            state.trigger(3, cid, client.uid);
            drop(state);
            if client.uid != 0 {
                self.forget(client.uid);
            }
        }
    }

    /// Has a node take a packet, or drops it without a word, as due does.
    fn dispatch(&self, cid: i64, route: i32, packet: &[u8]) {
        let mut state = self.state.lock();
        let uid = state.clients.get(&cid).map_or(0, |client| client.uid);
        let is_working =
            |node: &Node| ["work", "busy"].contains(&node.record["state"].as_str().unwrap_or(""));
        let mut stateful = None;
        let mut fit = Vec::new();
        for (at, node) in state.nodes.iter().enumerate() {
            let Some(flags) = node.route(route) else {
                continue;
            };
            if flags["n"] == true || (uid == 0 && (flags["a"] == true || flags["s"] == true)) {
                return;
            }
            if flags["s"] == true {
                stateful = Some(node.record["alias"].as_str().expect("has one").to_owned());
            }
            if flags["s"] == true || is_working(node) {
                fit.push(at);
            }
        }
        if let Some(alias) = stateful {
            let key = format!("due:locate:locate:user:{uid}:node");
            let owner: Option<String> = self.redis.lock().hget(key, alias).expect("answers");
            fit.retain(|at| {
                let id = state.nodes[*at].record["id"].as_str();
                id.is_some() && id == owner.as_deref()
            });
        }
        if fit.is_empty() {
            return;
        }
        state.turn += 1;
        let at = fit[state.turn % fit.len()];
        state.nodes[at].tell(&Request::Deliver { cid, uid, packet });
    }

    fn serve_link(&self, mut wire: Wire) {
        while let Some(mut bytes) = wire.next() {
            let Some(frame) = frame_of(&mut bytes) else {
                continue;
            };
            // It does not know the extensions.
            if frame.op >= 32 {
                continue;
            }
            let (seq, is_publish) = (frame.seq, matches!(frame.op, 11));
            let answer = self.answer(&frame);
            if seq == 0 {
                continue;
            }
            let mut bytes = Vec::new();
            answer.encode_into(seq, &mut bytes).expect("is sound");
            // A fault of due: it leaves the total out of these answers, but not out of their size.
            if is_publish && answer.value == Value::Total(0) && answer.code == Code::Done {
                bytes.truncate(16);
            }
            wire.send(bytes);
        }
    }

    fn answer(&self, frame: &Frame<'_>) -> Answer<'static> {
        let mut answer = Answer::new(frame.op, Code::Done);
        let Ok(request) = Request::decode(frame) else {
            answer.code = Code::Failed;
            return answer;
        };
        let mut state = self.state.lock();
        let found = |is_found: bool| if is_found { Code::Done } else { Code::NotFound };
        match request {
            Request::Handshake { .. } => {}
            Request::Bind { cid, uid } if cid <= 0 || uid <= 0 => answer.code = Code::Failed,
            Request::Bind { cid, uid } => {
                answer.code = found(state.clients.contains_key(&cid));
                if answer.code == Code::Done {
                    // The connection that had the user stays, without it.
                    for (other, client) in &mut state.clients {
                        if client.uid == uid || *other == cid {
                            client.uid = if *other == cid { uid } else { 0 };
                        }
                    }
                    self.remember(uid);
                    state.trigger(2, cid, uid);
                }
            }
            Request::Unbind { uid } if uid <= 0 => answer.code = Code::Failed,
            Request::Unbind { uid } => {
                let mut clients = state.clients.values_mut();
                let client = clients.find(|client| client.uid == uid);
                answer.code = found(client.is_some());
                if let Some(client) = client {
                    client.uid = 0;
                    self.forget(uid);
                }
            }
            Request::GetIp { target } => match state.find(target) {
                Some(_) => answer.value = Value::Ip(Some(Ipv4Addr::LOCALHOST)),
                None => answer.code = Code::NotFound,
            },
            Request::Stat { scope } => answer.value = Value::Total(state.all(scope).len() as u64),
            Request::IsOnline { target } => {
                answer.value = Value::Online(state.find(target).is_some());
            }
            Request::Disconnect { target, .. } => {
                let cid = state.find(target);
                answer.code = found(cid.is_some());
                if let Some(client) = cid.and_then(|cid| state.clients.get(&cid)) {
                    let _ = client.stream.shutdown(Shutdown::Both);
                }
            }
            Request::Push { target, packet, .. } => {
                let cid = state.find(target);
                answer.code = found(cid.is_some());
                state.push(cid, packet);
            }
            Request::Multicast {
                scope,
                targets,
                packet,
                ..
            } => {
                let targets = targets
                    .iter()
                    .filter_map(|id| state.find(Target { scope, id }));
                let targets: Vec<_> = targets.collect();
                answer.value = Value::Total(state.push(targets, packet));
            }
            Request::Broadcast { scope, packet, .. } => {
                let targets = state.all(scope);
                answer.value = Value::Total(state.push(targets, packet));
            }
            Request::Publish {
                channel, packet, ..
            } => {
                let members = state.channels.get(channel).cloned();
                answer.value = Value::Total(state.push(members.unwrap_or_default(), packet));
            }
            Request::Subscribe {
                scope,
                targets,
                channel,
            } => {
                let cids = targets
                    .iter()
                    .filter_map(|id| state.find(Target { scope, id }));
                let cids: Vec<_> = cids.collect();
                let members = state.channels.entry(channel.to_owned()).or_default();
                members.extend(cids);
            }
            Request::Unsubscribe {
                scope,
                targets,
                channel,
            } => {
                for id in targets.iter() {
                    let cid = state.find(Target { scope, id });
                    if let (Some(cid), Some(members)) = (cid, state.channels.get_mut(channel)) {
                        members.remove(&cid);
                    }
                }
            }
            Request::GetState => answer.value = Value::State(state.number),
            Request::SetState { state: number } => state.number = number,
            request => panic!("{request:?} is not for a gate"),
        }
        answer
    }

    fn remember(&self, uid: i64) {
        let key = format!("due:locate:locate:user:{uid}:gate");
        let () = self.redis.lock().set(key, self.id).expect("is written");
        self.publish(uid, 1);
    }

    fn forget(&self, uid: i64) {
        let key = format!("due:locate:locate:user:{uid}:gate");
        let mut redis = self.redis.lock();
        let bound: Option<String> = redis.get(&key).expect("answers");
        if bound.as_deref() == Some(self.id) {
            let () = redis.del(key).expect("is deleted");
            drop(redis);
            self.publish(uid, 3);
        }
    }

    fn publish(&self, uid: i64, kind: u8) {
        let event =
            json!({"uid": uid, "type": kind, "insID": self.id, "insKind": "gate", "insName": ""});
        let channel = "due:locate:locate:cluster:gate:event";
        let mut redis = self.redis.lock();
        let () = redis
            .publish(channel, event.to_string())
            .expect("is published");
    }
}

impl State {
    fn find(&self, Target { scope, id }: Target) -> Option<i64> {
        let mut clients = self.clients.iter();
        let found = clients.find(|(cid, client)| match scope {
            Scope::Conn => **cid == id,
            _ => id != 0 && client.uid == id,
        });
        found.map(|(cid, _)| *cid)
    }

    fn all(&self, scope: Scope) -> Vec<i64> {
        let clients = self.clients.iter();
        let fit = clients.filter(|(_, client)| scope == Scope::Conn || client.uid != 0);
        fit.map(|(cid, _)| *cid).collect()
    }

    /// Returns the number of clients that got it.
    fn push(&mut self, cids: impl IntoIterator<Item = i64>, packet: &[u8]) -> u64 {
        let mut total = 0;
        for cid in cids {
            if let Some(client) = self.clients.get_mut(&cid) {
                let _ = client.stream.write_all(packet);
                total += 1;
            }
        }
        total
    }

    fn trigger(&mut self, event: u8, cid: i64, uid: i64) {
        for node in self.nodes.iter_mut().filter(|node| node.has_event(event)) {
            node.tell(&Request::Trigger { event, cid, uid });
        }
    }
}
