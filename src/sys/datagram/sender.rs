use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::batches::Headers;
#[cfg(feature = "testing")]
use super::simulated;
use super::{DatagramSocket, MAX_BATCH, Message, SendQueue, portable};

/// Sends queued datagrams in batches. One sender serves all sockets of a reactor.
pub(crate) struct Sender {
    headers: Headers,
}

/// The result of sending a queue's datagrams.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Datagrams that the kernel accepted.
    pub(crate) datagrams: usize,
    /// The bytes in them.
    pub(crate) bytes: usize,
    /// Datagrams that the kernel refused with an error.
    pub(crate) dropped: usize,
    /// The last such error.
    pub(crate) error: Option<io::Error>,
    /// True if the kernel has no room now: the rest waits until the socket becomes writable.
    pub(crate) is_blocked: bool,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(),
        }
    }

    /// Sends until the queue is empty or the kernel has no room.
    pub(crate) fn send(&mut self, socket: &DatagramSocket, queue: &mut SendQueue) -> Sent {
        #[cfg(feature = "testing")]
        if let Some(end) = socket.as_simulated() {
            return drain(queue, 1, |messages| simulated::transmit(end, messages));
        }
        let fd = socket.as_fd();
        if socket.is_batched() {
            let headers = &mut self.headers;
            return drain(queue, socket.batch(), |messages| {
                headers.transmit(fd, messages)
            });
        }
        drain(queue, 1, |messages| portable::transmit(fd, messages))
    }
}

/// Passes the queue's messages to `transmit` until the queue is empty or `transmit` has no room. `transmit` accepts messages
/// from the first on, and returns their number.
pub(super) fn drain(
    queue: &mut SendQueue,
    batch: usize,
    mut transmit: impl FnMut(&[Message<'_>]) -> io::Result<usize>,
) -> Sent {
    let mut sent = Sent::default();
    while !queue.is_empty() {
        let mut messages = [Message::EMPTY; MAX_BATCH];
        let count = queue.messages(&mut messages[..batch]);
        match transmit(&messages[..count]) {
            Ok(taken) => {
                let taken = &messages[..taken.min(count)];
                let taken = taken.iter().map(Message::datagrams).sum();
                sent.datagrams += taken;
                sent.bytes += queue.pop(taken);
                queue.end_trial(true);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sent.is_blocked = true;
                break;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if messages[0].segment > 0 && refuses_runs(&error) => {
                let segment = messages[0].segment;
                log::debug!(
                    target: "epicycle::udp",
                    "the kernel refused a run of datagrams of {segment} bytes ({error}); they are sent one by one"
                );
                // EIO means that no run can pass: the device computes no checksums, or the route transforms packets.
                let refuses_all = Errno::from_io_error(&error) == Some(Errno::IO);
                queue.begin_trial(if refuses_all { 1 } else { segment });
            }
            Err(error) => {
                match messages[0].to {
                    Some(to) => {
                        log::debug!(target: "epicycle::udp", "the kernel refused a datagram to {to}: {error}");
                    }
                    None => {
                        log::debug!(target: "epicycle::udp", "the kernel refused a datagram: {error}");
                    }
                }
                queue.pop(1);
                queue.end_trial(false);
                sent.dropped += 1;
                sent.error = Some(error);
            }
        }
    }
    sent
}

/// Returns true if the cause of an error may be the run, and not the datagram: the kernel or the route may not support such
/// runs.
fn refuses_runs(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE | Errno::OPNOTSUPP | Errno::NOPROTOOPT)
    )
}
