//! Random servers, networks and peers.

use std::ops::Range;
use std::time::Duration;

use epicycle::testing::{Link, Peer, Reading, Simulation};
use epicycle::{Listen, Server};
use fastrand::Rng;

/// A server whose buffers, budgets and marks are small enough to be reached.
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
        // Slow is not stalled, and what these tests wait for must come.
        .write_stall_timeout(Duration::from_secs(1000))
        .drain_deadline(Duration::from_secs(1000))
}

/// A network from nearly calm to hostile.
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

/// How long a payload is: mostly short.
pub(crate) fn len(rng: &mut Rng) -> usize {
    let range: Range<usize> = match rng.u32(..40) {
        0 => 16 << 10..50 << 10,
        1..3 => 1000..10_000,
        3..15 => 50..1000,
        _ => 0..50,
    };
    rng.usize(range)
}

/// What becomes of a peer once it has sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It ends its stream and waits for the rest.
    Shutdown,
    /// It closes without waiting.
    Close,
    Reset,
    /// It stays.
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

/// How long a peer lets pass between two looks at what has come: after a hundred it is patient.
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
