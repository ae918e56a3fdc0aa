//! UDP: datagrams by themselves, and sessions over them.

mod admission;
mod codecs;
mod datagrams;
mod flow;
mod options;
mod peer;
mod resources;
mod room;
mod sessions;

#[path = "../util/mod.rs"]
mod util;
