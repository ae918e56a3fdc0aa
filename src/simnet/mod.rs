//! The wires of the simulated network: what lies in the buffers of two sockets, and what a seed does to it.
//!
//! It imports nothing of this crate. `sys` puts its ends in the place of sockets, and `testing` drives it.

pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod tally;
