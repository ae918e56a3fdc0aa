//! Load: each client calls again when its last call has been answered. All by callbacks, so one thread serves all clients.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use epicycle::Endpoint;
use epicycle::rpc::{Peer, Router, Session, Status};
use hdrhistogram::Histogram;

use crate::Outcome;

#[derive(Args)]
pub(crate) struct Flags {
    /// The peer to call, which must serve /math/add. Without it, one in this process
    #[arg(long, value_name = "ADDR")]
    to: Option<Endpoint>,
    /// The number of clients
    #[arg(long, value_name = "N", default_value_t = 10)]
    clients: usize,
    /// The number of calls of each client
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    calls: u64,
}

/// One client: a session, and the calls that it has yet to make.
struct Client {
    session: Session,
    left: u64,
    micros: Histogram<u64>,
    tell: mpsc::Sender<Result<Histogram<u64>, Status>>,
}

impl Client {
    fn call(mut self) {
        if self.left == 0 {
            let _ = self.tell.send(Ok(self.micros));
            return;
        }
        self.left -= 1;
        let begun = Instant::now();
        let session = self.session.clone();
        session
            .call("/math/add", &[1, 2, 3])
            .then(move |sum: Result<i64, Status>| match sum {
                Ok(_) => {
                    self.micros.saturating_record(micros(begun.elapsed()));
                    self.call();
                }
                Err(status) => {
                    let _ = self.tell.send(Err(status));
                }
            });
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn run(flags: &Flags) -> Outcome {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;
    let to = match &flags.to {
        Some(to) => to.clone(),
        None => Endpoint::try_from(&server.local_addrs()[0])?,
    };

    let peer = Peer::builder().reactors(1).start()?;
    let (tell, told) = mpsc::channel();
    let mut clients = Vec::new();
    for _ in 0..flags.clients {
        clients.push(Client {
            session: peer.dial(to.clone())?,
            left: flags.calls,
            micros: Histogram::new(3)?,
            tell: tell.clone(),
        });
    }
    drop(tell);
    let begun = Instant::now();
    for client in clients {
        client.call();
    }
    let mut all = Histogram::<u64>::new(3)?;
    for micros in told {
        all.add(micros?)?;
    }
    let took = begun.elapsed();
    println!(
        "{} calls of {} clients in {took:.2?}: {:.0} a second; median {} µs, 99% {} µs, longest {} µs",
        all.len(),
        flags.clients,
        all.len() as f64 / took.as_secs_f64(),
        all.value_at_quantile(0.5),
        all.value_at_quantile(0.99),
        all.max(),
    );
    Ok(())
}
