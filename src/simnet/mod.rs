//! The wires of the simulated network: the buffers of two connected sockets, and the faults that a seed injects.
//!
//! This folder imports nothing of the crate. `sys` uses its ends as sockets, and `testing` drives it.

pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod tally;
