//! The options of sockets that listen, connect and are connected.

use std::io;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

use super::socket;

/// The socket options of listeners and of the connections they accept.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) linger: Option<Duration>,
    pub(crate) device: Option<String>,
}

/// How TCP probes a silent peer (`tcp(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// How long a connection is silent before the first probe; whole seconds.
    pub(crate) idle: Duration,
    /// The time between probes; whole seconds.
    pub(crate) interval: Duration,
    /// How many probes go unanswered before the connection is given up.
    pub(crate) count: u32,
}

impl SocketOptions {
    /// Sets the options of a stream socket.
    pub(crate) fn apply(&self, socket: &Socket, is_tcp: bool) -> io::Result<()> {
        if is_tcp {
            socket.set_tcp_nodelay(self.nodelay)?;
            if let Some(keepalive) = &self.keepalive {
                socket.set_tcp_keepalive(&keepalive.to_socket2())?;
            }
        }
        if let Some(bytes) = self.recv_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if self.linger.is_some() {
            socket.set_linger(self.linger)?;
        }
        Ok(())
    }
}

impl Keepalive {
    fn to_socket2(self) -> TcpKeepalive {
        socket::keepalive(self.idle, self.interval, self.count)
    }
}
