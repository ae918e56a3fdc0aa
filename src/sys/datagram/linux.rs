//! Several datagrams in one call: `recvmmsg(2)` and `sendmmsg(2)`.
//!
//! Addresses and control messages are written and read as plain bytes, so that only the system calls need unsafe code.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{Arrival, MAX_BATCH, Message};

/// True if a call can receive or send several datagrams.
pub(super) const SUPPORTED: bool = true;

/// The headers of a batch's messages. Each call fills them in again.
///
/// They take about 12 KiB.
pub(super) struct Headers {
    messages: Box<[libc::mmsghdr; MAX_BATCH]>,
    slices: Box<[libc::iovec; MAX_BATCH]>,
    names: Box<[Name; MAX_BATCH]>,
    controls: Box<[Control; MAX_BATCH]>,
}

/// A `sockaddr_in` or `sockaddr_in6` as bytes.
type Name = [u8; NAME_LEN];

const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();

/// A control message with one number: a `cmsghdr` and its data.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    len: usize,
    level: c_int,
    kind: c_int,
    value: [u8; size_of::<c_int>()],
}

const NO_CONTROL: Control = Control {
    len: 0,
    level: 0,
    kind: 0,
    value: [0; size_of::<c_int>()],
};

/// Returns the value of `cmsg_len` for a control message with `bytes` of data.
const fn control_len(bytes: usize) -> usize {
    mem::offset_of!(Control, value) + bytes
}

impl Headers {
    pub(super) fn new() -> Self {
        let slice = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: an mmsghdr consists of integers and raw pointers, for which all-zero bytes are valid.
        let message: libc::mmsghdr = unsafe { mem::zeroed() };
        Self {
            messages: Box::new([message; MAX_BATCH]),
            slices: Box::new([slice; MAX_BATCH]),
            names: Box::new([[0; NAME_LEN]; MAX_BATCH]),
            controls: Box::new([NO_CONTROL; MAX_BATCH]),
        }
    }

    /// Receives messages into `slots`, which consists of at most [`MAX_BATCH`] slots of `slot_len` bytes. Appends the messages
    /// received to `arrivals`.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        slots: &mut [u8],
        slot_len: usize,
        arrivals: &mut Vec<Arrival>,
    ) -> io::Result<()> {
        let mut count = 0;
        let headers = self.messages.iter_mut().zip(self.slices.iter_mut());
        let parts = self.names.iter_mut().zip(self.controls.iter_mut());
        for ((slot, (message, slice)), (name, control)) in
            slots.chunks_exact_mut(slot_len).zip(headers).zip(parts)
        {
            slice.iov_base = slot.as_mut_ptr().cast();
            slice.iov_len = slot.len();
            control.len = 0;
            let header = &mut message.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = NAME_LEN as _;
            header.msg_iov = slice;
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(control).cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the loop above has filled in the first `count` headers. Each points to a slice, a name and a control
        // message in boxes of `self`, and through the slice to a part of `slots`. No two share memory, all lengths in the
        // headers are right, and `self` and `slots` are borrowed mutably until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for n in 0..received {
            let message = &self.messages[n];
            arrivals.push(Arrival {
                peer: read_name(&self.names[n])?,
                len: message.msg_len as usize,
                segment: segment(&self.controls[n]),
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        Ok(())
    }

    /// Sends messages in order, from the first on, at most [`MAX_BATCH`]. Returns the number that the kernel accepted. An
    /// error concerns the first message.
    pub(super) fn transmit(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: &[Message<'_>],
    ) -> io::Result<usize> {
        let mut count = 0;
        let headers = self.messages.iter_mut().zip(self.slices.iter_mut());
        let parts = self.names.iter_mut().zip(self.controls.iter_mut());
        for ((from, (message, slice)), (name, control)) in messages.iter().zip(headers).zip(parts) {
            // The kernel only reads the bytes.
            slice.iov_base = from.bytes.as_ptr().cast_mut().cast();
            slice.iov_len = from.bytes.len();
            let header = &mut message.msg_hdr;
            header.msg_iov = slice;
            header.msg_iovlen = 1;
            (header.msg_name, header.msg_namelen) = match from.to {
                Some(to) => {
                    let len = write_name(to, name);
                    (name.as_mut_ptr().cast(), len as _)
                }
                None => (ptr::null_mut(), 0),
            };
            (header.msg_control, header.msg_controllen) = match u16::try_from(from.segment) {
                Ok(segment) if segment > 0 => {
                    let value = segment.to_ne_bytes();
                    control.len = control_len(value.len());
                    control.level = libc::SOL_UDP;
                    control.kind = libc::UDP_SEGMENT;
                    control.value[..value.len()].copy_from_slice(&value);
                    let len = size_of::<Control>();
                    (ptr::from_mut(control).cast(), len as _)
                }
                _ => (ptr::null_mut(), 0),
            };
            header.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the loop above has filled in the first `count` headers. Each points to a slice in a box of `self`, and to
        // a name and a control message there or to null. The slice points to the bytes of a message. All lengths in the
        // headers are right, everything outlives the call, and the kernel writes only to the headers, which `self` owns.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Lets the kernel deliver a run of datagrams as one message (`UDP_GRO`). Returns true if it can (Linux 5.0).
pub(super) fn enable_runs_in(socket: BorrowedFd<'_>) -> bool {
    set_udp_option(socket, libc::UDP_GRO, 1).is_ok()
}

/// Returns true if the kernel accepts a run of datagrams as one message (`UDP_SEGMENT`, Linux 4.18).
pub(super) fn takes_runs_out(socket: BorrowedFd<'_>) -> bool {
    // 0 is the default, so a kernel that knows the option changes nothing.
    set_udp_option(socket, libc::UDP_SEGMENT, 0).is_ok()
}

fn set_udp_option(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a local integer that outlives the call, and the length is that integer's.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Returns the size of a run's datagrams from the kernel's control message, or 0 for a single datagram.
fn segment(control: &Control) -> usize {
    let is_run = control.len >= control_len(size_of::<c_int>())
        && control.level == libc::SOL_UDP
        && control.kind == libc::UDP_GRO;
    let segment = c_int::from_ne_bytes(control.value);
    if is_run {
        usize::try_from(segment).unwrap_or(0)
    } else {
        0
    }
}

/// Writes an address in the kernel's format. Returns its length in bytes.
fn write_name(addr: SocketAddr, name: &mut Name) -> usize {
    name[2..4].copy_from_slice(&addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(v4) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v4.ip().octets());
            name[8..16].fill(0);
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            // Rust keeps the flow information in network order, as the kernel does.
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_LEN
        }
    }
}

/// Reads an address that the kernel wrote.
fn read_name(name: &Name) -> io::Result<SocketAddr> {
    let [family0, family1, port0, port1, rest @ ..] = *name;
    let port = u16::from_be_bytes([port0, port1]);
    match c_int::from(u16::from_ne_bytes([family0, family1])) {
        libc::AF_INET => {
            let ip = Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]);
            Ok(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            let number = |at: usize| {
                u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]])
            };
            let mut octets = [0; 16];
            octets.copy_from_slice(&rest[4..20]);
            let ip = Ipv6Addr::from(octets);
            Ok(SocketAddrV6::new(ip, port, number(0), number(20)).into())
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_control_message_is_laid_out_as_the_kernel_has_it() {
        // SAFETY: these functions only compute on their argument.
        let (space, of_gro, of_gso) = unsafe {
            (
                libc::CMSG_SPACE(4) as usize,
                libc::CMSG_LEN(4) as usize,
                libc::CMSG_LEN(2) as usize,
            )
        };
        assert_eq!(size_of::<Control>(), space);
        assert_eq!(control_len(4), of_gro);
        assert_eq!(control_len(2), of_gso);
    }

    #[test]
    fn an_address_comes_back_as_it_was_written() {
        for addr in ["192.0.2.7:65535", "[2001:db8::1:2]:1"] {
            let addr: SocketAddr = addr.parse().expect("an address");
            let mut name = [0xff; NAME_LEN];
            write_name(addr, &mut name);
            assert_eq!(read_name(&name).expect("is known"), addr);
        }
        let scoped = SocketAddr::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 5, 3));
        let mut name = [0; NAME_LEN];
        assert_eq!(write_name(scoped, &mut name), NAME_LEN);
        assert_eq!(read_name(&name).expect("is known"), scoped);
        assert!(read_name(&[0; NAME_LEN]).is_err());
    }
}
