//! `epicycle load`: a load generator. Try `epicycle load tcp://127.0.0.1:9000` against the example `echo`.
//!
//! Each reactor has a share of the connections and of the rate, and its own counters. They are added up at the end.

mod driver;
mod flags;
mod page;
mod plan;
mod progress;
mod report;
mod tally;
mod target;
mod wire;

use std::error::Error;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

#[cfg(feature = "kcp")]
use epicycle::Endpoint;
use epicycle::{Client, Engine};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::driver::{Driver, Event, Live};
pub(crate) use self::flags::Flags;
use self::plan::Plan;
use self::progress::Progress;
use self::report::Report;
use self::tally::Tally;
use self::target::Protocol;
use self::wire::Wire;

/// The most bytes that may wait on a connection in each direction. The limits of the plan are lower.
const MOST_HELD: usize = 512 << 20;

/// The most descriptors that the process needs besides its connections.
const OTHER_DESCRIPTORS: usize = 100;

/// The exit code of a program that was ended by ctrl-c.
const INTERRUPTED: i32 = 130;

/// The time between the start command to the reactors and the start.
const LEAD: Duration = Duration::from_millis(10);

/// Measures and reports. Fails if there were no answers, or more errors than allowed.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let plan = Arc::new(Plan::new(flags)?);
    if let Some(file) = &flags.report {
        is_writable(file).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    make_room_for(plan.connections)?;
    let (tally, interrupted) = match plan.protocol {
        Protocol::Echo => measure(&plan, wire::Echo::new(plan.size)),
        Protocol::LengthField => measure(&plan, wire::Framed::new(plan.size)?),
        Protocol::Http => measure(&plan, wire::Http::new(&plan)?),
        Protocol::Ws => measure(&plan, wire::Ws::new(&plan)),
        #[cfg(feature = "kcp")]
        Protocol::Cluster if matches!(plan.target.addr, Endpoint::Udp { .. }) => {
            measure(&plan, wire::OverKcp::packets(plan.size))
        }
        Protocol::Cluster => measure(&plan, wire::Framed::packets(plan.size)?),
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
        eprintln!("epicycle load: {errors} errors, but --max-errors allows only {most}");
    }
    match tally.answers() > 0 && tally.errors() <= flags.max_errors {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// Checks before the measurement that the report can be written after it.
fn is_writable(file: &Path) -> io::Result<()> {
    let existed = file.exists();
    OpenOptions::new().append(true).create(true).open(file)?;
    if existed {
        Ok(())
    } else {
        fs::remove_file(file)
    }
}

/// Raises the limit on descriptors to the number that the connections need.
fn make_room_for(connections: usize) -> Result<(), String> {
    let needed = (connections + OTHER_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < needed) {
        let most = limit.maximum.unwrap_or(u64::MAX);
        return Err(format!(
            "--connections {connections} needs as many descriptors, but this process may have only {most}; \
             raise the limit (ulimit -Hn), or run several of these"
        ));
    }
    if limit.current.is_some_and(|current| current < needed) {
        let current = limit.maximum;
        setrlimit(Resource::Nofile, Rlimit { current, ..limit })
            .map_err(|error| format!("cannot raise the limit on descriptors: {error}"))?;
    }
    Ok(())
}

/// Executes the plan. Returns the sum of the reactors' counters, and true if the run was interrupted.
fn measure<W: Wire>(plan: &Arc<Plan>, wire: W) -> Result<(Tally, bool), Box<dyn Error>> {
    let (events, reports) = channel();
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
        reports: &reports,
        plan,
    };
    let result = crew
        .connect(|| progress.connecting(&live))
        .and_then(|epoch| crew.collect(epoch, || progress.show(epoch, &live)));
    progress.end();
    engine.shutdown_within(Duration::from_millis(500));
    running.join();
    result
}

/// Controls the reactors from the main thread.
struct Crew<'a, W: Wire> {
    engine: &'a Engine<Driver<W>>,
    reports: &'a Receiver<Event>,
    plan: &'a Plan,
}

impl<W: Wire> Crew<'_, W> {
    /// Waits for the connections and starts the run. Calls `show` from time to time. Returns the start of the run.
    fn connect(&mut self, mut show: impl FnMut()) -> Result<Instant, Box<dyn Error>> {
        let (mut ready, mut why, mut settled) = (0, None, 0);
        while settled < self.plan.reactors {
            match self.reports.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Ready(connections, failure)) => {
                    settled += 1;
                    ready += connections;
                    why = why.or(failure);
                }
                Ok(Event::Interrupt | Event::Done(_)) => {
                    return Err("interrupted before the connections were made".into());
                }
                Err(RecvTimeoutError::Timeout) => show(),
                Err(RecvTimeoutError::Disconnected) => return Err("a reactor has died".into()),
            }
        }
        let (to, all) = (&self.plan.target.addr, self.plan.connections);
        if let Some(why) = why {
            if ready == 0 {
                return Err(format!("cannot connect to {to}: {why}").into());
            }
            eprintln!(
                "epicycle load: only {ready} of {all} connections to {to} are open ({why}); continuing with these"
            );
        }
        let epoch = Instant::now() + LEAD;
        for reactor in 0..self.plan.reactors {
            self.engine
                .run_on(reactor, move |driver, _| driver.begin(epoch))?;
        }
        Ok(epoch)
    }

    /// Waits for the end of the run. Calls `show` from time to time.
    fn collect(
        &mut self,
        epoch: Instant,
        mut show: impl FnMut(),
    ) -> Result<(Tally, bool), Box<dyn Error>> {
        let (mut total, mut done, mut interrupted) = (None::<Tally>, 0, false);
        while done < self.plan.reactors {
            match self.reports.recv_timeout(Duration::from_millis(50)) {
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
        let total = total.ok_or("no reactor has reported its counters")?;
        Ok((total, interrupted))
    }
}
