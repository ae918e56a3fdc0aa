//! Code that the rival servers share: their flags, and a single-threaded accept loop for those on tokio.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// A server to measure. It runs until the process is killed
#[derive(Parser)]
pub struct Flags {
    /// The port on 127.0.0.1 to listen on
    port: u16,
    /// The number of bytes that an echo server reads at once, if it has a choice
    #[arg(long, default_value_t = 4096)]
    pub buffer: usize,
}

impl Flags {
    /// Returns the address to listen on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

/// Serves all connections with `serve` on tokio, on this thread.
///
/// # Errors
///
/// If the server cannot listen or accept.
pub fn listen<F: Future<Output = ()> + 'static>(
    addr: SocketAddr,
    serve: impl Fn(TcpStream) -> F,
) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = TcpListener::bind(addr).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(serve(stream));
        }
    })
}
