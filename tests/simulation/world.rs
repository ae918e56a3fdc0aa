//! Random servers, networks and peers.

use std::ops::Range;
use std::time::Duration;

use epicycle::testing::{Link, Peer, Reading, Simulation};
use epicycle::{Listen, Server};
use fastrand::Rng;

/// Returns a server with small random buffers, budgets and marks, so that connections reach them.
pub(crate) fn server(rng: &mut Rng) -> Server {
    server_on("tcp://:1", rng)
}

pub(crate) fn server_on(listen: impl Into<Listen>, rng: &mut Rng) -> Server {
    let high = rng.usize(1 << 10..64 << 10);
    Server::bind(listen)
        .read_buffer(rng.usize(16 << 10..=32 << 10))
        .read_budget(rng.usize(1..64 << 10))
        .frame_budget(rng.usize(1..20))
        .high_water(high)
        .low_water(rng.usize(0..high))
        // Long timeouts, because slow peers must still receive everything.
        .write_stall_timeout(Duration::from_secs(1000))
        .drain_deadline(Duration::from_secs(1000))
}

/// Returns a random network, from nearly calm to hostile.
pub(crate) fn link(rng: &mut Rng) -> Link {
    let link = match rng.u32(..4) {
        0 => Link::calm().segments(rng.usize(1..2000)),
        1 => Link::hostile().interference(60),
        _ => Link::hostile(),
    };
    let link = match rng.u32(..3) {
        0 => link.send_buffer(200..=4000),
        _ => link,
    };
    match rng.u32(..4) {
        0 => link.resets(30),
        _ => link,
    }
}

/// Returns a random length of a payload, mostly a short one.
pub(crate) fn len(rng: &mut Rng) -> usize {
    let range: Range<usize> = match rng.u32(..40) {
        0 => 16 << 10..50 << 10,
        1..3 => 1000..10_000,
        3..15 => 50..1000,
        _ => 0..50,
    };
    rng.usize(range)
}

/// The action of a peer once it has sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// Ends its stream and waits for the rest.
    Shutdown,
    /// Closes without waiting.
    Close,
    Reset,
    /// Stays connected.
    None,
}

pub(crate) fn farewell(rng: &mut Rng) -> Farewell {
    match rng.u32(..8) {
        0 => Farewell::Close,
        1 => Farewell::Reset,
        2 => Farewell::None,
        _ => Farewell::Shutdown,
    }
}

pub(crate) fn say<H: epicycle::EventHandler>(
    sim: &mut Simulation<H>,
    peer: Peer,
    farewell: Farewell,
) {
    match farewell {
        Farewell::Shutdown => sim.shutdown(peer),
        Farewell::Close => sim.close(peer),
        Farewell::Reset => sim.reset(peer),
        Farewell::None => {}
    }
}

/// Returns the time between two checks of a peer's input. After a hundred checks it is longer.
#[cfg(feature = "http")]
pub(crate) fn pause(rng: &mut Rng, look: usize) -> Duration {
    match look {
        0..100 => Duration::from_micros(rng.u64(..50_000)),
        _ => Duration::from_secs(60),
    }
}

pub(crate) fn reading(rng: &mut Rng) -> Reading {
    match rng.u32(..6) {
        0 => Reading::Slowly(rng.u32(2_000..200_000)),
        _ => Reading::Freely,
    }
}
