//! A plugin that counts: it prints the calls and pushes of each second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use epicycle::rpc::{Hooks, Incoming, Peer, Plugin, Router, Status};

use crate::Outcome;

#[derive(Args)]
pub(crate) struct Flags {
    /// The seconds to run
    #[arg(long, value_name = "N", default_value_t = 2)]
    seconds: u64,
}

/// Counts the calls and pushes that arrive. [`Peer::stats`] counts them by route, at no cost of yours.
#[derive(Clone, Default)]
struct Count(Arc<Counters>);

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    pushes: AtomicU64,
}

impl Plugin for Count {
    fn name(&self) -> &str {
        "count"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER | Hooks::POST_READ_PUSH_HEADER
    }

    fn post_read_call_header(&self, _call: &mut Incoming<'_>) -> Result<(), Status> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn post_read_push_header(&self, _push: &mut Incoming<'_>) -> Result<(), Status> {
        self.0.pushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) fn run(flags: &Flags) -> Outcome {
    let count = Count::default();
    let mut routes = Router::new();
    routes.call("add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.push("note", |_ctx, _: String| Ok(()));
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .plugin(count.clone())
        .start()?;

    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    let busy = thread::spawn(move || {
        while session.call::<_, i64>("/add", &[1, 2]).wait().is_ok() {
            let _ = session.push("/note", "done");
        }
    });
    for _ in 0..flags.seconds {
        thread::sleep(Duration::from_secs(1));
        let calls = count.0.calls.swap(0, Ordering::Relaxed);
        let pushes = count.0.pushes.swap(0, Ordering::Relaxed);
        println!("{calls} calls and {pushes} pushes in a second");
    }
    server.shutdown();
    let _ = busy.join();
    Ok(())
}
