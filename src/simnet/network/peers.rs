//! The peers: they send and read at the other ends of the connections.

use super::wire::{Ending, Reading, Wire};
use super::{Happening, Network, State};

/// The number of reads in a second of a peer that reads slowly.
const READS_PER_SECOND: u32 = 100;

/// The most segments into which one message is cut.
const MOST_SEGMENTS: usize = 256;

impl Network {
    /// Sends bytes from a peer. Returns false if the peer has ended its stream.
    pub(crate) fn send(&self, number: usize, bytes: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.wires[number].ended {
            return false;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = state.segment_len(bytes.len()).min(rest.len());
            let (segment, behind) = rest.split_at(len);
            rest = behind;
            let at = state.arrival(number);
            state.wires[number].in_flight += len;
            state.plan(at, number, Happening::Segment(segment.to_vec()));
        }
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
            let at = state.now + state.delay();
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
        let at = state.now + state.delay();
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
    /// Plans the FIN of a peer, after all bytes it has sent.
    fn end_stream(&mut self, number: usize) {
        if !std::mem::replace(&mut self.wires[number].ended, true) {
            let at = self.arrival(number);
            self.plan(at, number, Happening::Fin);
        }
    }

    /// Returns the time at which bytes that a peer sends now arrive: never before those it sent earlier.
    fn arrival(&mut self, number: usize) -> u64 {
        let at = self.now + self.delay();
        let wire = &mut self.wires[number];
        wire.last_arrival = wire.last_arrival.max(at);
        wire.last_arrival
    }

    /// Returns the length of the next segment of a message.
    fn segment_len(&mut self, message: usize) -> usize {
        if self.link.segments == usize::MAX {
            return usize::MAX;
        }
        let longest = match self.rng.u32(..6) {
            0 => 1,
            1 => 4,
            2 => 64,
            3 => 1460,
            _ => self.link.segments,
        };
        let longest = longest.min(self.link.segments);
        self.rng.usize(1..=longest).max(message / MOST_SEGMENTS)
    }

    /// Plans a read of the peer, if there is anything for it to read.
    pub(super) fn plan_read(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        if wire.has_unread() && !wire.will_read {
            wire.will_read = true;
            let pause = match wire.reading {
                Reading::Slowly(rate) => 1_000_000 / u64::from(rate.clamp(1, READS_PER_SECOND)),
                Reading::Freely | Reading::Never => self.delay(),
            };
            self.plan(self.now + pause, number, Happening::Read);
        }
    }

    /// Lets the peer read.
    pub(super) fn read(&mut self, number: usize) {
        let interferes = self.chance(self.link.interference);
        let wire = &mut self.wires[number];
        wire.will_read = false;
        if !wire.has_unread() {
            return;
        }
        if wire.gone && !wire.output.is_empty() {
            let at = self.now + self.delay();
            return self.plan(at, number, Happening::Break);
        }
        let len = wire.output.len();
        let most = match wire.reading {
            Reading::Slowly(rate) => (rate / READS_PER_SECOND).max(1) as usize,
            Reading::Freely if interferes && len > 1 => self.rng.usize(1..=len),
            Reading::Freely | Reading::Never => len,
        };
        let wire = &mut self.wires[number];
        let rest = wire.output.split_off(most.min(len));
        let bytes = Vec::from(std::mem::replace(&mut wire.output, rest));
        if wire.output.is_empty() && wire.shut {
            self.finish(number);
        }
        self.note("read", number, bytes.len());
        if !bytes.is_empty() {
            self.received.push((number, bytes));
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
        if !wire.keeps_open {
            self.end_stream(number);
        }
    }
}
