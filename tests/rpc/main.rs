//! RPC: the wire formats, compared with recordings of Teleport.

#[path = "../util/mod.rs"]
mod util;

mod bodies;
mod codec;
mod filters;
mod futures;
mod hostile;
mod names;
mod peers;
mod plugins;
mod properties;
mod replay;
mod vectors;
mod wire;
