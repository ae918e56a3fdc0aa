//! The settings of an engine: its options, checked and in the units that the engine uses.

use std::thread;
use std::time::Duration;

use super::options::{AcceptMode, BalanceChoice, KIB, MIB, Options};
use crate::clock::millis;
use crate::engine::conn::limits::{Budgets, Limits, at_least_one, bad};
use crate::engine::connect::resolve::LookupOptions;
use crate::engine::listen::admission::{Admission, Prefix};
use crate::engine::slots::MAX_REACTORS;
use crate::error::Error;
use crate::sys::affinity;
use crate::sys::options::SocketOptions;

/// The settings that an engine starts with. [`Settings::parse`] is the only constructor, so that each value is valid.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) accept_mode: AcceptMode,
    /// The number of reactors, from 1 to [`MAX_REACTORS`].
    pub(super) reactors: usize,
    pub(super) pin: bool,
    pub(super) balance: BalanceChoice,
    pub(super) socket: SocketOptions,
    pub(super) lookups: LookupOptions,
    /// The capacity of a mailbox, at least 1.
    pub(super) mailbox: usize,
    /// The size of a read buffer in bytes, from 16 KiB to 16 MiB.
    pub(super) read_buffer: usize,
    pub(super) budgets: Budgets,
    pub(super) limits: Limits,
    pub(super) admission: AdmissionLimits,
    pub(super) drain_deadline: Duration,
    pub(super) first_tick: Duration,
    pub(super) spin: Duration,
    #[cfg(feature = "signals")]
    pub(super) stop_on_signals: bool,
}

/// The limits on the number of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLimits {
    max: usize,
    max_per_ip: usize,
    prefix: Prefix,
}

/// The most lookup threads. A reactor starts all of them at the first name, and must not be blocked by that for long.
const MAX_LOOKUP_THREADS: usize = 256;

impl Settings {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] with the name of the first option that cannot work, and the remedy.
    pub(super) fn parse(options: Options) -> Result<Self, Error> {
        Ok(Self {
            lookups: lookups(&options)?,
            mailbox: at_least_one("mailbox", options.mailbox)?,
            reactors: reactors(&options)?,
            read_buffer: read_buffer(&options)?,
            budgets: budgets(&options)?,
            limits: options.limits.over(&Limits {
                drain: millis(options.drain_deadline),
                ..Limits::default()
            })?,
            admission: AdmissionLimits::parse(&options)?,
            pin: pin(&options)?,
            socket: socket(&options)?,
            accept_mode: options.accept_mode,
            balance: options.balance,
            drain_deadline: options.drain_deadline,
            first_tick: options.tick,
            spin: options.spin,
            #[cfg(feature = "signals")]
            stop_on_signals: options.stop_on_signals,
        })
    }
}

impl AdmissionLimits {
    fn parse(options: &Options) -> Result<Self, Error> {
        let (v4, v6) = options.per_ip_prefix;
        let max = at_least_one("max_connections", options.max_connections)?;
        let max_per_ip = at_least_one("max_connections_per_ip", options.max_connections_per_ip)?;
        let prefix = Prefix::new(v4, v6).ok_or_else(|| {
            let problem = format!("{v4} and {v6} bits are not from 1 to 32 and from 1 to 128");
            bad("per_ip_prefix", problem)
        })?;
        Ok(Self {
            max,
            max_per_ip,
            prefix,
        })
    }

    /// Returns a count of connections under these limits.
    pub(super) fn counter(self) -> Admission {
        Admission::new(self.max, self.max_per_ip, self.prefix)
    }
}

fn lookups(options: &Options) -> Result<LookupOptions, Error> {
    let lookups = &options.lookups;
    at_least_one("lookup_queue", lookups.queue)?;
    let threads = lookups.threads;
    if !(1..=MAX_LOOKUP_THREADS).contains(&threads) {
        let problem = format!("{threads} is not from 1 to {MAX_LOOKUP_THREADS}");
        return Err(bad("lookup_threads", problem));
    }
    Ok(lookups.clone())
}

fn reactors(options: &Options) -> Result<usize, Error> {
    let single = options.accept_mode == AcceptMode::SingleLoop;
    match options.reactors {
        None if single => Ok(1),
        None => Ok(cores().min(MAX_REACTORS)),
        Some(reactors) if !(1..=MAX_REACTORS).contains(&reactors) => Err(bad(
            "reactors",
            format!("{reactors} is not from 1 to {MAX_REACTORS}; leave it out for one per core"),
        )),
        Some(reactors @ 2..) if single => Err(bad(
            "accept_mode",
            format!(
                "a single loop is one reactor, and {reactors} are asked for; leave one of the two out"
            ),
        )),
        Some(reactors) => Ok(reactors),
    }
}

fn read_buffer(options: &Options) -> Result<usize, Error> {
    let size = options.read_buffer;
    if !(16 * KIB..=16 * MIB).contains(&size) {
        let problem = format!("{size} bytes is not from 16 KiB to 16 MiB");
        return Err(bad("read_buffer", problem));
    }
    Ok(size)
}

fn budgets(options: &Options) -> Result<Budgets, Error> {
    Ok(Budgets {
        bytes: at_least_one("read_budget", options.read_budget)?,
        frames: at_least_one("frame_budget", options.frame_budget)?,
    })
}

fn pin(options: &Options) -> Result<bool, Error> {
    if options.pin && !affinity::SUPPORTED {
        let problem = "this platform cannot pin threads".to_owned();
        return Err(bad("pin_to_cpus", problem));
    }
    Ok(options.pin)
}

fn socket(options: &Options) -> Result<SocketOptions, Error> {
    let socket = &options.socket;
    if socket.backlog < 1 {
        let problem = "0 would queue nobody; use 1 or more".to_owned();
        return Err(bad("backlog", problem));
    }
    if let Some((name, problem)) = socket.problem() {
        return Err(bad(name, problem));
    }
    Ok(SocketOptions {
        reuse_port: options.accept_mode == AcceptMode::ReusePort,
        ..socket.clone()
    })
}

/// Returns the number of processors that the process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
