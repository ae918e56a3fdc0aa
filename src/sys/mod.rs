//! The operating system: sockets, their options, CPU affinity, files. All differences between platforms are here.

pub(crate) mod affinity;
pub(crate) mod datagram;
#[cfg(any(feature = "cluster", feature = "gateway", feature = "tls"))]
pub(crate) mod files;
pub(crate) mod handover;
pub(crate) mod monotonic;
pub(crate) mod options;
pub(crate) mod packets;
pub(crate) mod poll_timer;
#[cfg(feature = "signals")]
pub(crate) mod signals;
pub(crate) mod sigpipe;
#[cfg(feature = "testing")]
pub(crate) mod simulated;
pub(crate) mod socket;
pub(crate) mod stack;
pub(crate) mod transfer;
pub(crate) mod unix;
