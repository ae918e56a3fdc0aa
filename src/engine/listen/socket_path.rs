//! The path of a Unix socket: one server at a time owns it, and removes it at its end.

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
    /// True if another process may listen on the socket too.
    copied: AtomicBool,
}

/// The longest wait for other servers that start in the same directory. Each needs well below a millisecond. But any user who
/// can read the directory can lock it for any time, and must not prevent a start.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait at the end of a socket, on a thread that may serve connections.
const DROP_PATIENCE: Duration = Duration::from_millis(100);

impl SocketPath {
    /// Binds a socket to a path and listens. A server that starts on the same path at the same moment waits, and then finds
    /// that this one answers.
    pub(crate) fn listen(
        path: &Path,
        options: &PathOptions,
        socket: &Socket,
        backlog: i32,
    ) -> io::Result<Self> {
        let _lock = DirectoryLock::of(path, START_PATIENCE).unwrap_or_else(|error| {
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
        // No peer can connect before the socket listens.
        let listening = this
            .set_permissions(options)
            .and_then(|()| socket.listen(backlog));
        listening.inspect_err(|_| this.remove()).map(|()| this)
    }

    /// Sets the owner and the mode of the path.
    fn set_permissions(&self, options: &PathOptions) -> io::Result<()> {
        if let Some((user, group)) = options.owner {
            named("path_owner", lchown(&self.path, user, group))?;
        }
        if let Some(mode) = options.mode {
            let permissions = Permissions::from_mode(mode);
            named("path_mode", fs::set_permissions(&self.path, permissions))?;
        }
        Ok(())
    }

    /// Records that another process may have a copy of the socket.
    pub(super) fn mark_copied(&self) {
        self.copied.store(true, Ordering::Relaxed);
    }

    /// Removes the path of a socket that is about to be closed, unless the socket has copies.
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

    /// Returns true if the path still belongs to this socket. Another server may have bound it since.
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| {
            metadata.file_type().is_socket()
                && metadata.dev() == self.device
                && metadata.ino() == self.inode
        })
    }
}

/// Removes the path if the socket had copies and the last of them is closed: no other process would remove it. This socket
/// is closed already.
impl Drop for SocketPath {
    fn drop(&mut self) {
        if !*self.copied.get_mut() {
            return;
        }
        match DirectoryLock::of(&self.path, DROP_PATIENCE) {
            Ok(_lock) => {
                if matches!(unix::path_state(&self.path), Ok(PathState::Stale)) {
                    self.remove();
                }
            }
            // The next server on the path removes a stale socket.
            Err(error) => log::debug!(
                target: "epicycle::server",
                "{} is left behind: {error}", self.path.display()
            ),
        }
    }
}

/// Returns true if there is a socket at the path, and false if there is nothing.
///
/// # Errors
///
/// `AlreadyExists` if there is a file of another type. The errors of `lstat(2)`.
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

/// Removes the socket of a dead server. Files of other types and sockets that are in use stay.
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

/// A lock that keeps other epicycle servers from binding or removing paths in a directory. It is `flock(2)` on the directory
/// itself, so that no lock file is left behind.
struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks the directory of `path`. Returns none if the directory cannot be read or the file system has no locks.
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
        // A child process that was forked in the meantime has the descriptor too, so that a close would not unlock.
        drop(self.0.unlock());
    }
}
