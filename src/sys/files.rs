//! Files that somebody else names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// Reads a file, which may be one without an end, such as a device. Returns `None` if it has more bytes than `max`. A pipe is an
/// error: its reader would wait for a writer.
pub(crate) fn read_at_most(max: u64, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Fifo {
        let problem = "it is a pipe, which cannot be read again; use a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let mut bytes = Vec::new();
    File::from(file).take(max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

/// Opens a file to append to it, and creates it if it is not there. A pipe that nobody reads is an error: to open it would
/// wait for a reader.
#[cfg(feature = "gateway")]
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    use rustix::fs::fcntl_setfl;
    use rustix::io::Errno;

    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let at_once = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags | at_once, Mode::from_raw_mode(0o666));
    let file = opened.map_err(|error| match error {
        Errno::NXIO => {
            let problem = "nobody reads the pipe; start its reader first";
            io::Error::new(io::ErrorKind::NotConnected, problem)
        }
        error => error.into(),
    })?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(File::from(file))
}
