//! A network in memory. Its connections behave as sockets do, and a seed decides each random choice.

mod end;
mod peers;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;

pub(crate) use self::end::End;
pub(crate) use self::wire::Readiness;
use self::wire::Wire;
pub use self::wire::{Ending, Reading};
use super::link::Link;
use super::tally::Tally;

/// A network, shared by a simulation and the sockets of its reactor.
#[derive(Clone, Debug)]
pub(crate) struct Network(Arc<Mutex<State>>);

/// An entry on the agenda.
#[derive(Debug)]
enum Happening {
    /// A segment arrives at the reactor's end.
    Segment(Vec<u8>),
    /// The peer's FIN arrives at the reactor's end.
    Fin,
    /// A reset arrives at the reactor's end.
    Break,
    /// The peer reads.
    Read,
    /// A reset arrives at the peer.
    Reset,
    /// The send buffer has room again after a refused write.
    Room,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    link: Link,
    /// In microseconds.
    now: u64,
    wires: Vec<Wire>,
    /// Sorted by time, then by the order in which entries were added.
    agenda: BTreeMap<(u64, u64), (usize, Happening)>,
    /// The number of entries added so far.
    planned: u64,
    /// The connections for which an event is due.
    changed: Vec<usize>,
    /// The bytes that peers have read since the last [`Network::advance`].
    received: Vec<(usize, Vec<u8>)>,
    fingerprint: u64,
    tally: Tally,
}

/// The time within which a connection breaks, if it does, in microseconds.
const BREAKS_WITHIN: u64 = 2_000_000;

/// The most events that a poll returns.
const BATCH: usize = 128;

impl Network {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            link,
            now: 0,
            wires: Vec::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            changed: Vec::new(),
            received: Vec::new(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
            tally: Tally::default(),
        })))
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.0.lock().link = link;
    }

    /// Makes a connection. Returns its number and the reactor's end of it.
    pub(crate) fn connect(&self) -> (usize, End) {
        let mut state = self.0.lock();
        let number = state.wires.len();
        let room = state.link.send_buffer.clone();
        let wire = Wire {
            room: state.rng.usize(room),
            changed: true,
            ..Wire::default()
        };
        state.wires.push(wire);
        state.tally.connections += 1;
        // A newly registered socket has its first event at once.
        state.changed.push(number);
        state.note("connect", number, 0);
        let percent = state.link.resets;
        if state.chance(percent) {
            let at = state.now + state.rng.u64(..BREAKS_WITHIN);
            state.plan(at, number, Happening::Break);
        }
        (number, End::new(self.clone(), number))
    }

    /// Returns the time of the next entry on the agenda.
    pub(crate) fn next_time(&self) -> Option<u64> {
        let state = self.0.lock();
        state.agenda.keys().next().map(|(time, _)| *time)
    }

    /// Sets the time.
    pub(crate) fn set_time(&self, now: u64) {
        self.0.lock().now = now;
    }

    /// Executes all entries of the agenda that are due. Returns the bytes that peers have read.
    pub(crate) fn advance(&self) -> Vec<(usize, Vec<u8>)> {
        let mut state = self.0.lock();
        let now = state.now;
        while let Some(entry) = state.agenda.first_entry()
            && entry.key().0 <= now
        {
            let (wire, happening) = entry.remove();
            state.happen(wire, happening);
        }
        std::mem::take(&mut state.received)
    }

    /// Returns the events of a poll. Each change is reported once.
    pub(crate) fn poll(&self) -> Vec<Readiness> {
        let mut state = self.0.lock();
        let State {
            rng,
            link,
            wires,
            changed,
            ..
        } = &mut *state;
        // A connection that is not registered yet keeps its event.
        let mut due: Vec<usize> = Vec::new();
        changed.retain(|number| {
            let wire = &wires[*number];
            let keep = wire.token.is_none() && !wire.closed;
            if !keep {
                due.push(*number);
            }
            keep
        });
        let mut batch = due.len().min(BATCH);
        if link.interference > 0 && batch > 0 {
            rng.shuffle(&mut due);
            batch = rng.usize(1..=batch);
        }
        changed.extend(due.drain(batch..));
        let mut events = Vec::with_capacity(batch);
        for number in due {
            let wire = &mut wires[number];
            wire.changed = false;
            if let Some(ready) = wire.readiness() {
                wire.fin_reported |= ready.read_closed;
                events.push(ready);
            }
        }
        for event in &events {
            let bits = usize::from(event.readable)
                | usize::from(event.writable) << 1
                | usize::from(event.read_closed) << 2
                | usize::from(event.error) << 3;
            state.note("event", event.token, bits);
        }
        events
    }

    /// Returns a number that depends on all that has happened so far.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.0.lock().fingerprint
    }

    /// Returns the duration of the next turn, in microseconds.
    pub(crate) fn turn_time(&self) -> u64 {
        let mut state = self.0.lock();
        let longest = state.link.slow_turns;
        // Most turns are quick.
        if longest > 0 && state.chance(20) {
            return state.rng.u64(0..=longest);
        }
        0
    }
}

impl State {
    fn happen(&mut self, number: usize, happening: Happening) {
        let wire = &mut self.wires[number];
        match happening {
            Happening::Segment(bytes) => {
                wire.in_flight -= bytes.len();
                self.note("segment", number, bytes.len());
                let wire = &mut self.wires[number];
                if wire.closed {
                    self.reset_peer(number);
                } else if !wire.broken {
                    wire.arrived.extend(bytes);
                    self.change(number);
                }
            }
            Happening::Fin => {
                self.note("fin", number, 0);
                self.wires[number].fin = true;
                self.change(number);
            }
            Happening::Break => {
                self.note("break", number, 0);
                let wire = &mut self.wires[number];
                wire.ended = true;
                if wire.ending == Ending::Open {
                    wire.ending = Ending::Reset;
                }
                if wire.break_off() {
                    self.tally.broken += 1;
                }
                self.change(number);
            }
            Happening::Read => self.read(number),
            Happening::Reset => {
                if wire.ending == Ending::Open {
                    wire.ending = Ending::Reset;
                    wire.output.clear();
                    self.note("reset", number, 0);
                }
            }
            Happening::Room => self.change(number),
        }
    }

    /// Makes an event due for a connection.
    fn change(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        if !wire.changed && !wire.closed {
            wire.changed = true;
            self.changed.push(number);
        }
    }

    fn plan(&mut self, at: u64, number: usize, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), (number, happening));
    }

    /// Returns the delay of a segment.
    fn delay(&mut self) -> u64 {
        let range = self.link.delay.clone();
        // Most delays are short, so that different events coincide.
        let short = *range.start() + (range.end() - range.start()) / 50;
        match self.rng.u32(..4) {
            0 => self.rng.u64(range),
            _ => self.rng.u64(*range.start()..=short),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.u32(..100) < percent
    }

    fn note(&mut self, what: &str, number: usize, size: usize) {
        log::trace!(target: "epicycle::testing", "{:>9} µs {what} {number} {size}", self.now);
        for value in [self.now, what.len() as u64, number as u64, size as u64] {
            // As FNV-1a, but eight bytes at a time.
            let mixed = (self.fingerprint ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.fingerprint = mixed.rotate_left(23);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.tally.micros = self.now;
        self.tally.hand_in();
    }
}
