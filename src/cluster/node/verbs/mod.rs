//! The verbs of a handler: for its client, for other clients, and for nodes.

mod client;
mod nodes;
mod others;

use std::any::Any;

use super::context::{Call, Core};
use super::reply::Reply;
use crate::cluster::drpc::{self, Target};
use crate::cluster::{Error, Kind};

fn push(core: &mut Core, gid: &str, target: Target, packet: &[u8]) -> Result<(), Error> {
    let push = drpc::Request::Push {
        target,
        disconnect: false,
        packet,
    };
    core.send(Kind::Gate, gid, &push)?;
    core.counters().pushed.add(1);
    Ok(())
}

fn boxed(
    call: impl FnOnce(&mut dyn Any, &mut Core, Result<Reply, Error>) + Send + 'static,
) -> Call {
    Box::new(call)
}
