//! Handing listening sockets from one process to the next, so that no connection is refused between them.
//!
//! The new process gets the very sockets of the old one, with the connections that wait in their queues.
//! They come in one of two ways: inherited from a parent that opened them, such as systemd
//! ([`inherited`]), or sent by the old process over a Unix socket ([`send`], [`receive`]). Once the new one
//! listens, the old one [stops accepting](crate::Engine::stop_accepting) and ends with its last connection.
//! [`Control`] is such a Unix socket: it answers processes of the same user only, and waits for none of them for ever.
//!
//! The sockets come in the order in which the old server was told of its listeners; UDP sockets are not among them. Whatever else a
//! listener had is said anew, TLS by `Listen::socket(socket).tls(&tls)`, say. The path of a Unix socket outlives a server that
//! was handed it: the next one that binds it finds that nobody answers there, and removes it.
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
//! // In the old one, once it is told that the new one runs:
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

/// A socket that this process was started with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inherited {
    /// Its name, as systemd's `FileDescriptorName=` gives it; may be empty.
    pub name: String,
    /// The socket, for [`Listen::socket`](crate::Listen::socket).
    pub socket: OwnedFd,
}

/// The sockets that this process was started with by systemd's protocol (`sd_listen_fds(3)`): `LISTEN_FDS`
/// of them, from descriptor 3 on. None when `LISTEN_PID` names another process, or in a second call.
///
/// # Errors
///
/// [`Error::Setup`] when one of those announced is not open; none is taken then.
pub fn inherited() -> Result<Vec<Inherited>, Error> {
    let sockets = sys::handover::inherited().map_err(|source| Error::Setup {
        what: "listeners of the descriptors in LISTEN_FDS",
        source,
    })?;
    let inherited = |(socket, name)| Inherited { name, socket };
    Ok(sockets.into_iter().map(inherited).collect())
}

/// Sends copies of sockets to another process, over a socket that blocks: until that one receives them, or for as long as the
/// socket's write timeout. Whoever is at the other end can accept connections with them.
///
/// # Errors
///
/// What `sendmsg(2)` answers.
pub fn send(to: &UnixStream, sockets: &[impl AsFd]) -> io::Result<()> {
    sys::handover::send(to.as_fd(), &sys::handover::borrow(sockets), Deadline::NEVER)
}

/// Receives what [`send`] sends, in the same order, over a socket that blocks: until they have come.
///
/// # Errors
///
/// What `recvmsg(2)` answers, `UnexpectedEof` when the other side ended first, and an error that says so when
/// this process may not have so many descriptors.
pub fn receive(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    sys::handover::receive(from.as_fd(), Deadline::NEVER)
}
