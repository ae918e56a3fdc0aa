//! The path of a Unix socket: taken by one server at a time, and removed by the one that has it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockAddr, Socket};

use crate::engine::listen::PathOptions;
use crate::sys::options::named;
use crate::sys::unix::{self, PathState};

/// A path that a socket of this process is bound to.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Another process may listen on the socket too.
    copied: AtomicBool,
}

/// How long to wait for other servers that start in the same directory. Each takes well below a millisecond, but whoever can
/// read the directory can lock it for as long as they like, and must not keep a server from starting.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same where a thread must not be kept that serves connections.
const LITTLE_PATIENCE: Duration = Duration::from_millis(100);

impl SocketPath {
    /// Binds a socket to a path and has it listen. Who starts at the same moment on the same path waits, and then finds that
    /// this server answers.
    pub(crate) fn listen(
        path: &Path,
        options: &PathOptions,
        socket: &Socket,
        backlog: i32,
    ) -> io::Result<Self> {
        let _lock = DirectoryLock::of(path, PATIENCE).unwrap_or_else(|error| {
            log::warn!(target: "epicycle::server", "taking {} without a lock: {error}", path.display());
            None
        });
        clear_stale(path)?;
        unix::bind(socket, &SockAddr::unix(path)?)?;
        let metadata = fs::symlink_metadata(path)?;
        let this = Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            copied: AtomicBool::new(false),
        };
        // Nobody can connect before it listens.
        let listening = this.open_to(options).and_then(|()| socket.listen(backlog));
        listening.inspect_err(|_| this.remove()).map(|()| this)
    }

    /// Gives the path the owner and mode that it is to have.
    fn open_to(&self, options: &PathOptions) -> io::Result<()> {
        if let Some((user, group)) = options.owner {
            named("path_owner", lchown(&self.path, user, group))?;
        }
        if let Some(mode) = options.mode {
            let permissions = Permissions::from_mode(mode);
            named("path_mode", fs::set_permissions(&self.path, permissions))?;
        }
        Ok(())
    }

    /// There is a copy of the socket now, which another process may go on with.
    pub(super) fn mark_copied(&self) {
        self.copied.store(true, Ordering::Relaxed);
    }

    /// Removes the path of a socket that is about to be closed, unless there are copies of it.
    pub(crate) fn remove_before_close(&self) {
        if !self.copied.load(Ordering::Relaxed) {
            self.remove();
        }
    }

    fn remove(&self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!(target: "epicycle::server", "cannot remove {}: {error}", self.path.display());
        }
    }

    /// Whether the path is still this socket's: another server may have been given it.
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| {
            metadata.file_type().is_socket()
                && metadata.dev() == self.device
                && metadata.ino() == self.inode
        })
    }
}

/// Its socket is closed by now. If there were copies and none of them is left, nobody else would remove the path.
impl Drop for SocketPath {
    fn drop(&mut self) {
        if !*self.copied.get_mut() {
            return;
        }
        match DirectoryLock::of(&self.path, LITTLE_PATIENCE) {
            Ok(_lock) => {
                if matches!(unix::path_state(&self.path), Ok(PathState::Stale)) {
                    self.remove();
                }
            }
            // The next server there removes what is stale.
            Err(error) => log::debug!(
                target: "epicycle::server",
                "{} is left behind: {error}", self.path.display()
            ),
        }
    }
}

/// Whether there is a socket at a path, of whomever; false when there is nothing.
///
/// # Errors
///
/// `AlreadyExists` when there is something else, and what `lstat(2)` answers.
pub(crate) fn is_socket(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is there; it stays, choose another path",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what a dead server left at the path: only a socket, and only one that nobody has any more.
fn clear_stale(path: &Path) -> io::Result<()> {
    if !is_socket(path)? {
        return Ok(());
    }
    match unix::path_state(path)? {
        PathState::Free => Ok(()),
        PathState::Stale => {
            log::info!(target: "epicycle::server", "removing the stale socket {}", path.display());
            fs::remove_file(path)
        }
        PathState::Alive => Err(unix::another_server()),
    }
}

/// Keeps other servers of this kind from taking or removing paths in a directory meanwhile (`flock(2)` on the directory, so that
/// no file is left behind).
struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks the directory of `path`. None where that is not possible: a directory that cannot be read, or a file system
    /// without locks.
    fn of(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let Ok(file) = File::open(directory) else {
            return Ok(None);
        };
        let until = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!(
                            "another process keeps the directory {} locked",
                            directory.display()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => {
                    log::debug!(target: "epicycle::server", "no lock on {}: {error}", directory.display());
                    return Ok(None);
                }
            }
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A child that was forked meanwhile has the descriptor too.
        drop(self.0.unlock());
    }
}
