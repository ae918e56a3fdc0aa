//! Peers for tests, with one reactor each.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use std::io::Read;
use std::net::TcpStream;

use epicycle::rpc::{Peer, PeerBuilder, ProtocolChoice, Router, Session, Status};

use crate::util::LONG;

pub(crate) fn start(builder: PeerBuilder) -> Peer {
    builder.reactors(1).start().expect("starts")
}

/// The options of a peer that listens.
pub(crate) fn listening() -> PeerBuilder {
    Peer::builder().listen("tcp4://127.0.0.1:0")
}

pub(crate) fn try_dial(client: &Peer, server: &Peer) -> Result<Session, Status> {
    client.dial(&server.local_addrs()[0])
}

pub(crate) fn dial(client: &Peer, server: &Peer) -> Session {
    try_dial(client, server).expect("connects")
}

/// Polls a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    let deadline = Instant::now() + LONG;
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(Instant::now() < deadline, "in vain");
        thread::park_timeout(LONG);
    }
}

/// The options of a peer with one reactor that listens with this protocol.
#[cfg_attr(
    not(feature = "http"),
    allow(dead_code, reason = "without HTTP there is no test for it")
)]
pub(crate) fn serving(protocol: impl Into<ProtocolChoice>, routes: Router) -> PeerBuilder {
    Peer::builder()
        .listen_with("tcp4://127.0.0.1:0", protocol)
        .routes(routes)
        .reactors(1)
}

/// Reads a message of the raw protocol.
pub(crate) fn read_message(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    socket.read_exact(&mut bytes).expect("a size");
    let size = u32::from_be_bytes(bytes[..].try_into().expect("4 bytes")) as usize;
    bytes.resize(size, 0);
    socket.read_exact(&mut bytes[4..]).expect("a message");
    bytes
}
