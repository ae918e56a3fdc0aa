//! The log of requests: reactors format lines, and one thread writes them.
//!
//! A reactor appends to a buffer of its own, and wakes the writer only if that was empty. The writer gathers for a moment before
//! it takes all buffers, so a busy reactor wakes it a few times a second, and no reactor ever waits for a disk.

mod format;
mod json;
mod texts;

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::format::Format;
use super::record::Record;
use super::settings::{AccessLog, LogTarget};
use crate::sys::files::open_to_append;

/// The time for which the writer gathers lines.
const GATHER: Duration = Duration::from_millis(50);

/// The time for which an end waits for the writer. A pipe may have a reader that does not read.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// The time between two warnings about the same log.
const QUIET: Duration = Duration::from_secs(10);

/// A log of requests, with its writer.
pub(super) struct Logger {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// The settings by which it was opened.
    settings: AccessLog,
}

/// The part of a reactor.
pub(super) struct Sink {
    shared: Arc<Shared>,
    buffer: Arc<Buffer>,
    format: Format,
    line: Vec<u8>,
}

struct Shared {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    buffers: Mutex<Vec<Arc<Buffer>>>,
    dropped: AtomicU64,
    written: AtomicU64,
    /// True once the writer has written everything.
    has_ended: Mutex<bool>,
    ended: Condvar,
}

/// The requests to the writer.
#[derive(Default)]
struct Wanted {
    lines: bool,
    reopen: bool,
    end: bool,
}

/// The lines of a reactor that wait for the writer.
struct Buffer {
    lines: Mutex<Vec<u8>>,
    /// The most bytes of the lines.
    max: usize,
    /// True once the writer was told of the lines.
    told: AtomicBool,
    /// True once its reactor logs no more.
    is_left: AtomicBool,
    dropped: AtomicU64,
}

impl Logger {
    /// Opens a log and starts its writer.
    ///
    /// # Errors
    ///
    /// Those of the file, and those of the thread.
    pub(super) fn open(settings: &AccessLog) -> io::Result<Self> {
        let out = Out::open(&settings.to)?;
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            wake: Condvar::new(),
            buffers: Mutex::default(),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            has_ended: Mutex::default(),
            ended: Condvar::new(),
        });
        let (ours, to) = (shared.clone(), settings.to.clone());
        let writer = thread::Builder::new()
            .name("epicycle-access".to_owned())
            .spawn(move || {
                write_all(&ours, out, &to);
                *ours.has_ended.lock() = true;
                ours.ended.notify_all();
            })?;
        Ok(Self {
            shared,
            writer: Some(writer),
            settings: settings.clone(),
        })
    }

    /// Returns the part of another reactor.
    pub(super) fn sink(&self) -> Sink {
        let buffer = Arc::new(Buffer {
            lines: Mutex::default(),
            max: self.settings.buffer,
            told: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        self.shared.buffers.lock().push(buffer.clone());
        Sink {
            shared: self.shared.clone(),
            buffer,
            format: Format::new(&self.settings.format),
            line: Vec::new(),
        }
    }

    /// Opens the file anew, once everything that was logged before is in the old one.
    pub(super) fn reopen(&self) {
        self.shared.ask(|wanted| wanted.reopen = true);
    }

    /// Returns the number of lines that were written.
    pub(super) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Returns the number of lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        let buffers = self.shared.buffers.lock();
        let each = buffers
            .iter()
            .map(|buffer| buffer.dropped.load(Ordering::Relaxed));
        let now: u64 = each.sum();
        now + self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// Writes what was logged before. A log that takes nothing for [`END_PATIENCE`] loses it.
impl Drop for Logger {
    fn drop(&mut self) {
        self.shared.ask(|wanted| wanted.end = true);
        let mut has_ended = self.shared.has_ended.lock();
        let writes_on = |has_ended: &mut bool| !*has_ended;
        let waited = (self.shared.ended).wait_while_for(&mut has_ended, writes_on, END_PATIENCE);
        if waited.timed_out() && !*has_ended {
            log::warn!(target: "epicycle::gateway::access", "the last lines of the access log are lost: its target takes none");
        } else if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Sink {
    /// Logs an exchange. If the writer does not keep up, the line is dropped and counted.
    pub(super) fn log(&mut self, record: &Record<'_>) {
        self.line.clear();
        self.format.write(record, &mut self.line);
        let is_half_full = {
            let mut lines = self.buffer.lines.lock();
            if lines.len() + self.line.len() > self.buffer.max {
                self.buffer.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            lines.extend_from_slice(&self.line);
            lines.len() > self.buffer.max / 2
        };
        if !self.buffer.told.swap(true, Ordering::AcqRel) {
            self.shared.ask(|wanted| wanted.lines = true);
        } else if is_half_full {
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn ask(&self, what: impl FnOnce(&mut Wanted)) {
        what(&mut self.wanted.lock());
        self.wake.notify_one();
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Wanted {
        let mut wanted = self.wanted.lock();
        while !wanted.lines && !wanted.reopen && !wanted.end {
            self.wake.wait(&mut wanted);
        }
        if !wanted.reopen && !wanted.end {
            // A wake-up here means that a buffer is half full, or one of the others.
            self.wake.wait_for(&mut wanted, GATHER);
        }
        std::mem::take(&mut wanted)
    }

    /// Takes the lines of all reactors.
    fn take(&self, into: &mut Vec<u8>) {
        self.buffers.lock().retain(|buffer| {
            let is_left = buffer.is_left.load(Ordering::Acquire);
            // Lines that come from now on are told again.
            buffer.told.store(false, Ordering::Release);
            let mut lines = buffer.lines.lock();
            into.extend_from_slice(&lines);
            lines.clear();
            // A burst is over at some time.
            lines.shrink_to(64 << 10);
            if is_left {
                let dropped = buffer.dropped.load(Ordering::Relaxed);
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
            !is_left
        });
    }
}

/// The writer takes what is left.
impl Drop for Sink {
    fn drop(&mut self) {
        self.buffer.is_left.store(true, Ordering::Release);
        self.shared.ask(|wanted| wanted.lines = true);
    }
}

/// The open log.
struct Out {
    to: Target,
    /// True if the end of the last line was not written.
    is_broken: bool,
}

enum Target {
    Stdout,
    File(File),
}

impl Out {
    fn open(to: &LogTarget) -> io::Result<Self> {
        let opened = match to {
            LogTarget::Stdout => Ok(Target::Stdout),
            LogTarget::File(path) => open_to_append(path).map(Target::File).map_err(|error| {
                let problem = format!("cannot open the log {}: {error}", path.display());
                io::Error::new(error.kind(), problem)
            }),
        };
        opened.map(|to| Self {
            to,
            is_broken: false,
        })
    }

    /// Writes lines. Returns the number of those that were written, and the error that ended it.
    fn write(&mut self, lines: &[u8]) -> (u64, io::Result<()>) {
        let mut written = 0;
        let result = self.write_from(lines, &mut written);
        let done = &lines[..written];
        if let Some(last) = done.last() {
            self.is_broken = *last != b'\n';
        }
        (memchr::memchr_iter(b'\n', done).count() as u64, result)
    }

    fn write_from(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.is_broken {
            // The next line begins where a line does.
            self.to.write(b"\n")?;
            self.is_broken = false;
        }
        while *written < lines.len() {
            match self.to.write(&lines[*written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match &self.to {
            Target::Stdout => io::stdout().flush(),
            Target::File(_) => Ok(()),
        }
    }
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => io::stdout().write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }
}

/// The work of the writer.
fn write_all(shared: &Shared, mut out: Out, to: &LogTarget) {
    let mut lines = Vec::new();
    let mut warned = None::<Instant>;
    loop {
        let wanted = shared.wait();
        shared.take(&mut lines);
        if !lines.is_empty() {
            let count = memchr::memchr_iter(b'\n', &lines).count() as u64;
            let (written, result) = out.write(&lines);
            shared.written.fetch_add(written, Ordering::Relaxed);
            if let Err(error) = result {
                let lost = count - written;
                if warned.is_none_or(|at| at.elapsed() > QUIET) {
                    warned = Some(Instant::now());
                    log::warn!(target: "epicycle::gateway::access", "{lost} lines of the access log are lost: {error}");
                }
                shared.dropped.fetch_add(lost, Ordering::Relaxed);
            }
            lines.clear();
            lines.shrink_to(64 << 10);
        }
        if wanted.reopen {
            match Out::open(to) {
                Ok(new) => out = new,
                Err(error) => {
                    log::warn!(target: "epicycle::gateway::access", "{error}; the old file is kept");
                }
            }
        }
        if wanted.end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_does_not_run_into_the_next_one() {
        let folder = tempfile::tempdir().expect("is made");
        let path = folder.path().join("log");
        let mut out = Out::open(&LogTarget::File(path.clone())).expect("opens");
        assert_eq!(out.write(b"one\ntw").0, 1);
        assert_eq!(out.write(b"three\nfour\n").0, 2);
        let text = std::fs::read_to_string(path).expect("is there");
        assert_eq!(text, "one\ntw\nthree\nfour\n");
    }
}
