//! A TCP echo on tokio, as its documentation shows it, on the `current_thread` runtime.

use std::error::Error;

use clap::Parser;
use rivals::Flags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(flags.addr()).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(echo(stream, flags.buffer));
        }
    })
}

async fn echo(mut stream: TcpStream, buffer: usize) {
    let mut buffer = vec![0; buffer];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                if stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
