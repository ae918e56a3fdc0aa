//! The operating system: sockets, their options, CPU affinity. The only place where `unsafe` is allowed.

pub(crate) mod affinity;
pub(crate) mod socket;
