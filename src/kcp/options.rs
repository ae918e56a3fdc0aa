use std::time::Duration;

use super::fec::{self, Sizes};
use super::segment::HEAD;

/// The options of a KCP connection. Both ends should have the same.
///
/// The defaults are those of kcp-go, and so of `due`. For games, [`no_delay`](Self::no_delay) is usually better.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::kcp::KcpOptions;
///
/// let options = KcpOptions::new()
///     .no_delay(true)
///     .interval(Duration::from_millis(10))
///     .fast_resend(2)
///     .congestion_control(false)
///     .windows(128, 128);
/// options.check()?;
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it has no effect until it is given to a connection"]
pub struct KcpOptions {
    pub(super) mtu: usize,
    pub(super) no_delay: bool,
    pub(super) interval: Duration,
    pub(super) fast_resend: u32,
    pub(super) congestion_control: bool,
    pub(super) send_window: u16,
    pub(super) receive_window: u16,
    pub(super) ack_no_delay: bool,
    pub(super) max_queued: usize,
    pub(super) fec: Option<Sizes>,
}

impl KcpOptions {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self {
            mtu: 1400,
            no_delay: false,
            interval: Duration::from_millis(100),
            fast_resend: 0,
            congestion_control: true,
            send_window: 32,
            receive_window: 32,
            ack_no_delay: false,
            max_queued: 1 << 20,
            fec: None,
        }
    }

    /// Sets the longest datagram that is sent, from 50 to 65,507 bytes. Default: 1,400.
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes;
        self
    }

    /// Sends lost segments again sooner: after 30 ms at the earliest in place of 100, and later by half of the round trip each time
    /// in place of all of it. Default: off.
    pub fn no_delay(mut self, on: bool) -> Self {
        self.no_delay = on;
        self
    }

    /// Sets the time that the peer takes to notice a loss, which is part of the time after which it is sent again; and the longest
    /// time for which an acknowledgement waits for data to travel with, which is 10 ms at most. From 1 ms to 5 s. Default: 100 ms.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sends a segment again at once when so many acknowledgements of later ones have come. 0, the default: only the time counts.
    pub fn fast_resend(mut self, acknowledgements: u32) -> Self {
        self.fast_resend = acknowledgements;
        self
    }

    /// Sends less when segments are lost. Default: on.
    pub fn congestion_control(mut self, on: bool) -> Self {
        self.congestion_control = on;
        self
    }

    /// Sets the number of segments that may be on the way, and the number that wait for the application to read them, from 1 to
    /// 32,768. Default: 32 each.
    pub fn windows(mut self, send: u16, receive: u16) -> Self {
        (self.send_window, self.receive_window) = (send, receive);
        self
    }

    /// Acknowledges at once. Default: off.
    pub fn ack_no_delay(mut self, on: bool) -> Self {
        self.ack_no_delay = on;
        self
    }

    /// Sets the number of bytes that may wait for the peer or its acknowledgement. Default: 1 MiB.
    pub fn max_queued(mut self, bytes: usize) -> Self {
        self.max_queued = bytes;
        self
    }

    /// Sends with forward error correction as kcp-go does: behind each `data` datagrams `parity` more, with which the peer can repair as
    /// many of all these that are lost, from 1 to 64 each. That is sooner than sending again, and costs `parity / data` of the bytes
    /// more. The peer has to know the same numbers. The clients of due send with 10 and 3, which every end understands here.
    /// Default: off.
    ///
    /// Datagrams that the peer sends with these numbers are repaired, with or without this; see [`Kcp`](super::Kcp).
    pub fn fec(mut self, data: u8, parity: u8) -> Self {
        self.fec = Some(Sizes { data, parity });
        self
    }

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// The option, its value and the range.
    pub fn check(&self) -> Result<(), String> {
        let interval = self.interval.as_millis();
        if !(50..=65_507).contains(&self.mtu) {
            return Err(format!("mtu: {} is not from 50 to 65,507", self.mtu));
        }
        if !(1..=5000).contains(&interval) {
            return Err(format!("interval: {interval} ms is not from 1 ms to 5 s"));
        }
        for window in [self.send_window, self.receive_window] {
            if !(1..=32_768).contains(&window) {
                return Err(format!("windows: {window} is not from 1 to 32,768"));
            }
        }
        if let Some(Sizes { data, parity }) = self.fec {
            for number in [data, parity] {
                if !(1..=64).contains(&number) {
                    return Err(format!("fec: {number} is not from 1 to 64"));
                }
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that may wait.
    pub fn most_queued(&self) -> usize {
        self.max_queued
    }

    /// Returns the most data in a segment.
    pub(super) fn segment(&self) -> usize {
        let head = HEAD + if self.fec.is_some() { fec::HEAD } else { 0 };
        self.mtu.saturating_sub(head).max(1)
    }
}

impl Default for KcpOptions {
    fn default() -> Self {
        Self::new()
    }
}
