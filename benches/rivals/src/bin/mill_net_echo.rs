//! A TCP echo on mill-net, as its documentation shows it. It uses the mode that is recommended for fast handlers: they run on
//! the loop's own thread.

use std::error::Error;
use std::sync::Arc;

use clap::Parser;
use mill_io::EventLoop;
use mill_io::error::Result as Handled;
use mill_net::tcp::config::TcpServerConfig;
use mill_net::tcp::traits::{ConnectionId, NetworkHandler};
use mill_net::tcp::{ServerContext, TcpServer};
use rivals::Flags;

struct Echo;

impl NetworkHandler for Echo {
    fn on_data(&self, context: &ServerContext, peer: ConnectionId, bytes: &[u8]) -> Handled<()> {
        context.send_to(peer, bytes)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let event_loop = Arc::new(EventLoop::new_low_latency(1024, 150)?);
    let config = TcpServerConfig::builder()
        .address(flags.addr())
        .buffer_size(flags.buffer)
        .build();
    let server = Arc::new(TcpServer::new(config, Echo)?);
    server.start(&event_loop, event_loop.alloc_token())?;
    event_loop.run()
}
