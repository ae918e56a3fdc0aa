//! The hand-over of listening sockets from one process to the next, so that no connection is refused in between.
//!
//! The new process receives the sockets of the old one, with the connections that wait in their backlogs. There are two ways:
//! it inherits them from a parent that opened them, such as systemd ([`inherited`]), or the old process sends them over a Unix
//! socket ([`send`], [`receive`]). When the new process listens, the old one
//! [stops accepting](crate::Engine::stop_accepting) and ends with its last connection. [`Control`] is such a Unix socket. It
//! only answers processes of the same user, and has a timeout for each step.
//!
//! The sockets arrive in the order of the old server's listeners. UDP sockets are not handed over. The new process sets all
//! other options of a listener again, for example TLS by `Listen::socket(socket).tls(&tls)`. A server that received a Unix
//! socket leaves its path behind. The next server that binds the path finds that no process answers, and removes it.
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use epicycle::{Listen, Server, handover, service};
//!
//! let echo = |_| service(|conn, bytes| conn.write(bytes).into());
//! let (old_end, new_end) = UnixStream::pair().unwrap();
//!
//! // In the old process:
//! let old = Server::bind("tcp://127.0.0.1:0").start(echo)?;
//! handover::send(&old_end, &old.engine().listeners().unwrap()).unwrap();
//!
//! // In the new one:
//! let mut sockets = handover::receive(&new_end).unwrap();
//! let new = Server::bind(Listen::socket(sockets.remove(0))).start(echo)?;
//! assert_eq!(new.local_addrs(), old.local_addrs());
//!
//! // In the old one, when the new one runs:
//! old.engine().stop_accepting();
//! # Ok::<(), epicycle::Error>(())
//! ```

mod control;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::error::Error;
use crate::sys;
use crate::sys::handover::Deadline;

pub use self::control::{Control, Predecessor, Successor, Successors};

/// A socket that this process inherited at its start.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inherited {
    /// The name that systemd's `FileDescriptorName=` gives. It may be empty.
    pub name: String,
    /// The socket, for [`Listen::socket`](crate::Listen::socket).
    pub socket: OwnedFd,
}

/// Returns the sockets that this process inherited by systemd's protocol (`sd_listen_fds(3)`): `LISTEN_FDS` descriptors from
/// 3 on. Returns none if `LISTEN_PID` names another process, and in a second call.
///
/// # Errors
///
/// [`Error::Setup`] if one of the announced descriptors is not open. None is taken then.
pub fn inherited() -> Result<Vec<Inherited>, Error> {
    let sockets = sys::handover::inherited().map_err(|source| Error::Setup {
        what: "listeners of the descriptors in LISTEN_FDS",
        source,
    })?;
    let inherited = |(socket, name)| Inherited { name, socket };
    Ok(sockets.into_iter().map(inherited).collect())
}

/// Sends copies of sockets to another process over a blocking socket. Waits until the other process receives them, or for the
/// write timeout of `to`. The process at the other end can accept connections with them.
///
/// # Errors
///
/// The errors of `sendmsg(2)`.
pub fn send(to: &UnixStream, sockets: &[impl AsFd]) -> io::Result<()> {
    sys::handover::send(to.as_fd(), &sys::handover::borrow(sockets), Deadline::NEVER)
}

/// Receives the sockets that [`send`] sends, in the same order, over a blocking socket. Waits until all have arrived.
///
/// # Errors
///
/// The errors of `recvmsg(2)`, `UnexpectedEof` if the other side ended first, and an error with the cause if this process may
/// not have that many descriptors.
pub fn receive(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    sys::handover::receive(from.as_fd(), Deadline::NEVER)
}
