//! Moving bytes between descriptors inside the kernel, on the platforms that can.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use self::elsewhere::*;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::linux::*;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads `len` bytes of a file from `offset` on. May take as long as the disk does.
///
/// # Errors
///
/// What `pread(2)` answers, and [`file_ended`] when the file has fewer bytes.
pub(crate) fn read_file(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => file_ended(),
            _ => error,
        })?;
    Ok(bytes)
}

/// A file has fewer bytes than it had when it was to be sent.
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

    /// `sendfile(2)`: how many of `len` bytes of the file, from `offset` on, the socket took; none when the file
    /// has ended. The file's own position stays where it is.
    pub(crate) fn send_file(
        socket: impl AsFd,
        file: &File,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let mut offset = offset;
        Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), len)?)
    }

    /// Whether an error says that the kernel cannot move bytes between two such descriptors.
    pub(crate) fn is_unsupported(error: &io::Error) -> bool {
        matches!(
            Errno::from_io_error(error),
            Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
        )
    }

    /// A pipe of the kernel's, through which bytes go from one socket to another without being copied.
    #[derive(Debug)]
    pub(crate) struct KernelPipe {
        output: OwnedFd,
        input: OwnedFd,
    }

    /// Room for 256 pages: what a network card delivers comes in pieces of a page or less.
    const CAPACITY: usize = 1 << 20;

    impl KernelPipe {
        pub(crate) fn new() -> io::Result<Self> {
            let (output, input) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // A smaller one would make more system calls than copying does.
            rustix::pipe::fcntl_setpipe_size(&input, CAPACITY)?;
            Ok(Self { output, input })
        }

        /// Takes up to `len` bytes in from a socket; none at the end of its stream.
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

        /// Gives up to `len` bytes to a socket.
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

    /// This platform reads and sends.
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

    /// This platform has none.
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
