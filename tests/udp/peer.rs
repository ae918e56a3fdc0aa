//! A simple blocking UDP client with timeouts.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use epicycle::{Addr, EventHandler, Running};
use socket2::SockRef;

use crate::util::LONG;

/// A client of one server address.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) UdpSocket);

impl Peer {
    /// Creates a client of the first address of a server.
    pub(crate) fn of<H: EventHandler>(server: &Running<H>) -> Self {
        Self::to(&server.local_addrs()[0])
    }

    pub(crate) fn to(addr: &Addr) -> Self {
        let addr = addr.as_socket_addr().expect("a UDP address");
        let any = if addr.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(any).expect("binds");
        let mut target = addr;
        if addr.ip().is_unspecified() {
            target.set_ip(socket.local_addr().expect("is bound").ip());
        }
        socket.connect(target).expect("connects");
        socket.set_read_timeout(Some(LONG)).expect("is an option");
        // The receive buffer, for datagrams that arrive while nobody reads.
        SockRef::from(&socket)
            .set_recv_buffer_size(4 << 20)
            .expect("is an option");
        Self(socket)
    }

    /// Creates a client that receives from any address.
    pub(crate) fn to_nobody() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.set_read_timeout(Some(LONG)).expect("is an option");
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("is bound")
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes.as_ref()).expect("sends");
    }

    pub(crate) fn recv(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let n = self.0.recv(&mut bytes).expect("receives");
        bytes.truncate(n);
        bytes
    }

    /// What comes within a moment, if anything.
    pub(crate) fn recv_soon(&self) -> Option<Vec<u8>> {
        let moment = Some(Duration::from_millis(50));
        self.0.set_read_timeout(moment).expect("is an option");
        let mut bytes = vec![0; 70_000];
        let received = self.0.recv(&mut bytes);
        self.0.set_read_timeout(Some(LONG)).expect("is an option");
        match received {
            Ok(n) => Some(bytes[..n].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends `bytes` and asserts that they come back.
    pub(crate) fn round_trip(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send(bytes);
        assert!(self.recv() == bytes, "the echo differs");
    }
}
