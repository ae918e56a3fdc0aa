//! The load that a framework's own client makes, in one thread: serial calls on each connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rpc_bench::load::{Flags, Meter, latencies};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Failure;

/// A client with a connection of its own.
pub trait Caller {
    /// Calls, and checks the reply.
    fn call(&mut self) -> impl Future<Output = Result<(), Failure>>;
}

struct Shared {
    is_over: Cell<bool>,
    latencies: RefCell<Histogram<u64>>,
}

/// Loads a server with clients that `connect` makes, and prints the figures.
pub(crate) async fn load<C: Caller + 'static>(
    flags: &Flags,
    connect: impl AsyncFn(SocketAddr) -> Result<C, Failure>,
) -> Result<(), Failure> {
    let shared = Rc::new(Shared {
        is_over: Cell::new(false),
        latencies: RefCell::new(latencies()),
    });
    let mut callers = JoinSet::new();
    for _ in 0..flags.connections {
        let mut client = connect(flags.addr()).await?;
        client.call().await?;
        callers.spawn_local(call_in_turn(client, Rc::clone(&shared)));
    }
    let ended = async {
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        Ok::<_, Failure>(())
    };
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => return ended,
        () = sleep(Duration::from_secs_f64(flags.warm_up)) => {}
    }
    shared.latencies.borrow_mut().reset();
    let mut meter = Meter::begin(flags.pid).map_err(|error| error.to_string())?;
    tokio::select! {
        ended = &mut ended => return ended,
        () = sleep(Duration::from_secs_f64(flags.seconds)) => {}
    }
    meter.latencies.add(&*shared.latencies.borrow())?;
    println!("{}", meter.report().map_err(|error| error.to_string())?);
    shared.is_over.set(true);
    ended.await
}

async fn call_in_turn(mut client: impl Caller, shared: Rc<Shared>) -> Result<(), Failure> {
    while !shared.is_over.get() {
        let since = Instant::now();
        client.call().await?;
        let took = since.elapsed().as_nanos() as u64;
        shared.latencies.borrow_mut().saturating_record(took);
    }
    Ok(())
}
