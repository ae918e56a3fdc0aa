//! What the rival servers share: their flags, and for those on tokio one thread with one listener.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// A server to measure. It goes on until the process is ended.
#[derive(Parser)]
pub struct Flags {
    /// The port on 127.0.0.1 to listen on
    port: u16,
    /// How many bytes an echo server reads at once, where it lets one choose
    #[arg(long, default_value_t = 4096)]
    pub buffer: usize,
}

impl Flags {
    /// Where to listen.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

/// Serves every connection with `serve`, all on this thread, on tokio.
///
/// # Errors
///
/// When there is no listening, or no accepting any more.
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
