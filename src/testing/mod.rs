//! A simulated network and virtual time, to test handlers and codecs with: thousands of connections under thousands of
//! conditions a second, none of them by accident.
//!
//! A [`Simulation`] runs the engine's own loop, with one's own handler and codec, in memory. Its sockets do whatever the
//! socket interface allows: reads end anywhere, writes are cut short or refused, events come in any order and more often than
//! needed, peers send FIN or RST when it suits them least. What happens follows from a seed, so that a failure can be had
//! again. Time is virtual: a minute of waiting for a timeout takes microseconds, and the timeout comes exactly when it is due.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::testing::{Ending, Link, Simulation, each_seed};
//! use epicycle::{Server, service};
//!
//! each_seed(0..20, |seed| {
//!     let server = Server::bind("tcp://:9000").idle_timeout(Duration::from_secs(60));
//!     let echo = |_reactor| service(|conn, bytes| conn.write(bytes).into());
//!     let mut sim = Simulation::new(seed, Link::hostile(), server, echo).unwrap();
//!
//!     let (one, other) = (sim.connect(), sim.connect());
//!     sim.send(one, b"hello");
//!     sim.send(other, [7; 5000]);
//!     sim.shutdown(other);
//!     sim.run_for(Duration::from_secs(50));
//!     assert_eq!(sim.received(one), b"hello");
//!     assert_eq!(sim.received(other), [7; 5000]);
//!     assert_eq!((sim.ending(one), sim.ending(other)), (Ending::Open, Ending::Finished));
//!
//!     sim.run_for(Duration::from_secs(20));
//!     assert_eq!(sim.ending(one), Ending::Finished);
//!     assert_eq!(sim.stats().timeouts, 1);
//! });
//! ```
//!
//! [`each_seed`] says what its seeds amounted to, which `cargo test -- --nocapture` shows. A failing seed prints itself: `seed 17 fails; to replay it: EPICYCLE_SEED=17 cargo test echoes`. With a logger,
//! `RUST_LOG=epicycle=trace` shows every event, call and segment with its virtual time, under the target `epicycle::testing`.

pub(crate) mod link;
pub(crate) mod network;
mod seeds;
mod simulation;
mod tally;

pub use self::link::Link;
pub use self::network::{Ending, Reading};
pub use self::seeds::each_seed;
pub use self::simulation::{Peer, Simulation};
