//! Sockets that come from another process: inherited ones, and such as are sent over a Unix socket.

use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, recvmsg, sendmsg,
};

use super::socket::NO_SIGNAL;

/// The first descriptor of the protocol (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// As many descriptors go with one byte; the kernel's limit is 253.
const A_MESSAGE: usize = 64;

/// Has what is received closed on exec, where the kernel does that by itself.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

/// The descriptors that `LISTEN_FDS` announces, with their names (`sd_listen_fds_with_names(3)`): once, and
/// none when they are meant for another process.
#[allow(unsafe_code)]
pub(crate) fn inherited() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let meant_for_us = match env::var_os("LISTEN_PID") {
        Some(_) => number("LISTEN_PID") == Some(process::id()),
        // A parent that cannot know the child's number before it runs leaves it out.
        None => true,
    };
    let count = number("LISTEN_FDS").filter(|_| meant_for_us).unwrap_or(0);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let announced = (FIRST..).take(count as usize);
    for fd in announced.clone() {
        // SAFETY: the borrow ends with the next call, which answers EBADF for a descriptor that is not open.
        let given = unsafe { BorrowedFd::borrow_raw(fd) };
        // One that would not have survived the exec is this process's own, and the count is wrong.
        if fcntl_getfd(given)?.contains(FdFlags::CLOEXEC) {
            return Err(Errno::BADF.into());
        }
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for fd in announced {
        // SAFETY: it is open, and by the protocol it was passed for this process to own; nobody takes it twice.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
        sockets.push((owned, names.next().unwrap_or_default().to_owned()));
    }
    Ok(sockets)
}

/// Sends copies of descriptors over a Unix stream socket (`unix(7)`, `SCM_RIGHTS`): their number in four
/// bytes, and a byte with each batch of them.
pub(crate) fn send(to: BorrowedFd<'_>, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
    let mut header = &count.to_be_bytes()[..];
    while !header.is_empty() {
        let sent = retry_on_intr(|| rustix::net::send(to, header, NO_SIGNAL))?;
        header = &header[sent..];
    }
    for batch in sockets.chunks(A_MESSAGE) {
        retry_on_intr(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(A_MESSAGE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(batch));
            sendmsg(to, &[IoSlice::new(b".")], &mut control, NO_SIGNAL)
        })?;
    }
    Ok(())
}

/// Receives what [`send`] sends.
pub(crate) fn receive(from: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut header = [0; 4];
    let mut got = 0;
    while got < header.len() {
        let rest = &mut header[got..];
        match retry_on_intr(|| rustix::net::recv(from, &mut *rest, RecvFlags::empty()))? {
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (n, _) => got += n,
        }
    }
    let count = u32::from_be_bytes(header) as usize;
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(A_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut byte)];
            recvmsg(from, &mut slices, &mut control, CLOSED_ON_EXEC)
        })?;
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
        // The rest would be awaited in vain.
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "some of the sockets got lost, for want of descriptors; raise the limit (ulimit -n)",
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

/// Borrows each.
pub(crate) fn borrow(sockets: &[impl AsFd]) -> Vec<BorrowedFd<'_>> {
    sockets.iter().map(AsFd::as_fd).collect()
}
