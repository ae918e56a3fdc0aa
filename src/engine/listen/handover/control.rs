//! The control socket: a Unix socket on which a new process requests the listeners of the old one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::engine::listen::PathOptions;
use crate::engine::listen::socket_path::{self, SocketPath};
use crate::error::Error;
use crate::sys::handover::{self as sys, Deadline};
use crate::sys::unix;

/// The path of a Unix socket at which a process hands its listeners over to the next one, and the users that may request them.
///
/// A new process first looks for an old one ([`predecessor`](Self::predecessor)) and receives its sockets. Once it serves
/// them, it binds the path for its own successor ([`listen`](Self::listen)).
///
/// Put the path into a directory to which no other user can write, such as `$XDG_RUNTIME_DIR`, or the directory that systemd
/// makes for `RuntimeDirectory=`. Both sides check that the other process runs as the same user (`SO_PEERCRED`,
/// `getpeereid(3)`).
///
/// ```
/// use std::thread;
/// use epicycle::handover::Control;
/// use epicycle::{Listen, Server, service};
///
/// # let path = std::env::temp_dir().join(format!("epicycle-control-{}", std::process::id()));
/// let echo = |_| service(|conn, bytes| conn.write(bytes).into());
/// let control = Control::at(&path);
///
/// // The old process:
/// let old = Server::bind("tcp://127.0.0.1:0").start(echo)?;
/// let successors = control.listen()?;
/// let engine = old.engine().clone();
/// let replaced = thread::spawn(move || {
///     while let Some(successor) = successors.accept()? {
///         let successor = successor.hand_over(&engine.listeners()?)?;
///         engine.stop_accepting();
///         // Removes the path. The new process goes on when `successor` is dropped.
///         successors.close();
///     }
///     Ok::<(), std::io::Error>(())
/// });
///
/// // The new one:
/// let mut predecessor = control.predecessor()?.expect("one runs");
/// let mut sockets = predecessor.receive()?;
/// let new = Server::bind(Listen::socket(sockets.remove(0))).start(echo)?;
/// predecessor.relieve()?;
/// let successors = control.listen()?;
/// # replaced.join().unwrap()?;
/// # assert_eq!(new.local_addrs(), old.local_addrs());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Control {
    path: PathBuf,
    users: Vec<u32>,
    deadline: Duration,
}

/// A listener for processes that take over. A close or a drop removes the path.
#[derive(Debug)]
#[must_use = "dropping it removes the control socket"]
pub struct Successors {
    /// Locked by the thread that waits.
    poll: Mutex<Poll>,
    waker: Waker,
    closed: AtomicBool,
    socket: Socket,
    path: SocketPath,
    control: Control,
}

/// A process that has requested the listeners. It waits until this value is dropped.
#[derive(Debug)]
#[must_use = "it waits for the listeners"]
pub struct Successor {
    socket: Socket,
    deadline: Duration,
}

/// The process that still has the listeners.
#[derive(Debug)]
#[must_use = "call `relieve` once this process listens"]
pub struct Predecessor {
    socket: Socket,
    deadline: Duration,
}

/// The request of the new process.
const REQUEST: &[u8] = b"epicycle handover 1\n";

/// The report of the new process that it serves the listeners.
const READY: &[u8] = b"ready\n";

/// The time within which a connection must send its request. A process that takes over sends it at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of processes that may wait to be accepted.
const BACKLOG: i32 = 16;

impl Control {
    /// Creates the description of a control socket at a path, for processes of this user.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            users: Vec::new(),
            deadline: Duration::from_secs(30),
        }
    }

    /// Trusts the processes of another user too. `user` is the user's number. The permissions of the path then allow every
    /// user to connect.
    pub fn allow_user(mut self, user: u32) -> Self {
        self.users.push(user);
        self
    }

    /// Sets the time that each step of the other process may take, for example its start with the received listeners. After
    /// that the hand-over fails, and nothing has changed. Default: 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Listens for processes that want to take over.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if the path cannot be bound, a process answers there, or there is a file of another type.
    pub fn listen(&self) -> Result<Successors, Error> {
        self.try_listen().map_err(|source| Error::Bind {
            addr: format!("unix://{}", self.path.display()),
            source,
        })
    }

    fn try_listen(&self) -> io::Result<Successors> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let poll = Poll::new()?;
        let fd = socket.as_raw_fd();
        SourceFd(&fd).register(poll.registry(), Token(0), Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), Token(1))?;
        let other_users = !self.users.is_empty();
        let options = PathOptions {
            mode: Some(if other_users { 0o666 } else { 0o600 }),
            owner: None,
            has_records: false,
        };
        let path = SocketPath::listen(&self.path, &options, &socket, BACKLOG)?;
        Ok(Successors {
            poll: Mutex::new(poll),
            waker,
            closed: AtomicBool::new(false),
            socket,
            path,
            control: self.clone(),
        })
    }

    /// Connects to the process that listens for successors. Returns `None` if there is none.
    ///
    /// # Errors
    ///
    /// The errors of `connect(2)`; `AlreadyExists` if there is a file that is no socket; `PermissionDenied` if the process
    /// runs as another user. Each error names the path.
    pub fn predecessor(&self) -> io::Result<Option<Predecessor>> {
        self.find_predecessor().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })
    }

    fn find_predecessor(&self) -> io::Result<Option<Predecessor>> {
        if !socket_path::is_socket(&self.path)? {
            return Ok(None);
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The connect blocks while the backlog of the other process is full.
        socket.set_write_timeout(Some(self.deadline))?;
        match socket.connect(&SockAddr::unix(&self.path)?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(sys::too_late()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        self.check(&socket)?;
        let deadline = self.deadline;
        Ok(Some(Predecessor { socket, deadline }))
    }

    /// Refuses a process of a user that is not trusted.
    fn check(&self, socket: &Socket) -> io::Result<()> {
        let user = unix::peer_credentials(socket.as_fd())?.user;
        if user == sys::own_user() || self.users.contains(&user) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the other process runs as user {user}; `Control::allow_user` would trust it"),
        ))
    }
}

impl Successors {
    /// Waits for a process that requests the listeners. Returns `None` after a [close](Self::close). Connections of other
    /// users, and connections without a request within two seconds, are closed with a warning in the log.
    ///
    /// # Errors
    ///
    /// The errors of `accept(2)`.
    pub fn accept(&self) -> io::Result<Option<Successor>> {
        let mut poll = self.poll.lock();
        let mut events = Events::with_capacity(2);
        while !self.closed.load(Ordering::Acquire) {
            let socket = match self.socket.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match poll.poll(&mut events, None) {
                        Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                            return Err(error);
                        }
                        _ => continue,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(false)?;
            let asked = self.control.check(&socket).and_then(|()| {
                let within = REQUEST_TIMEOUT.min(self.control.deadline);
                sys::expect(socket.as_fd(), REQUEST, Deadline::after(within))
            });
            match asked {
                Ok(()) => {
                    let deadline = self.control.deadline;
                    return Ok(Some(Successor { socket, deadline }));
                }
                Err(error) => log::warn!(
                    target: "epicycle::server",
                    "{}: a connection is closed, it does not take over: {error}", self.control.path.display()
                ),
            }
        }
        Ok(None)
    }

    /// Stops listening and removes the path. Call it when this process is replaced or ends.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.path.remove_before_close();
            if let Err(error) = self.waker.wake() {
                log::error!(target: "epicycle::server", "cannot wake who waits for successors: {error}");
            }
        }
    }
}

impl Drop for Successors {
    fn drop(&mut self) {
        self.close();
    }
}

impl Successor {
    /// Sends copies of the listeners to the process, and waits until it serves them.
    ///
    /// # Errors
    ///
    /// `TimedOut` after the [deadline](Control::deadline), `UnexpectedEof` if the other process ends before, and the errors of
    /// `sendmsg(2)` and `recv(2)`. Nothing has changed for this process then.
    pub fn hand_over(self, sockets: &[impl AsFd]) -> io::Result<Self> {
        let deadline = Deadline::after(self.deadline);
        sys::send(self.socket.as_fd(), &sys::borrow(sockets), deadline)?;
        sys::expect(self.socket.as_fd(), READY, deadline)?;
        Ok(self)
    }
}

impl Predecessor {
    /// Requests the listeners and receives them, for [`Listen::socket`](crate::Listen::socket).
    ///
    /// # Errors
    ///
    /// As for [`receive`](super::receive), and `TimedOut` after the [deadline](Control::deadline).
    pub fn receive(&mut self) -> io::Result<Vec<OwnedFd>> {
        let deadline = Deadline::after(self.deadline);
        sys::say(self.socket.as_fd(), REQUEST, deadline)?;
        sys::receive(self.socket.as_fd(), deadline)
    }

    /// Reports to the other process that this one serves its listeners, and waits until the other has released them and the
    /// path of the control socket.
    ///
    /// # Errors
    ///
    /// `TimedOut` after the [deadline](Control::deadline), and the errors of `send(2)` and `recv(2)`.
    pub fn relieve(self) -> io::Result<()> {
        let deadline = Deadline::after(self.deadline);
        sys::say(self.socket.as_fd(), READY, deadline)?;
        sys::await_end(self.socket.as_fd(), deadline)
    }
}
