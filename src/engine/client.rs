//! An engine that listens nowhere.

use std::time::Duration;

use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::connect::resolve::Resolve;
use crate::engine::handler::EventHandler;
use crate::engine::server::{Running, Server};
use crate::error::Error;

/// An engine without listeners. It serves connections that it [makes](crate::Engine::connect) or
/// [adopts](crate::Engine::adopt).
///
/// It has one reactor by default. A program that is both a server and a client needs no second engine, because the engine of
/// a [`Server`] can connect too.
///
/// ```
/// # use std::io::{Read, Write};
/// use epicycle::{Action, Client, Conn, ConnInfo, Connect, EventHandler};
/// use epicycle::codec::Lines;
///
/// struct Greeter;
///
/// impl EventHandler for Greeter {
///     type Codec = Lines;
///     type Session = ();
///
///     fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
///         Lines::new()
///     }
///
///     fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
///         conn.send("hello").ok()
///     }
///
///     fn react(&mut self, _conn: &mut Conn<'_, Self>, _: &mut (), line: &[u8]) -> Action {
///         assert_eq!(line, b"welcome");
///         Action::Shutdown
///     }
/// }
///
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
/// # let server = listener.local_addr().unwrap();
/// let running = Client::new().start(|_reactor| Greeter)?;
/// running.engine().connect(server).expect("the engine runs");
/// # let mut peer = listener.accept().unwrap().0;
/// # peer.read_exact(&mut [0; 6]).unwrap();
/// # peer.write_all(b"welcome\n").unwrap();
/// # drop(peer);
/// running.join();
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a client does nothing until it is started"]
pub struct Client {
    engine: Server,
}

/// Defines options that a server has too.
macro_rules! options {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        impl Client {
            $(
                #[doc = concat!("Sets the option as [`Server::", stringify!($name), "`] does.")]
                pub fn $name(mut self, $($argument: $type),*) -> Self {
                    self.engine = self.engine.$name($($argument),*);
                    self
                }
            )*
        }
    };
}

options! {
    reactors(reactors: usize);
    pin_to_cpus(on: bool);
    mailbox(requests: usize);
    resolver(resolver: impl Resolve);
    lookup_threads(threads: usize);
    lookup_queue(names: usize);
    lookup_ttl(ttl: Duration);
    tick(first: Duration);
    spin(time: Duration);
    nodelay(on: bool);
    keepalive(idle: Duration, interval: Duration, count: u32);
    recv_buffer(bytes: usize);
    send_buffer(bytes: usize);
    read_buffer(bytes: usize);
    read_budget(bytes: usize);
    frame_budget(frames: usize);
    max_frame(bytes: usize);
    high_water(bytes: usize);
    low_water(bytes: usize);
    outbound_limit(bytes: usize);
    outbound_policy(policy: OutboundPolicy);
    max_queued_files(files: usize);
    idle_timeout(timeout: Duration);
    answer_timeout(timeout: Duration);
    read_timeout(timeout: Duration);
    write_stall_timeout(timeout: Duration);
    handshake_timeout(timeout: Duration);
    lifetime(lifetime: Duration);
    fin_timeout(timeout: Duration);
    drain_deadline(deadline: Duration);
}

impl Client {
    /// Creates a client with one reactor. All other options have the defaults of a server.
    pub fn new() -> Self {
        Self {
            engine: Server::unbound().reactors(1),
        }
    }

    /// Sets the option as [`Server::stop_on_signals`] does.
    #[cfg(feature = "signals")]
    pub fn stop_on_signals(mut self) -> Self {
        self.engine = self.engine.stop_on_signals();
        self
    }

    /// Starts the threads. Returns when every reactor has booted.
    ///
    /// The client runs until [`Engine::shutdown`](crate::Engine::shutdown), [`Running::shutdown`] or
    /// [`Action::Shutdown`](crate::Action::Shutdown), even without a connection.
    ///
    /// # Errors
    ///
    /// As for [`Server::start`].
    pub fn start<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, Error> {
        self.engine.start(factory)
    }
}

#[cfg(feature = "testing")]
impl From<Client> for Server {
    /// Returns the options of a client as those of a server that listens nowhere, for a simulation.
    fn from(client: Client) -> Self {
        client.engine
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}
