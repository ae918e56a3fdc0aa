//! A TCP echo on monoio, as its documentation shows it, over io_uring or over epoll.

use std::error::Error;
use std::io;

use clap::Parser;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use rivals::Flags;

#[derive(Parser)]
struct Driven {
    #[command(flatten)]
    flags: Flags,
    /// Uses epoll, which monoio calls its legacy driver
    #[arg(long)]
    epoll: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Driven { flags, epoll } = Driven::parse();
    if epoll {
        let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
        runtime.block_on(serve(&flags))?;
    } else {
        // Room for one completion of each connection.
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(4096)
            .build()?;
        runtime.block_on(serve(&flags))?;
    }
    Ok(())
}

async fn serve(flags: &Flags) -> io::Result<()> {
    let options = ListenerOpts::new().reuse_port(false).backlog(1024);
    let listener = TcpListener::bind_with_config(flags.addr(), &options)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(echo(stream, flags.buffer));
    }
}

async fn echo(mut stream: TcpStream, buffer: usize) {
    let mut buffer = Vec::with_capacity(buffer);
    let mut result;
    loop {
        (result, buffer) = stream.read(buffer).await;
        if !matches!(result, Ok(1..)) {
            return;
        }
        (result, buffer) = stream.write_all(buffer).await;
        if result.is_err() {
            return;
        }
        buffer.clear();
    }
}
