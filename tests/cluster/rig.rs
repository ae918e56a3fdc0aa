//! Clients of a gate, and other servers as scripted stand-ins, over real sockets.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use epicycle::Addr;
use epicycle::cluster::Kind;
use epicycle::cluster::drpc::{
    Answer, Code, Frame, FrameCodec, Hello, Incoming, NONCE, Op, RejectReason, Request, Scope,
    Target, VERSION, Value,
};
use epicycle::cluster::packet::{Packet, PacketFrame, PacketOptions};
use epicycle::cluster::registry::{Instance, RouteSpec};
use epicycle::codec::{Codec, Decoded};
use parking_lot::Mutex;

use crate::util::{LONG, await_some, eventually};

/// A connection that speaks in messages that begin with their size: packets or frames.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    pub(crate) fn connect(addr: &Addr) -> Self {
        let addr = addr.as_socket_addr().expect("is an IP address");
        Self::over(TcpStream::connect(addr).expect("connects"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("can be set");
        stream.set_read_timeout(Some(LONG)).expect("can be set");
        stream.set_write_timeout(Some(LONG)).expect("can be set");
        Self(stream)
    }

    fn clone(&self) -> Self {
        Self(self.0.try_clone().expect("clones"))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("sends");
    }

    /// Returns the next message, or `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut message = vec![0; 4];
        match self.0.read_exact(&mut message) {
            Ok(()) => {}
            Err(error) if is_timeout(&error) => panic!("nothing came: {error}"),
            Err(_) => return None,
        }
        let size = u32::from_be_bytes(message[..].try_into().expect("has 4 bytes"));
        message.resize(4 + size as usize, 0);
        self.0.read_exact(&mut message[4..]).ok()?;
        Some(message)
    }

    pub(crate) fn expect(&mut self, message: impl AsRef<[u8]>) {
        let next = self.next().expect("is open");
        assert_eq!(
            next.escape_ascii().to_string(),
            message.as_ref().escape_ascii().to_string()
        );
    }

    /// Returns true if the peer has closed, once everything that it has sent was skipped.
    pub(crate) fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) => !is_timeout(&error),
            Ok(_) => true,
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A server that has dialled a gate.
pub(crate) struct Link {
    pub(crate) wire: Wire,
    seq: u64,
}

impl Link {
    /// Dials, and introduces itself as a node of due.
    pub(crate) fn dial(gate: &Addr, id: &str) -> Self {
        let mut link = Self {
            wire: Wire::connect(gate),
            seq: 0,
        };
        let kind = Kind::Node.code();
        assert_eq!(link.call(&Request::Handshake { kind, id }), Code::Done);
        link
    }

    /// Dials, and introduces itself as a node that knows the extensions.
    pub(crate) fn dial_extended(gate: &Addr, id: &str) -> Self {
        let mut link = Self::dial(gate, id);
        let hello = Hello {
            version: VERSION,
            features: 0,
            nonce: [1; NONCE],
        };
        assert_eq!(link.call(&Request::Hello(hello)), Code::Done);
        link
    }

    pub(crate) fn send(&mut self, seq: u64, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode_into(seq, &mut frame).expect("is sound");
        self.wire.send(frame);
    }

    /// Sends a request, and returns the code of the answer.
    pub(crate) fn call(&mut self, request: &Request<'_>) -> Code {
        self.ask(request, |answer| answer.code)
    }

    pub(crate) fn total(&mut self, request: &Request<'_>) -> u64 {
        self.ask(request, |answer| match answer.value {
            Value::Total(total) => total,
            value => panic!("{value:?} is no total"),
        })
    }

    pub(crate) fn ask<R>(&mut self, request: &Request<'_>, read: impl Fn(&Answer<'_>) -> R) -> R {
        self.seq += 1;
        self.send(self.seq, request);
        let mut answer = self.wire.next().expect("the link is open");
        let frame = frame_of(&mut answer).expect("is no heartbeat");
        assert_eq!((frame.seq, frame.op), (self.seq, request.op().code()));
        read(&Answer::decode(&frame).expect("is an answer"))
    }

    pub(crate) fn bind(&mut self, cid: i64, uid: i64) -> Code {
        self.call(&Request::Bind { cid, uid })
    }

    pub(crate) fn is_online(&mut self, target: Target) -> bool {
        self.ask(&Request::IsOnline { target }, |answer| {
            answer.value == Value::Online(true)
        })
    }
}

pub(crate) fn user(id: i64) -> Target {
    let scope = Scope::User;
    Target { scope, id }
}

pub(crate) fn conn(id: i64) -> Target {
    let scope = Scope::Conn;
    Target { scope, id }
}

/// Encodes a packet of the default format.
pub(crate) fn packet(route: i32, seq: i32, data: &str) -> Vec<u8> {
    let data = data.as_bytes();
    let packet = Packet { route, seq, data };
    let encoded = PacketOptions::default().encode(&packet);
    encoded.expect("is short").as_bytes().to_vec()
}

pub(crate) fn frame_of(bytes: &mut [u8]) -> Option<Frame<'_>> {
    match FrameCodec::default().decode(bytes).expect("is a frame") {
        Decoded::Frame {
            frame: Incoming::Frame(frame),
            ..
        } => Some(frame),
        Decoded::Frame { .. } => None,
        other => panic!("{other:?}"),
    }
}

/// A message of a gate to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Event {
        event: u8,
        cid: i64,
        uid: i64,
    },
    Packet {
        cid: i64,
        uid: i64,
        route: i32,
        seq: i32,
        data: String,
    },
}

/// A node that keeps what it is told. It speaks as due does, which knows no extensions, unless it is told to know them.
pub(crate) struct Node {
    pub(crate) instance: Instance,
    pub(crate) manner: Arc<Manner>,
    told: Arc<Mutex<Vec<Told>>>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    heartbeats: Arc<AtomicUsize>,
    links: Arc<Mutex<Vec<TcpStream>>>,
    has_ended: Arc<AtomicBool>,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node with these routes, which wants all events. It is not registered.
    pub(crate) fn start(id: &str, routes: Vec<RouteSpec>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        Self::serve(id, routes, listener)
    }

    /// Starts a node that knows the extensions.
    pub(crate) fn start_extended(id: &str, routes: Vec<RouteSpec>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let manner = Manner {
            extensions: true,
            ..Manner::default()
        };
        Self::behave(id, routes, listener, manner)
    }

    pub(crate) fn serve(id: &str, routes: Vec<RouteSpec>, listener: TcpListener) -> Self {
        Self::behave(id, routes, listener, Manner::default())
    }

    fn behave(id: &str, routes: Vec<RouteSpec>, listener: TcpListener, manner: Manner) -> Self {
        let manner = Arc::new(manner);
        let addr = listener.local_addr().expect("is bound");
        let mut instance = Instance::new(Kind::Node, id, format!("drpc://{addr}?is_secure=false"));
        instance.routes = routes;
        instance.events = vec![1, 2, 3];
        let (told, frames, links) = (Arc::default(), Arc::default(), Arc::default());
        let (has_ended, heartbeats) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let thread = {
            let record = Record {
                told: Arc::clone(&told),
                frames: Arc::clone(&frames),
                heartbeats: Arc::clone(&heartbeats),
                manner: manner.clone(),
            };
            let (links, has_ended) = (Arc::clone(&links), has_ended.clone());
            thread::spawn(move || accept(&listener, &record, &links, &has_ended))
        };
        Self {
            instance,
            manner,
            told,
            frames,
            heartbeats,
            links,
            has_ended,
            addr,
            thread: Some(thread),
        }
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// Returns the frames of what it has been told, as they came.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().clone()
    }

    /// Returns the number of heartbeats that came.
    pub(crate) fn heartbeats(&self) -> usize {
        self.heartbeats.load(Ordering::Acquire)
    }

    /// Returns the data of the packets of a connection, in order.
    pub(crate) fn packets(&self, of: i64) -> Vec<String> {
        let told = self.told();
        let packets = told.into_iter().filter_map(|told| match told {
            Told::Packet { cid, data, .. } if cid == of => Some(data),
            _ => None,
        });
        packets.collect()
    }

    /// Waits for the number of things that it has been told.
    pub(crate) fn await_told(&self, count: usize) -> Vec<Told> {
        let mut told = Vec::new();
        eventually(&format!("{count} things are told"), || {
            told = self.told();
            told.len() >= count
        });
        told
    }

    /// Waits for the packet that has this data, and returns its connection and user.
    pub(crate) fn await_packet(&self, wanted: &str) -> (i64, i64) {
        await_some(&format!("the packet {wanted}"), || {
            self.told().iter().find_map(|told| match told {
                Told::Packet { cid, uid, data, .. } if data == wanted => Some((*cid, *uid)),
                _ => None,
            })
        })
    }

    /// Waits for a link.
    pub(crate) fn await_link(&self) {
        eventually("the gate dials", || !self.links.lock().is_empty());
    }

    /// Sends a notice on all links.
    pub(crate) fn notify(&self, notice: &Request<'_>) {
        let mut frame = Vec::new();
        notice.encode_into(0, &mut frame).expect("is sound");
        for mut link in self.links.lock().iter() {
            link.write_all(&frame).expect("sends");
        }
    }

    /// Ends the links that there are.
    pub(crate) fn cut(&self) {
        for link in self.links.lock().drain(..) {
            let _ = link.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Release);
        // Wakes the thread.
        drop(TcpStream::connect(self.addr));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.cut();
    }
}

fn accept(
    listener: &TcpListener,
    record: &Record,
    links: &Mutex<Vec<TcpStream>>,
    has_ended: &AtomicBool,
) {
    while let Ok((stream, _)) = listener.accept() {
        if has_ended.load(Ordering::Acquire) {
            return;
        }
        let mut wire = Wire::over(stream);
        links.lock().push(wire.clone().0);
        let record = record.clone();
        thread::spawn(move || {
            let quiet = Duration::from_secs(3600);
            wire.0.set_read_timeout(Some(quiet)).expect("can be set");
            while let Some(mut bytes) = wire.next() {
                let whole = bytes.clone();
                match frame_of(&mut bytes) {
                    Some(frame) => take(&mut wire, &frame, &whole, &record),
                    None => drop(record.heartbeats.fetch_add(1, Ordering::AcqRel)),
                }
            }
            // Another copy of the socket is kept for `cut`.
            let _ = wire.0.shutdown(Shutdown::Both);
        });
    }
}

/// The conduct of a node.
#[derive(Default)]
pub(crate) struct Manner {
    extensions: bool,
    /// The reason why it rejects packets of this route.
    pub(crate) rejects: Mutex<Option<(i32, RejectReason)>>,
    /// True while it reads nothing.
    pub(crate) sleeps: AtomicBool,
}

/// The state of a node.
#[derive(Clone)]
struct Record {
    manner: Arc<Manner>,
    told: Arc<Mutex<Vec<Told>>>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    heartbeats: Arc<AtomicUsize>,
}

/// Does what a node of due does with a frame, or one that knows the extensions.
fn take(wire: &mut Wire, frame: &Frame<'_>, whole: &[u8], record: &Record) {
    let manner = &*record.manner;
    if frame.op >= 32 && !manner.extensions {
        return;
    }
    while manner.sleeps.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut answer = Answer::new(frame.op, Code::Done);
    let tell = |told| {
        record.frames.lock().push(whole.to_vec());
        record.told.lock().push(told);
    };
    match Request::decode(frame).expect("a gate sends sound requests") {
        Request::Trigger { event, cid, uid } => tell(Told::Event { event, cid, uid }),
        Request::Deliver { cid, uid, packet } => {
            let read = PacketOptions::default().decode_message(packet);
            let Ok(PacketFrame::Packet { packet, .. }) = read else {
                panic!("a gate delivers whole packets: {read:?}");
            };
            let rejected = manner.rejects.lock();
            if let Some((route, reason)) = *rejected
                && route == packet.route
            {
                let reject = Request::Reject {
                    cid,
                    route,
                    seq: packet.seq,
                    reason,
                };
                let mut bytes = Vec::new();
                reject.encode_into(0, &mut bytes).expect("is sound");
                return wire.send(bytes);
            }
            tell(Told::Packet {
                cid,
                uid,
                route: packet.route,
                seq: packet.seq,
                data: String::from_utf8_lossy(packet.data).into_owned(),
            });
        }
        Request::GetState => answer.value = Value::State(1),
        Request::Hello(hello) => answer.value = Value::Hello(hello, None),
        Request::Ping | Request::Collected { .. } => {}
        request => assert_eq!(request.op(), Op::Handshake),
    }
    if frame.seq != 0 {
        let mut bytes = Vec::new();
        answer.encode_into(frame.seq, &mut bytes).expect("is sound");
        wire.send(bytes);
    }
}
