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
//! It comes with the feature `testing`, which only tests need:
//!
//! ```toml
//! [dev-dependencies]
//! epicycle = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # One's own handler
//!
//! A test plays the peers: it sends bytes, lets time pass, and looks at what came back and at the handler. On a network that breaks
//! connections, what can be relied upon is less: a peer has received a part, from the start, and all of it if it saw the stream's end.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::codec::Lines;
//! use epicycle::testing::{Ending, Link, Simulation, each_seed};
//! use epicycle::{Action, CloseReason, Closed, Conn, EventHandler, Server};
//!
//! /// Answers each number with the sum so far.
//! #[derive(Default)]
//! struct Adder {
//!     open: usize,
//! }
//!
//! impl EventHandler for Adder {
//!     type Codec = Lines;
//!     type Session = u64;
//!
//!     fn codec(&mut self) -> Lines {
//!         Lines::new()
//!     }
//!
//!     fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<u64> {
//!         self.open += 1;
//!         Some(0)
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, sum: &mut u64, line: &[u8]) -> Action {
//!         let Some(number) = std::str::from_utf8(line).ok().and_then(|line| line.parse::<u64>().ok()) else {
//!             return Action::Close;
//!         };
//!         *sum += number;
//!         conn.write(format!("{sum}\n").as_bytes()).into()
//!     }
//!
//!     fn on_close(&mut self, _: &Closed, _: u64, _: CloseReason) {
//!         self.open -= 1;
//!     }
//! }
//!
//! each_seed(0..50, |seed| {
//!     let link = Link::hostile().resets(20);
//!     let mut sim = Simulation::new(seed, link, Server::bind("tcp://:9000"), |_| Adder::default()).unwrap();
//!     let peers: Vec<_> = (0..10).map(|_| sim.connect()).collect();
//!     for peer in &peers {
//!         sim.send(*peer, "1\n20\n300\n");
//!         sim.shutdown(*peer);
//!     }
//!     sim.run_for(Duration::from_secs(60));
//!     for peer in peers {
//!         assert!(b"1\n21\n321\n".starts_with(sim.received(peer)));
//!         match sim.ending(peer) {
//!             Ending::Finished => assert_eq!(sim.received(peer).len(), 9),
//!             ending => assert_eq!(ending, Ending::Reset),
//!         }
//!     }
//!     assert_eq!(sim.handler().open, 0);
//! });
//! ```
//!
//! Time is virtual for the handler too, if it asks for it: [`Conn::now`](crate::Conn::now), and the same of a `Reactor`, tells the
//! simulation's. [`Instant::now`](std::time::Instant::now) does not: it tells what the test itself takes. [`spend`] makes a callback
//! take time.
//!
//! What a codec makes of an item, [`encode_to_vec`](crate::codec::encode_to_vec) tells; so a client's codec can be the peer of a
//! server's handler, and the other way round: a handler whose codec is a client's asks what a test answers.
//!
//! # When a seed fails
//!
//! It prints itself: `seed 17 of sums fails; to replay it, run that test with EPICYCLE_SEED=17`. With a logger, which the test sets up
//! (`env_logger::init()` say), `RUST_LOG=epicycle=trace` shows every event, call and segment with its virtual time, under the target
//! `epicycle::testing`. To try more seeds, set `EPICYCLE_SEEDS=100000`; what they amounted to is on standard error, which
//! `cargo test -- --nocapture` shows.

mod seeds;
mod simulation;

pub use self::seeds::each_seed;
pub use self::simulation::{Peer, Simulation, spend};
pub use crate::simnet::link::Link;
pub use crate::simnet::network::{Ending, Reading};
