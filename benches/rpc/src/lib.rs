//! The message and the load of `benches/rpc.py`.
//!
//! # How to measure another server
//!
//! 1. Write a server that takes its port on 127.0.0.1 as its first argument, and runs until it is killed. Its handler decodes a
//!    [`BenchmarkMessage`](message::BenchmarkMessage) and replies with [`answered`](message::BenchmarkMessage::answered).
//! 2. Write a load. Either implement [`Dialogue`](load::Dialogue), which is a client's side of one connection without its
//!    socket, and have `main` return [`load::run`]`(|_| ..)`. All such loads cost the same, and they send and receive in the same
//!    order. Or, where the wire format is too much work, use the rival's own client: `main` parses [`load::Flags`], keeps
//!    [`load::Meter`] informed of each answer, and prints [`Meter::report`](load::Meter::report). Both take `PORT PID
//!    [--connections N] [--warm-up SECONDS] [--seconds SECONDS]` and print one line of JSON. The first kind also takes `--calls
//!    N`, by which instructions and idle memory are measured.
//! 3. Add a line to `SERVERS` or `RIVAL_SERVERS` in `benches/rpc.py`.
//!
//! A package of rivals depends on this one with `default-features = false`: it then does not build the engine.

pub mod load;
pub mod message;

/// The kernel's figures about a process.
#[path = "../../rivals/src/bin/closed_loop/server.rs"]
mod process;
