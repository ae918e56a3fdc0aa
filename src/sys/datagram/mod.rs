//! Datagram sockets, received from and sent to in batches.
//!
//! On Linux a batch is one system call (`recvmmsg(2)`, `sendmmsg(2)`). If the kernel supports it, a *run* of datagrams of one
//! size passes through it as one message (`UDP_GRO`, `UDP_SEGMENT`; `udp(7)`). On other systems, and with a batch of 1, each
//! datagram takes one call.

#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "linux.rs")]
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    path = "no_batches.rs"
)]
mod batches;
mod multicast;
mod portable;
mod queue;
mod receiver;
mod sender;
#[cfg(feature = "testing")]
mod simulated;
mod socket;
#[cfg(all(test, not(loom)))]
mod tests;

use std::net::SocketAddr;

pub use self::multicast::MulticastInterface;
pub(crate) use self::queue::{Refused, SendQueue};
pub(crate) use self::receiver::{Received, Receiver};
pub(crate) use self::sender::Sender;
pub(crate) use self::socket::{DatagramOptions, DatagramSocket};

/// The longest datagram, in bytes: 65,535 less the headers of IPv4 and UDP.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// The most messages in one call. A message is a datagram or a run of them.
pub(crate) const MAX_BATCH: usize = 64;

/// One message of a receive call: a datagram, or a run of them in one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrival {
    peer: SocketAddr,
    /// The number of bytes in the buffer.
    len: usize,
    /// The size of a run's datagrams, the last of which may be shorter; 0 for a single datagram.
    segment: usize,
    /// True if the buffer was too small for the message.
    truncated: bool,
}

/// One message of a send call: a datagram, or a run of them to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message<'a> {
    /// The destination; `None` on a connected socket.
    to: Option<SocketAddr>,
    bytes: &'a [u8],
    /// The size of a run's datagrams, the last of which may be shorter; 0 for a single datagram.
    segment: usize,
}

impl Message<'_> {
    const EMPTY: Self = Message {
        to: None,
        bytes: &[],
        segment: 0,
    };

    fn datagrams(&self) -> usize {
        match self.segment {
            0 => 1,
            segment => self.bytes.len().div_ceil(segment),
        }
    }
}

/// Converts the address of a dual-stack socket's IPv4 peer to IPv4.
fn canonical(mut addr: SocketAddr) -> SocketAddr {
    addr.set_ip(addr.ip().to_canonical());
    addr
}
