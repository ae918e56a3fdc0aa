//! The options of listeners and of connections.

use std::ffi::c_int;
use std::io;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

/// The socket options of listeners and of the connections they accept.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) linger: Option<Duration>,
    pub(crate) device: Option<String>,
}

/// The settings of TCP keep-alive probes to a silent peer (`tcp(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// The time of silence before the first probe, in whole seconds.
    pub(crate) idle: Duration,
    /// The time between probes, in whole seconds.
    pub(crate) interval: Duration,
    /// The number of unanswered probes after which the kernel closes the connection.
    pub(crate) count: u32,
}

/// The longest time before a probe that Linux accepts, in seconds (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`). Other systems
/// accept more.
const MAX_PROBE_SECONDS: u64 = 32_767;

/// The most probes that Linux accepts (`MAX_TCP_KEEPCNT`).
const MAX_PROBES: u32 = 127;

/// The longest linger that every platform accepts, in seconds. Apple's systems store it in 15 bits.
const MAX_LINGER_SECONDS: u64 = 32_767;

/// The largest buffer that can be requested, in bytes. The kernel reads the size as an `int`.
const MAX_BUFFER: usize = c_int::MAX as usize;

impl SocketOptions {
    /// Sets the options of a stream socket.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`, with the option's name.
    pub(crate) fn apply(&self, socket: &Socket, is_tcp: bool) -> io::Result<()> {
        if is_tcp {
            named("nodelay", socket.set_tcp_nodelay(self.nodelay))?;
            if let Some(keepalive) = &self.keepalive {
                named("keepalive", keepalive.set(socket))?;
            }
        }
        if let Some(bytes) = self.recv_buffer {
            named("recv_buffer", set_recv_buffer(socket, bytes))?;
        }
        if let Some(bytes) = self.send_buffer {
            named("send_buffer", set_send_buffer(socket, bytes))?;
        }
        if self.linger.is_some() {
            named("linger", socket.set_linger(self.linger))?;
        }
        Ok(())
    }

    /// Returns the first option with a value that the kernel would refuse or misread: its name, and the problem with its
    /// remedy.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        let buffer = |name, bytes: Option<usize>| Some((name, buffer_problem(bytes?)?));
        None.or_else(|| Some(("keepalive", self.keepalive?.problem()?)))
            .or_else(|| Some(("linger", linger_problem(self.linger?)?)))
            .or_else(|| buffer("recv_buffer", self.recv_buffer))
            .or_else(|| buffer("send_buffer", self.send_buffer))
    }
}

impl Keepalive {
    fn set(self, socket: &Socket) -> io::Result<()> {
        let keepalive: TcpKeepalive = keepalive(self.idle, self.interval, self.count);
        socket.set_tcp_keepalive(&keepalive)
    }

    /// Returns the problem with these settings, if there is one.
    fn problem(self) -> Option<String> {
        let fits = |time: Duration| (1..=MAX_PROBE_SECONDS).contains(&time.as_secs());
        if !fits(self.idle) || !fits(self.interval) {
            return Some(format!(
                "the times count in whole seconds; use 1 s to {MAX_PROBE_SECONDS} s"
            ));
        }
        if !(1..=MAX_PROBES).contains(&self.count) {
            let count = self.count;
            return Some(format!(
                "{count} probes are not from 1 to {MAX_PROBES}, the most that the kernel sends"
            ));
        }
        None
    }
}

/// Returns the keep-alive options, as far as the platform has them.
fn keepalive(idle: Duration, interval: Duration, count: u32) -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(idle);
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris")))]
    let keepalive = keepalive.with_interval(interval).with_retries(count);
    #[cfg(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris"))]
    let _ = (interval, count);
    keepalive
}

/// Returns the problem with a linger time, if there is one.
fn linger_problem(linger: Duration) -> Option<String> {
    let seconds = linger.as_secs();
    if seconds == 0 && !linger.is_zero() {
        // The kernel would round it to 0, which means RST.
        return Some("it counts in whole seconds; use 1 s or more, or zero for a reset".to_owned());
    }
    (seconds > MAX_LINGER_SECONDS)
        .then(|| format!("{seconds} s is more than {MAX_LINGER_SECONDS} s, the most possible"))
}

/// Returns the problem with the size of a kernel buffer, if there is one.
pub(crate) fn buffer_problem(bytes: usize) -> Option<String> {
    (bytes > MAX_BUFFER)
        .then(|| format!("{bytes} bytes is more than {MAX_BUFFER}, the most the kernel takes"))
}

/// Sets the size of the kernel's receive buffer (`SO_RCVBUF`).
///
/// # Errors
///
/// The error of `setsockopt(2)`, or an error that names the limit if the size would be truncated.
pub(crate) fn set_recv_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    check_buffer(bytes)?;
    socket.set_recv_buffer_size(bytes)
}

/// Sets the size of the kernel's send buffer (`SO_SNDBUF`).
///
/// # Errors
///
/// As for [`set_recv_buffer`].
pub(crate) fn set_send_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    check_buffer(bytes)?;
    socket.set_send_buffer_size(bytes)
}

fn check_buffer(bytes: usize) -> io::Result<()> {
    match buffer_problem(bytes) {
        None => Ok(()),
        Some(problem) => Err(io::Error::new(io::ErrorKind::InvalidInput, problem)),
    }
}

/// Puts the option's name in front of the kernel's error, which does not contain it.
pub(crate) fn named<T>(option: &'static str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("option {option}: {error}")))
}
