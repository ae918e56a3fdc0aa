//! A simulated network and virtual time, for tests of handlers and codecs: thousands of connections a second, under
//! conditions that can be repeated exactly.
//!
//! A [`Simulation`] runs the engine's own event loop, with your handler and codec, in memory. A [`World`] runs several engines
//! that connect to each other: client, proxy and origin, each with its own address, options and type of handler. Their sockets
//! do everything that the socket interface allows: reads end anywhere, writes are cut short or refused, events come in any order and more often
//! than needed, and peers send FIN or RST at the worst moments. A seed decides all of it, so that a failure can be repeated.
//! Time is virtual: a minute of waiting for a timeout takes microseconds, and the timeout fires exactly when it is due.
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
//! It needs the feature `testing`, which only tests should turn on:
//!
//! ```toml
//! [dev-dependencies]
//! epicycle = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # Testing a handler
//!
//! A test acts as the peers: it sends bytes, lets time pass, and then checks the received bytes and the handler. On a network
//! that breaks connections, a test can rely on less: a peer has received the beginning of the output, and all of it if the
//! peer has seen the end of the stream.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::codec::Lines;
//! use epicycle::testing::{Ending, Link, Simulation, each_seed};
//! use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server};
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
//!     fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
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
//!     fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: u64, _: CloseReason) {
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
//! A handler sees virtual time through [`Conn::now`](crate::Conn::now) and [`Reactor::now`](crate::Reactor::now).
//! [`Instant::now`](std::time::Instant::now) is still the real time. [`spend`] makes a callback take virtual time.
//!
//! [`encode_to_vec`](crate::codec::encode_to_vec) returns the bytes of an encoded item. So a test can use a client's codec to
//! act as the peer of a server's handler. It can also test a handler with a client's codec, and act as the server.
//!
//! # Several engines
//!
//! Each engine of a [`World`] has a host of its own. Engines connect to each other and to listeners of the test, by address or
//! by name. Between two hosts, links may be slow, cut and healed; engines may be killed, crash and start again.
//! The page `docs/testing.md` of the package tests a proxy.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::testing::{Link, Resolution, World};
//! use epicycle::{Action, Client, Connect, Server, service};
//!
//! let mut world = World::new(1, Link::hostile()).unwrap();
//! let greet = |_reactor| service(|conn, name| {
//!     let greeting = [b"hello ", name].concat();
//!     conn.write(&greeting).into()
//! });
//! let server = world.start([192, 168, 0, 1], Server::bind("tcp://:9000"), greet).unwrap();
//! let client = world.start([192, 168, 0, 2], Client::new(), |_reactor| service(|_, _| Action::Close)).unwrap();
//! world.set_name("server.test", Resolution::to([server]));
//! world.engine(client).connect(Connect::to("tcp://server.test:9000")).unwrap();
//! world.run_for(Duration::from_secs(1));
//! assert_eq!(world.stats(server).connections, 1);
//!
//! world.kill(server);
//! world.run_for(Duration::from_secs(1));
//! assert_eq!(world.stats(client).connections, 0);
//! ```
//!
//! # Replaying a seed
//!
//! A seed that fails is printed: `seed 17 of sums fails; to replay it, run that test with EPICYCLE_SEED=17`.
//!
//! To see every event, call and segment with its virtual time, set up a logger in the test, for example with
//! `env_logger::init()`, and set `RUST_LOG=epicycle=trace`. The target is `epicycle::testing`.
//!
//! To try more seeds, set `EPICYCLE_SEEDS=100000`. The totals are printed on standard error, which
//! `cargo test -- --nocapture` shows.

mod names;
mod process;
mod seeds;
mod simulation;
mod world;

pub use self::names::Resolution;
pub use self::seeds::each_seed;
pub use self::simulation::{Simulation, spend};
pub use self::world::{Host, Peer, PeerListener, UdpPeer, World};
pub use crate::simnet::link::Link;
pub use crate::simnet::network::{Ending, Reading};
