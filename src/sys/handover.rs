//! Sockets that come from another process: inherited, or received over a Unix socket.

use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, recvmsg, sendmsg,
};

use super::socket::NO_SIGNAL;

/// The first descriptor of the protocol (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The number of descriptors sent in one message. The kernel's limit is 253.
const MAX_IN_MESSAGE: usize = 64;

/// Makes the kernel set close-on-exec on received descriptors, where it can.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

/// Returns the descriptors that `LISTEN_FDS` announces, with their names (`sd_listen_fds_with_names(3)`). Only the first call
/// returns them. Returns none if they are meant for another process.
#[allow(unsafe_code)]
pub(crate) fn inherited() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let meant_for_us = match env::var_os("LISTEN_PID") {
        Some(_) => number("LISTEN_PID") == Some(process::id()),
        // A parent that cannot know the child's process number before the exec does not set the variable.
        None => true,
    };
    let count = number("LISTEN_FDS").filter(|_| meant_for_us).unwrap_or(0);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let announced = (FIRST..).take(count as usize);
    for fd in announced.clone() {
        // SAFETY: the borrow ends with the next call, which returns EBADF for a descriptor that is not open.
        let given = unsafe { BorrowedFd::borrow_raw(fd) };
        // A descriptor with close-on-exec was opened by this process, so the count is wrong.
        if fcntl_getfd(given)?.contains(FdFlags::CLOEXEC) {
            return Err(Errno::BADF.into());
        }
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for fd in announced {
        // SAFETY: it is open, and the protocol passes it to this process, which owns it. `TAKEN` keeps anybody from
        // taking it a second time.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
        sockets.push((owned, names.next().unwrap_or_default().to_owned()));
    }
    Ok(sockets)
}

/// The moment by which the other process must have answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline. Only timeouts that the socket has already apply.
    pub(crate) const NEVER: Self = Self(None);

    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// Sets the socket's timeout so that the next call ends by the deadline.
    fn limit(self, socket: BorrowedFd<'_>, call: Timeout) -> io::Result<()> {
        let Some(at) = self.0 else {
            return Ok(());
        };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_late());
        }
        Ok(set_socket_timeout(socket, call, Some(left))?)
    }

    /// Converts the error of a call. A timeout of the socket becomes [`too_late`].
    fn convert(self, error: Errno) -> io::Error {
        if self.0.is_some() && error == Errno::AGAIN {
            too_late()
        } else {
            error.into()
        }
    }
}

pub(crate) fn too_late() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the other process did not answer in time",
    )
}

/// Returns the effective user of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sends all of a message.
pub(crate) fn say(to: BorrowedFd<'_>, mut message: &[u8], deadline: Deadline) -> io::Result<()> {
    while !message.is_empty() {
        deadline.limit(to, Timeout::Send)?;
        let sent = retry_on_intr(|| rustix::net::send(to, message, NO_SIGNAL));
        message = &message[sent.map_err(|error| deadline.convert(error))?..];
    }
    Ok(())
}

/// Receives a message. Fails if it is not the expected one.
pub(crate) fn expect(from: BorrowedFd<'_>, message: &[u8], deadline: Deadline) -> io::Result<()> {
    let mut received = vec![0; message.len()];
    receive_all(from, &mut received, deadline)?;
    if received == message {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the other process does not speak this protocol",
    ))
}

/// Waits until the other process closes its end.
pub(crate) fn await_end(from: BorrowedFd<'_>, deadline: Deadline) -> io::Result<()> {
    match receive_all(from, &mut [0], deadline) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the other process does not speak this protocol",
        )),
    }
}

fn receive_all(from: BorrowedFd<'_>, into: &mut [u8], deadline: Deadline) -> io::Result<()> {
    let mut got = 0;
    while got < into.len() {
        deadline.limit(from, Timeout::Recv)?;
        let rest = &mut into[got..];
        let received = retry_on_intr(|| rustix::net::recv(from, &mut *rest, RecvFlags::empty()));
        match received.map_err(|error| deadline.convert(error))? {
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (n, _) => got += n,
        }
    }
    Ok(())
}

/// Sends copies of descriptors over a Unix stream socket (`unix(7)`, `SCM_RIGHTS`): first their number in four bytes,
/// big-endian, then one byte with each batch of descriptors.
pub(crate) fn send(
    to: BorrowedFd<'_>,
    sockets: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> io::Result<()> {
    let count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
    say(to, &count.to_be_bytes(), deadline)?;
    for batch in sockets.chunks(MAX_IN_MESSAGE) {
        deadline.limit(to, Timeout::Send)?;
        let sent = retry_on_intr(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_IN_MESSAGE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(batch));
            sendmsg(to, &[IoSlice::new(b".")], &mut control, NO_SIGNAL)
        });
        sent.map_err(|error| deadline.convert(error))?;
    }
    Ok(())
}

/// Receives the descriptors that [`send`] sends.
pub(crate) fn receive(from: BorrowedFd<'_>, deadline: Deadline) -> io::Result<Vec<OwnedFd>> {
    let mut header = [0; 4];
    receive_all(from, &mut header, deadline)?;
    let count = u32::from_be_bytes(header) as usize;
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_IN_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        deadline.limit(from, Timeout::Recv)?;
        let received = retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut byte)];
            recvmsg(from, &mut slices, &mut control, CLOSED_ON_EXEC)
        });
        let received = received.map_err(|error| deadline.convert(error))?;
        let before = sockets.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        if CLOSED_ON_EXEC.is_empty() {
            for socket in &sockets[before..] {
                fcntl_setfd(socket, FdFlags::CLOEXEC)?;
            }
        }
        // The missing descriptors will not come.
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "this process had no descriptors left for some of the sockets; raise the limit (ulimit -n)",
            ));
        }
        if received.bytes == 0 || sockets.len() == before {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the other process sent fewer sockets than it announced",
            ));
        }
    }
    Ok(sockets)
}

/// Borrows each socket.
pub(crate) fn borrow(sockets: &[impl AsFd]) -> Vec<BorrowedFd<'_>> {
    sockets.iter().map(AsFd::as_fd).collect()
}
