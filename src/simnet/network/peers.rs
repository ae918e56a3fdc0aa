//! The peers: they send and read at the other ends of the connections.

use super::wire::{Ending, Far, Reading, Wire};
use super::{Happening, Network, State};

/// The number of reads in a second of a peer that reads slowly.
const READS_PER_SECOND: u32 = 100;

/// The number of parts into which a link with a limited bandwidth divides a second.
const SHARES_PER_SECOND: u64 = 100;

/// The most segments into which one message is cut.
const MOST_SEGMENTS: usize = 256;

impl Network {
    /// Sends bytes from a peer. Returns false if the peer has ended its stream.
    pub(crate) fn send(&self, number: usize, bytes: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.wires[number].ended {
            return false;
        }
        state.send_segments(number, bytes);
        true
    }

    /// Ends a peer's stream.
    pub(crate) fn shutdown(&self, number: usize) {
        self.0.lock().end_stream(number);
    }

    /// Closes a peer's end: its stream ends, and it answers further bytes with RST.
    pub(crate) fn close(&self, number: usize) {
        let mut state = self.0.lock();
        state.end_stream(number);
        let wire = &mut state.wires[number];
        wire.gone = true;
        // A close with unread input resets the connection at once.
        if !wire.output.is_empty() {
            let at = state.now + state.delay_back(number);
            state.plan(at, number, Happening::Break);
        }
    }

    /// Resets a connection from the peer's end. Bytes that it sent and that have not arrived may be lost.
    pub(crate) fn reset(&self, number: usize) {
        let mut state = self.0.lock();
        let wire = &mut state.wires[number];
        wire.ended = true;
        if wire.ending == Ending::Open {
            wire.ending = Ending::Reset;
        }
        let at = state.now + state.delay_back(number);
        state.plan(at, number, Happening::Break);
    }

    pub(crate) fn set_reading(&self, number: usize, reading: Reading) {
        let mut state = self.0.lock();
        state.wires[number].reading = reading;
        state.plan_read(number);
    }

    pub(crate) fn keep_open(&self, number: usize) {
        self.0.lock().wires[number].keeps_open = true;
    }

    /// Returns the state of the connection as the peer sees it.
    pub(crate) fn ending(&self, number: usize) -> Ending {
        self.0.lock().wires[number].ending
    }

    /// Returns true if the reactor has closed its end.
    pub(crate) fn is_closed(&self, number: usize) -> bool {
        self.0.lock().wires[number].closed
    }

    /// Returns the number of bytes from a peer that the reactor has not read.
    pub(crate) fn unread(&self, number: usize) -> usize {
        let state = self.0.lock();
        let wire = &state.wires[number];
        wire.in_flight + wire.arrived.len()
    }
}

impl State {
    /// Sends bytes to the reactor's end of a connection.
    fn send_segments(&mut self, number: usize, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = self.segment_len(number, bytes.len()).min(rest.len());
            let (segment, behind) = rest.split_at(len);
            rest = behind;
            let at = self.arrival(number, len);
            self.wires[number].in_flight += len;
            self.plan(at, number, Happening::Segment(segment.to_vec()));
        }
    }

    /// Plans the FIN of a peer, after all bytes it has sent.
    fn end_stream(&mut self, number: usize) {
        if !std::mem::replace(&mut self.wires[number].ended, true) {
            let at = self.arrival(number, 0);
            self.plan(at, number, Happening::Fin);
        }
    }

    /// Returns the time at which bytes that a peer sends now arrive: never before those it sent earlier.
    pub(super) fn arrival(&mut self, number: usize, len: usize) -> u64 {
        let Wire { home, away, .. } = self.wires[number];
        let at = self.departure(away, home, len) + self.delay_back(number);
        let wire = &mut self.wires[number];
        wire.last_arrival = wire.last_arrival.max(at);
        wire.last_arrival
    }

    /// Returns the length of the next segment of a message.
    fn segment_len(&mut self, number: usize, message: usize) -> usize {
        let wire = &self.wires[number];
        let most = self.link_of(wire.away, wire.home).segments;
        if most == usize::MAX {
            return usize::MAX;
        }
        let longest = match self.rng.u32(..6) {
            0 => 1,
            1 => 4,
            2 => 64,
            3 => 1460,
            _ => most,
        };
        let longest = longest.min(most);
        self.rng.usize(1..=longest).max(message / MOST_SEGMENTS)
    }

    /// Plans a read of the peer, if there is anything for it to read.
    pub(super) fn plan_read(&mut self, number: usize) {
        let wire = &self.wires[number];
        if !wire.has_unread() || wire.will_read || wire.connecting || wire.crashed {
            return;
        }
        let pause = match (wire.far, wire.reading) {
            // The bytes leave at once, and the delay follows on their way to the other end.
            (Far::Twin(twin), _) if self.window(twin) > 0 || wire.output.is_empty() => 0,
            (Far::Twin(_), _) => return,
            (Far::Peer, Reading::Slowly(rate)) => {
                1_000_000 / u64::from(rate.clamp(1, READS_PER_SECOND))
            }
            (Far::Peer, Reading::Freely | Reading::Never) => self.delay(number),
        };
        let wire = &mut self.wires[number];
        wire.will_read = true;
        let Wire { home, away, .. } = *wire;
        let at = (self.now + pause).max(self.departure(home, away, 0));
        self.plan(at, number, Happening::Read);
    }

    /// Returns the number of bytes that may be on the way to an end and unread there.
    fn window(&self, number: usize) -> usize {
        let wire = &self.wires[number];
        match wire.is_alive() {
            true => wire
                .room
                .saturating_sub(wire.in_flight + wire.arrived.len()),
            // Any byte is answered with a reset.
            false => usize::MAX,
        }
    }

    /// Lets the peer read.
    pub(super) fn read(&mut self, number: usize) {
        let interferes = self.interferes(number);
        let wire = &mut self.wires[number];
        wire.will_read = false;
        if !wire.has_unread() || wire.crashed {
            return;
        }
        if wire.gone && !wire.output.is_empty() {
            let at = self.now + self.delay_back(number);
            return self.plan(at, number, Happening::Break);
        }
        let len = wire.output.len();
        let most = match wire.reading {
            Reading::Slowly(rate) => (rate / READS_PER_SECOND).max(1) as usize,
            Reading::Freely if interferes && len > 1 => self.rng.usize(1..=len),
            Reading::Freely | Reading::Never => len,
        };
        let Wire {
            home, away, far, ..
        } = self.wires[number];
        let most = match self.link_of(home, away).bandwidth {
            Some(bandwidth) => most.min((bandwidth / SHARES_PER_SECOND).max(1) as usize),
            None => most,
        };
        let most = match far {
            Far::Twin(twin) => most.min(self.window(twin)),
            Far::Peer => most,
        };
        let wire = &mut self.wires[number];
        let rest = wire.output.split_off(most.min(len));
        let bytes = Vec::from(std::mem::replace(&mut wire.output, rest));
        let ends = wire.output.is_empty() && wire.shut;
        self.note("read", number, bytes.len());
        if !bytes.is_empty() {
            match far {
                Far::Twin(twin) => self.send_segments(twin, &bytes),
                Far::Peer => {
                    self.departure(home, away, bytes.len());
                    self.news.received.push((number, bytes));
                }
            }
        }
        if ends {
            self.finish(number);
        }
        let wire = &mut self.wires[number];
        if wire.wants_room && Wire::has_room(wire) {
            wire.wants_room = false;
            self.change(number);
        }
        self.plan_read(number);
    }

    /// Notes that the peer has seen the end of the stream.
    fn finish(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        wire.ending = Ending::Finished;
        if let Far::Twin(twin) = wire.far {
            self.end_stream(twin);
        } else if !wire.keeps_open {
            self.end_stream(number);
        }
    }
}
