//! A load generator. Try `load tcp://127.0.0.1:9000` against the example `echo`, and `load --help`.
//!
//! Each reactor has a share of the connections and of the rate, and counts by itself; the counts are added up at the end.

mod driver;
mod flags;
mod page;
mod plan;
mod progress;
mod report;
mod tally;
mod target;
#[path = "../util/mod.rs"]
mod util;
mod wire;

use std::error::Error;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use epicycle::{Client, Engine};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::driver::{Driver, Event, Live};
use self::flags::Flags;
use self::plan::Plan;
use self::progress::Progress;
use self::report::Report;
use self::tally::Tally;
use self::target::Protocol;
use self::wire::Wire;

/// As many bytes may wait on a connection, either way; the plan asks for fewer.
const MOST_HELD: usize = 512 << 20;

/// The exit code of a program that ctrl-c has ended.
const INTERRUPTED: i32 = 130;

/// The reactors are told of the beginning so long before it.
const LEAD: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => util::fail("load", error),
    }
}

/// Measures and reports; false when more went wrong than is forgiven.
fn run(flags: &Flags) -> Result<bool, Box<dyn Error>> {
    util::log_to_stderr();
    let plan = Arc::new(Plan::new(flags)?);
    let (tally, interrupted) = match plan.protocol {
        Protocol::Echo => measure(&plan, wire::Echo::new(plan.size)),
        Protocol::LengthField => measure(&plan, wire::Framed::new(plan.size)?),
        Protocol::Http => measure(&plan, wire::Http::new(&plan)?),
        Protocol::Ws => measure(&plan, wire::Ws::new(&plan)),
    }?;
    let report = Report::new(&plan, &tally, interrupted);
    if flags.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    if let Some(file) = &flags.report {
        fs::write(file, page::render(&report))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    if tally.errors() > flags.max_errors {
        let (errors, most) = (tally.errors(), flags.max_errors);
        eprintln!("load: {errors} errors, where --max-errors forgives {most}");
    }
    Ok(tally.answers() > 0 && tally.errors() <= flags.max_errors)
}

/// Does what is planned, and adds up what the reactors have counted; and whether it was interrupted.
fn measure<W: Wire>(plan: &Arc<Plan>, wire: W) -> Result<(Tally, bool), Box<dyn Error>> {
    let (events, told) = channel();
    let interrupt = events.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if interrupt.send(Event::Interrupt).is_err() {
                exit(INTERRUPTED);
            }
        }
    });
    let mut progress = Progress::new(plan);
    let live = Arc::<Live>::default();
    let client = Client::new()
        .reactors(plan.reactors)
        .tick(Duration::from_millis(1))
        .outbound_limit(MOST_HELD)
        .max_frame(MOST_HELD)
        .fin_timeout(Duration::from_millis(500));
    let (shared_plan, shared_live) = (plan.clone(), live.clone());
    let running = client.start(move |reactor| {
        let (plan, live) = (shared_plan.clone(), shared_live.clone());
        Driver::new(wire.clone(), plan, reactor, events.clone(), live)
    })?;
    let engine = running.engine().clone();
    let mut crew = Crew {
        engine: &engine,
        told: &told,
        plan,
    };
    let result = crew
        .connect()
        .and_then(|epoch| crew.collect(epoch, || progress.show(epoch, &live)));
    progress.end();
    engine.shutdown_within(Duration::from_millis(500));
    running.join();
    result
}

/// The reactors, as the main thread sees them.
struct Crew<'a, W: Wire> {
    engine: &'a Engine<Driver<W>>,
    told: &'a Receiver<Event>,
    plan: &'a Plan,
}

impl<W: Wire> Crew<'_, W> {
    /// Waits for the connections, and begins.
    fn connect(&mut self) -> Result<Instant, Box<dyn Error>> {
        let (mut ready, mut why) = (0, None);
        for _ in 0..self.plan.reactors {
            match self.told.recv()? {
                Event::Ready(connections, failure) => {
                    ready += connections;
                    why = why.or(failure);
                }
                Event::Interrupt | Event::Done(_) => {
                    return Err("interrupted before the connections were made".into());
                }
            }
        }
        let (to, all) = (&self.plan.target.addr, self.plan.connections);
        if let Some(why) = why {
            if ready == 0 {
                return Err(format!("cannot connect to {to}: {why}").into());
            }
            eprintln!(
                "load: {ready} of {all} connections to {to} are made: {why}; going on with them"
            );
        }
        let epoch = Instant::now() + LEAD;
        for reactor in 0..self.plan.reactors {
            self.engine
                .run_on(reactor, move |driver, _| driver.begin(epoch))?;
        }
        Ok(epoch)
    }

    /// Waits for the end, calling `show` now and then.
    fn collect(
        &mut self,
        epoch: Instant,
        mut show: impl FnMut(),
    ) -> Result<(Tally, bool), Box<dyn Error>> {
        let (mut total, mut done, mut interrupted) = (None::<Tally>, 0, false);
        while done < self.plan.reactors {
            match self.told.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Done(tally)) => {
                    done += 1;
                    match &mut total {
                        Some(total) => total.add(&tally),
                        None => total = Some(*tally),
                    }
                }
                Ok(Event::Interrupt) if interrupted => exit(INTERRUPTED),
                Ok(Event::Interrupt) => {
                    interrupted = true;
                    let now = epoch.elapsed().as_nanos() as u64;
                    for reactor in 0..self.plan.reactors {
                        self.engine
                            .run_on(reactor, move |driver, _| driver.interrupt(now))?;
                    }
                }
                Ok(Event::Ready(..)) | Err(RecvTimeoutError::Timeout) => show(),
                Err(RecvTimeoutError::Disconnected) => return Err("a reactor has died".into()),
            }
        }
        let total = total.ok_or("nothing was counted")?;
        Ok((total, interrupted))
    }
}
