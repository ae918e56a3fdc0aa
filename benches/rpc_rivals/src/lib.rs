//! Code that the rivals share: their flags, and the load that their own clients make.

pub mod canned;
mod client;
mod generated;
pub mod http2;
pub mod thrift;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use rpc_bench::load::{self, Dialogue, Flags};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

pub use self::client::Caller;
pub use self::generated::{capnp as benchmark_capnp, protobuf, volo_protobuf, volo_thrift};

pub type Failure = Box<dyn Error + Send + Sync>;

/// A server to measure, and two loads for it
#[derive(Parser)]
enum Command {
    /// Serves on 127.0.0.1, with one thread, until the process is killed
    Serve {
        /// The port
        port: u16,
    },
    /// Loads a server with messages that are encoded beforehand, and measures the cost to the server
    Load(Flags),
    /// Does the same with the client of this framework, in one thread
    Client(Flags),
}

/// Reads the flags, and serves or loads.
///
/// # Errors
///
/// If the server cannot listen, or the load fails.
pub fn run<D: Dialogue, C: Caller + 'static>(
    serve: impl AsyncFnOnce(TcpListener) -> Result<(), Failure>,
    dialogue: impl FnOnce() -> Result<D, Failure>,
    connect: impl AsyncFn(SocketAddr) -> Result<C, Failure>,
) -> Result<(), Box<dyn Error>>
where
    D: Clone,
{
    match Command::parse() {
        // tokio's backlog is 1,024.
        Command::Serve { port } => on_one_thread(async {
            serve(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?).await
        }),
        Command::Load(flags) => {
            let dialogue = dialogue().map_err(|error| -> Box<dyn Error> { error })?;
            load::run_with(&flags, |_| dialogue.clone())
        }
        Command::Client(flags) => {
            load::end_in_time();
            on_one_thread(client::load(&flags, connect))
        }
    }
}

/// Runs a future on tokio, on this thread.
fn on_one_thread(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = LocalSet::new().block_on(&runtime, future);
    done.map_err(|error| -> Box<dyn Error> { error })
}

/// Checks what the handler sets.
///
/// # Errors
///
/// If a reply has something else.
pub fn check(field1: &str, field2: i32) -> Result<(), Failure> {
    if (field1, field2) == ("OK", 100) {
        return Ok(());
    }
    Err(format!("the server answers {field1:?} and {field2}").into())
}
