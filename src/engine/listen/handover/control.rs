//! The Unix socket by which a process is asked for its listeners, and tells when it has let go of them.

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

/// A Unix socket's path at which a process hands its listeners over to the next one, and who may ask there.
///
/// The new process asks first ([`predecessor`](Self::predecessor)), and gets sockets if there is somebody to ask. Once it
/// serves them it takes the path over for its own successor ([`listen`](Self::listen)).
///
/// The path belongs in a directory that nobody else can write to, such as `$XDG_RUNTIME_DIR`, or the directory that systemd
/// makes for `RuntimeDirectory=`. Both sides check that the other process runs as the same user (`SO_PEERCRED`, `getpeereid(3)`).
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

/// Listens for processes that take over. The path is removed when this is closed or dropped.
#[derive(Debug)]
#[must_use = "dropping it removes the control socket"]
pub struct Successors {
    /// Locked by who waits.
    poll: Mutex<Poll>,
    waker: Waker,
    closed: AtomicBool,
    socket: Socket,
    path: SocketPath,
    control: Control,
}

/// A process that has asked for the listeners. It waits until this is dropped.
#[derive(Debug)]
#[must_use = "it waits for the listeners"]
pub struct Successor {
    socket: Socket,
    deadline: Duration,
}

/// The process that has the listeners still.
#[derive(Debug)]
#[must_use = "call `relieve` once this process listens"]
pub struct Predecessor {
    socket: Socket,
    deadline: Duration,
}

/// The new process's first words.
const ASK: &[u8] = b"epicycle handover 1\n";

/// Its last words: it serves the listeners.
const READY: &[u8] = b"ready\n";

/// How long a connection may take to ask. A process that takes over does so at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// As many processes may wait to be accepted.
const BACKLOG: i32 = 16;

impl Control {
    /// A control socket at a path, for processes of this user.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            users: Vec::new(),
            deadline: Duration::from_secs(30),
        }
    }

    /// Trusts the processes of another user too, given by number. The path's permissions then let every user connect.
    pub fn allow_user(mut self, user: u32) -> Self {
        self.users.push(user);
        self
    }

    /// How long each step of the other process may take, such as starting to serve with the listeners it was given. After
    /// that it is given up, and everything is as before. Default: 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Listens for processes that want to take over.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`]: the path cannot be bound, a process answers there, or there is something that is no socket.
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
        let everybody = !self.users.is_empty();
        let options = PathOptions {
            mode: Some(if everybody { 0o666 } else { 0o600 }),
            owner: None,
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

    /// The process that listens for successors, if there is one.
    ///
    /// # Errors
    ///
    /// What `connect(2)` answers, but for a path where nobody listens; `AlreadyExists` when there is something that is no
    /// socket; `PermissionDenied` when the process runs as another user. Each names the path.
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
        // The call blocks while the other's queue is full.
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

    /// Makes sure that the process at the other end may take part.
    fn check(&self, socket: &Socket) -> io::Result<()> {
        let user = sys::peer_user(socket.as_fd())?;
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
    /// Waits for a process that asks to take over; `None` once this is [closed](Self::close). Connections of other users, and
    /// such as do not ask within two seconds, are closed with a warning in the log.
    ///
    /// # Errors
    ///
    /// What `accept(2)` answers.
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
                let within = PATIENCE.min(self.control.deadline);
                sys::expect(socket.as_fd(), ASK, Deadline::after(within))
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

    /// Listens no more, and removes the path: a process that has ended or has been replaced has no successors any more.
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
    /// Gives copies of the listeners to the process, and waits until it serves them.
    ///
    /// # Errors
    ///
    /// `TimedOut` when it takes longer than the [deadline](Control::deadline), `UnexpectedEof` when it ends before, and what
    /// `sendmsg(2)` and `recv(2)` answer. Nothing has changed for this process then.
    pub fn hand_over(self, sockets: &[impl AsFd]) -> io::Result<Self> {
        let deadline = Deadline::after(self.deadline);
        sys::send(self.socket.as_fd(), &sys::borrow(sockets), deadline)?;
        sys::expect(self.socket.as_fd(), READY, deadline)?;
        Ok(self)
    }
}

impl Predecessor {
    /// Asks for the listeners and receives them, for [`Listen::socket`](crate::Listen::socket).
    ///
    /// # Errors
    ///
    /// As for [`receive`](super::receive), and `TimedOut` when it takes longer than the [deadline](Control::deadline).
    pub fn receive(&mut self) -> io::Result<Vec<OwnedFd>> {
        let deadline = Deadline::after(self.deadline);
        sys::say(self.socket.as_fd(), ASK, deadline)?;
        sys::receive(self.socket.as_fd(), deadline)
    }

    /// Tells the other process that its listeners are served here, and waits until it has let go of them, and of the
    /// control socket's path.
    ///
    /// # Errors
    ///
    /// `TimedOut` when it takes longer than the [deadline](Control::deadline), and what `send(2)` and `recv(2)` answer.
    pub fn relieve(self) -> io::Result<()> {
        let deadline = Deadline::after(self.deadline);
        sys::say(self.socket.as_fd(), READY, deadline)?;
        sys::await_end(self.socket.as_fd(), deadline)
    }
}
