//! What the rival servers share: one thread, one listener on a port of the kernel's choice.

use std::error::Error;
use std::io::{Write, stdout};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// Says where the server called `name` listens, then serves every connection with `serve`, all on this thread.
///
/// It goes on until the process is ended.
///
/// # Errors
///
/// When there is no listening, or no accepting any more.
pub fn listen<F: Future<Output = ()> + 'static>(
    name: &str,
    serve: impl Fn(TcpStream) -> F,
) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{name} listens on {}", listener.local_addr()?);
        stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(serve(stream));
        }
    })
}
