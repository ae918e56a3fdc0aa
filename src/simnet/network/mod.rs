//! A network in memory. Its connections behave as sockets do, and a seed decides each random choice.

mod datagrams;
mod end;
mod hosts;
mod peers;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;

pub(crate) use self::datagrams::DatagramEnd;
use self::datagrams::{DatagramSocket, InFlight};
pub(crate) use self::end::End;
pub(crate) use self::hosts::Listening;
use self::hosts::{Door, Host};
pub use self::wire::{Ending, Reading};
use self::wire::{Far, Wire};
pub(crate) use self::wire::{Place, Readiness};
use super::link::Link;
use super::tally::Tally;

/// A network, shared by a simulation and the sockets of its reactors.
#[derive(Clone, Debug)]
pub(crate) struct Network(Arc<Mutex<State>>);

/// An entry on the agenda.
#[derive(Debug)]
enum Happening {
    /// The SYN of a scripted peer arrives at the reactor's end.
    Arrive,
    /// The SYN of a reactor arrives at the peer's host.
    Syn,
    /// The answer to the SYN of a reactor arrives: the connection is open.
    Opened,
    /// The answer to the SYN of a reactor arrives: there is no connection.
    Refused(ErrorKind),
    /// The SYN of a reactor had no answer, and is not sent again.
    GiveUp,
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
    /// A datagram arrives, that the socket with the number of the entry has sent.
    Datagram(Box<InFlight>),
    /// A datagram socket has room again after a refused send.
    DatagramRoom,
}

/// A source of events.
#[derive(Clone, Copy, Debug)]
enum Source {
    Wire(usize),
    Datagrams(usize),
}

/// A connection that has arrived at a listener of an engine.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The number of the engine, and that of its listener.
    pub(crate) engine: usize,
    pub(crate) listener: usize,
    pub(crate) end: End,
    pub(crate) peer: Place,
}

/// The events of an advance of the time, for those outside the network.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The bytes that scripted peers have read, with the numbers of their connections.
    pub(crate) received: Vec<(usize, Vec<u8>)>,
    pub(crate) arrived: Vec<Arrived>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    link: Link,
    /// The links of single directions, by the hosts from and to which they lead.
    links: HashMap<(IpAddr, IpAddr), Link>,
    /// The times from which links with a limited bandwidth are free.
    free_at: HashMap<(IpAddr, IpAddr), u64>,
    cuts: HashSet<(IpAddr, IpAddr)>,
    hosts: HashMap<IpAddr, Host>,
    /// The number of hosts that are down.
    down: usize,
    listeners: HashMap<(IpAddr, Door), Listening>,
    /// The connections that have arrived at each listener of a scripted peer.
    accepted: Vec<VecDeque<usize>>,
    /// The deliveries that cannot pass until a cut is healed or a host is up.
    held: Vec<(usize, Happening)>,
    /// In microseconds.
    now: u64,
    wires: Vec<Wire>,
    /// Sorted by time, then by the order in which entries were added.
    agenda: BTreeMap<(u64, u64), (usize, Happening)>,
    /// The number of entries added so far.
    planned: u64,
    sockets: Vec<DatagramSocket>,
    /// The datagram sockets on each port of a host.
    bound: HashMap<(IpAddr, u16), Vec<usize>>,
    /// The sockets of each reactor for which an event is due.
    changed: Vec<Vec<Source>>,
    news: News,
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
            links: HashMap::new(),
            free_at: HashMap::new(),
            cuts: HashSet::new(),
            hosts: HashMap::new(),
            down: 0,
            listeners: HashMap::new(),
            accepted: Vec::new(),
            held: Vec::new(),
            now: 0,
            wires: Vec::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            sockets: Vec::new(),
            bound: HashMap::new(),
            changed: Vec::new(),
            news: News::default(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
            tally: Tally::default(),
        })))
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.0.lock().link = link;
    }

    /// Sets the link of one direction between two hosts.
    pub(crate) fn set_link_from(&self, from: IpAddr, to: IpAddr, link: Link) {
        self.0.lock().links.insert((from, to), link);
    }

    /// Adds a reactor. Returns its number, by which it polls.
    pub(crate) fn add_poller(&self) -> usize {
        let mut state = self.0.lock();
        state.changed.push(Vec::new());
        state.changed.len() - 1
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

    /// Executes all entries of the agenda that are due.
    pub(crate) fn advance(&self) -> News {
        let mut state = self.0.lock();
        let now = state.now;
        while let Some(entry) = state.agenda.first_entry()
            && entry.key().0 <= now
        {
            let (wire, happening) = entry.remove();
            if state.is_held(wire, &happening) {
                state.held.push((wire, happening));
            } else {
                state.happen(self, wire, happening);
            }
        }
        std::mem::take(&mut state.news)
    }

    /// Returns true if the next poll of a reactor may return events.
    pub(crate) fn may_have_events(&self, poller: usize) -> bool {
        !self.0.lock().changed[poller].is_empty()
    }

    /// Returns the events of a reactor's poll. Each change is reported once.
    pub(crate) fn poll(&self, poller: usize) -> Vec<Readiness> {
        let mut state = self.0.lock();
        let State {
            rng,
            link,
            wires,
            sockets,
            changed,
            ..
        } = &mut *state;
        let changed = &mut changed[poller];
        if changed.is_empty() {
            return Vec::new();
        }
        // A socket that is not registered yet keeps its event.
        let mut due: Vec<Source> = Vec::new();
        changed.retain(|source| {
            let keep = match *source {
                Source::Wire(number) => wires[number].token.is_none() && !wires[number].closed,
                Source::Datagrams(number) => !sockets[number].is_registered(),
            };
            if !keep {
                due.push(*source);
            }
            keep
        });
        let mut batch = due.len().min(BATCH);
        if link.interference > 0 && batch > 0 {
            rng.shuffle(&mut due);
            batch = rng.usize(1..=batch);
        }
        let mut events = Vec::with_capacity(batch);
        let mut due = due.into_iter();
        // A batch of which nobody waits for anything is no reason to return, and no event would follow for the rest.
        while events.is_empty() && due.len() > 0 {
            for source in due.by_ref().take(batch) {
                let ready = match source {
                    Source::Wire(number) => wires[number].take_readiness(),
                    Source::Datagrams(number) => sockets[number].take_readiness(),
                };
                events.extend(ready);
            }
        }
        changed.extend(due);
        for event in &events {
            let bits = usize::from(event.readable)
                | usize::from(event.writable) << 1
                | usize::from(event.read_closed) << 2
                | usize::from(event.error) << 3;
            state.note("event", event.token, bits);
        }
        events
    }

    /// Returns a random number below `end`.
    pub(crate) fn draw(&self, end: usize) -> usize {
        self.0.lock().rng.usize(..end)
    }

    /// Returns a random time from a range, in microseconds.
    pub(crate) fn draw_time(&self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.0.lock().rng.u64(range)
    }

    /// Adds something that happened outside the network to the trace.
    pub(crate) fn note(&self, what: &str, number: usize, size: usize) {
        self.0.lock().note(what, number, size);
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
    /// Adds a connection, whose first event is due. Returns its number.
    fn add_wire(&mut self, mut wire: Wire) -> usize {
        let number = self.wires.len();
        let room = self.link_of(wire.home, wire.away).send_buffer.clone();
        wire.room = self.rng.usize(room);
        self.wires.push(wire);
        number
    }

    /// Lets chance decide that a connection breaks soon.
    fn may_break(&mut self, number: usize) {
        let wire = &self.wires[number];
        let percent = self.link_of(wire.home, wire.away).resets;
        if self.chance(percent) {
            let at = self.now + self.rng.u64(..BREAKS_WITHIN);
            self.plan(at, number, Happening::Break);
        }
    }

    fn happen(&mut self, network: &Network, number: usize, happening: Happening) {
        match happening {
            Happening::Datagram(datagram) => self.datagram_arrives(number, *datagram),
            Happening::DatagramRoom => self.datagram_room(number),
            Happening::Arrive => self.arrive(network, number),
            Happening::Syn => self.syn(network, number),
            Happening::Opened => self.opened(number),
            Happening::Refused(error) => self.refused(number, error),
            Happening::GiveUp => self.refused(number, ErrorKind::TimedOut),
            Happening::Segment(bytes) => {
                self.wires[number].in_flight -= bytes.len();
                self.note("segment", number, bytes.len());
                let wire = &mut self.wires[number];
                if wire.closed || wire.crashed {
                    self.reset_peer(number);
                } else if !wire.broken {
                    wire.arrived.extend(bytes);
                    self.change(number);
                }
            }
            Happening::Fin => {
                self.note("fin", number, 0);
                if self.wires[number].crashed {
                    return self.reset_peer(number);
                }
                self.wires[number].fin = true;
                self.change(number);
            }
            Happening::Break => self.break_now(number),
            Happening::Read => self.read(number),
            Happening::Reset => self.reset_now(number),
            Happening::Room => self.change(number),
        }
    }

    /// Breaks a connection at the reactor's end.
    fn break_now(&mut self, number: usize) {
        self.note("break", number, 0);
        let wire = &mut self.wires[number];
        wire.ended = true;
        if wire.ending == Ending::Open {
            wire.ending = Ending::Reset;
        }
        if wire.break_off(ErrorKind::ConnectionReset) {
            self.tally.broken += 1;
        }
        self.change(number);
        // The other end learns it too, unless it is the cause.
        if let Far::Twin(twin) = self.wires[number].far
            && self.wires[twin].is_alive()
        {
            let at = self.now + self.delay(number);
            self.plan(at, twin, Happening::Break);
        }
    }

    /// Breaks a connection at the peer's end.
    fn reset_now(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        if wire.ending == Ending::Open {
            wire.ending = Ending::Reset;
            wire.output.clear();
            self.note("reset", number, 0);
        }
        if let Far::Twin(twin) = self.wires[number].far
            && self.wires[twin].is_alive()
        {
            self.break_now(twin);
        }
    }

    /// Makes an event due for a connection.
    fn change(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        if let Some(poller) = wire.poller
            && !wire.changed
            && !wire.closed
        {
            wire.changed = true;
            self.changed[poller].push(Source::Wire(number));
        }
    }

    fn plan(&mut self, at: u64, number: usize, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), (number, happening));
    }

    /// Returns the link from one host to another.
    fn link_of(&self, from: IpAddr, to: IpAddr) -> &Link {
        if self.links.is_empty() {
            return &self.link;
        }
        self.links.get(&(from, to)).unwrap_or(&self.link)
    }

    /// Returns the delay of a segment from the reactor's end of a connection to the other.
    fn delay(&mut self, number: usize) -> u64 {
        let wire = &self.wires[number];
        self.delay_between(wire.home, wire.away)
    }

    /// Returns the delay of a segment to the reactor's end of a connection.
    fn delay_back(&mut self, number: usize) -> u64 {
        let wire = &self.wires[number];
        self.delay_between(wire.away, wire.home)
    }

    fn delay_between(&mut self, from: IpAddr, to: IpAddr) -> u64 {
        let range = self.link_of(from, to).delay.clone();
        // Most delays are short, so that different events coincide.
        let short = *range.start() + (range.end() - range.start()) / 50;
        match self.rng.u32(..4) {
            0 => self.rng.u64(range),
            _ => self.rng.u64(*range.start()..=short),
        }
    }

    /// Returns the time at which bytes that are sent now have left over a link, given its bandwidth.
    fn departure(&mut self, from: IpAddr, to: IpAddr, len: usize) -> u64 {
        let Some(bandwidth) = self.link_of(from, to).bandwidth else {
            return self.now;
        };
        let free_at = self.free_at.entry((from, to)).or_default();
        *free_at = (*free_at).max(self.now) + len as u64 * 1_000_000 / bandwidth;
        *free_at
    }

    fn interferes(&mut self, number: usize) -> bool {
        let wire = &self.wires[number];
        let percent = self.link_of(wire.home, wire.away).interference;
        self.chance(percent)
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

/// Returns the address of a peer or a host in this network, without a port.
fn any_port(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}
