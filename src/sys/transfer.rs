//! Moves bytes between descriptors inside the kernel, on platforms that can.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use self::elsewhere::*;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::linux::*;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads `len` bytes of a file from `offset` on. The call blocks while the disk reads.
///
/// # Errors
///
/// The error of `pread(2)`, or [`file_ended`] if the file has fewer bytes.
pub(crate) fn read_file(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => file_ended(),
            _ => error,
        })?;
    Ok(bytes)
}

/// Returns the error for a file that has become shorter since the application asked to send it.
pub(crate) fn file_ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file to send became shorter; replace files by renaming, and do not truncate them",
    )
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::Errno;
    use rustix::pipe::{PipeFlags, SpliceFlags};

    /// Calls `sendfile(2)` for `len` bytes of the file from `offset` on. Returns the number of bytes that the socket
    /// accepted; 0 at the end of the file. The file's own position does not change.
    pub(crate) fn send_file(
        socket: impl AsFd,
        file: &File,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let mut offset = offset;
        Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), len)?)
    }

    /// Returns true if an error means that the kernel cannot move bytes between these two descriptors.
    pub(crate) fn is_unsupported(error: &io::Error) -> bool {
        matches!(
            Errno::from_io_error(error),
            Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
        )
    }

    /// A kernel pipe. Bytes pass through it from one socket to another without being copied.
    #[derive(Debug)]
    pub(crate) struct KernelPipe {
        output: OwnedFd,
        input: OwnedFd,
    }

    /// The capacity in bytes. It is 256 pages; each piece that a network card delivers takes one, even if it is smaller.
    const CAPACITY: usize = 1 << 20;

    impl KernelPipe {
        pub(crate) fn new() -> io::Result<Self> {
            let (output, input) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // With a smaller pipe, splicing would take more system calls than copying.
            rustix::pipe::fcntl_setpipe_size(&input, CAPACITY)?;
            Ok(Self { output, input })
        }

        /// Moves up to `len` bytes from a socket into the pipe. Returns their number, 0 at the end of the stream.
        pub(crate) fn fill(&self, socket: impl AsFd, len: usize) -> io::Result<usize> {
            Ok(rustix::pipe::splice(
                socket,
                None,
                &self.input,
                None,
                len,
                FLAGS,
            )?)
        }

        /// Moves up to `len` bytes from the pipe to a socket. Returns their number.
        pub(crate) fn drain(&self, socket: impl AsFd, len: usize) -> io::Result<usize> {
            Ok(rustix::pipe::splice(
                &self.output,
                None,
                socket,
                None,
                len,
                FLAGS,
            )?)
        }
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod elsewhere {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;

    /// Fails, so that the engine reads and sends instead.
    pub(crate) fn send_file(
        _socket: impl AsFd,
        _file: &File,
        _offset: u64,
        _len: usize,
    ) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn is_unsupported(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::Unsupported
    }

    /// Never exists on this platform.
    #[derive(Debug)]
    pub(crate) enum KernelPipe {}

    impl KernelPipe {
        pub(crate) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn fill(&self, _socket: impl AsFd, _len: usize) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn drain(&self, _socket: impl AsFd, _len: usize) -> io::Result<usize> {
            match *self {}
        }
    }
}
