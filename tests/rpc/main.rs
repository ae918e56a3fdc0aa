//! RPC: the wire formats, held against what Teleport sent.

#[path = "../util/mod.rs"]
mod util;

mod bodies;
mod codec;
mod filters;
mod hostile;
mod names;
mod properties;
mod vectors;
mod wire;
