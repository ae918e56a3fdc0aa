//! An echo server whose work on a line takes a second. A worker pool does the work, so that no reactor blocks.
//! Try `nc 127.0.0.1 9000` from several terminals.

mod util;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Lines;
use epicycle::{Action, Conn, ConnInfo, EventHandler, WorkerPool};

/// An echo server of lines that does slow work in a worker pool
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
    /// The duration of the work on a line: 500ms, 1s, 2m
    #[arg(long, default_value = "1s", value_parser = util::period)]
    work: Duration,
    /// The number of worker threads
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
    /// The number of lines that may wait for a worker thread
    #[arg(long, value_name = "N", default_value_t = 100)]
    queue: usize,
}

struct Slow {
    pool: WorkerPool,
    work: Duration,
}

impl EventHandler for Slow {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, _session: &mut (), line: &[u8]) -> Action {
        // Runs if the answer is dropped: the pool was full, or the job panicked.
        let answer = conn.defer_answer().if_dropped(|_, conn, ()| {
            if conn.send("sorry: too busy, or out of order").is_err() {
                conn.close();
            }
        });
        let line = line.to_vec();
        let work = self.work;
        let job = move || {
            thread::sleep(work);
            // Fails if the client has disconnected, and then no answer is needed.
            let _ = answer.send(line);
        };
        // Jobs with the same key run in order, so this connection's answers are in order too.
        if let Err(rejected) = self.pool.submit_ordered(conn.id().as_u64(), job) {
            log::warn!("{}: {rejected}", conn.peer_addr());
        }
        Action::Continue
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let pool = WorkerPool::builder()
        .threads(flags.workers)
        .queue(flags.queue);
    let pool = match pool.build() {
        Ok(pool) => pool,
        Err(error) => return util::fail("blocking", error),
    };
    let work = flags.work;
    let make = move |_reactor| Slow {
        pool: pool.clone(),
        work,
    };
    util::run("blocking", flags.listen.server(), make)
}
