//! Ports of this host that serve nobody.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A port that nobody listens on, and that nobody else gets.
pub(crate) struct DeadPort {
    pub(crate) addr: SocketAddr,
    socket: Socket,
}

impl DeadPort {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("binds");
        let addr = socket.local_addr().expect("has an address");
        Self {
            addr: addr.as_socket().expect("an IP address"),
            socket,
        }
    }

    /// Begins to listen.
    pub(crate) fn revive(self) -> TcpListener {
        self.socket.listen(16).expect("listens");
        self.socket.into()
    }
}

/// A listener whose queue is full: connecting to it gets no answer.
pub(crate) struct MutePort {
    pub(crate) addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl MutePort {
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).expect("binds");
        listener.listen(1).expect("listens");
        let addr = listener.local_addr().expect("has an address");
        let addr = addr.as_socket().expect("an IP address");
        let next = || TcpStream::connect_timeout(&addr, Duration::from_millis(300)).ok();
        Self {
            _queued: std::iter::from_fn(next).collect(),
            addr,
            _listener: listener,
        }
    }
}
