//! The engine's promises (see `docs/architecture.md`), tested over real sockets.

#[path = "../util/mod.rs"]
mod util;

mod at_once;
mod breaking;
mod closing;
mod deferring;
mod fin;
mod flow;
mod lifecycle;
mod limits;
mod marks;
mod order;
mod panics;
mod paths;
mod reaching;
mod records;
mod resources;
mod shutdown;
#[cfg(feature = "signals")]
mod signals;
mod spinning;
mod switching;
