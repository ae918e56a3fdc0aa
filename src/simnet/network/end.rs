//! The reactor's end of a simulated connection. It behaves as a non-blocking socket.

use std::io::{self, ErrorKind, IoSlice, Read};

use super::{Far, Happening, Network, Place, State};

/// A simulated socket. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct End {
    network: Network,
    number: usize,
}

impl End {
    pub(super) fn new(network: Network, number: usize) -> Self {
        Self { network, number }
    }

    /// Gives the socket of an accepted connection to a reactor.
    pub(crate) fn assign(&self, poller: usize) {
        let mut state = self.network.0.lock();
        state.wires[self.number].poller = Some(poller);
        // A newly registered socket has its first event at once.
        state.change(self.number);
    }

    /// Registers the socket for events with this token: for input, and for room for output if `for_room` is true.
    pub(crate) fn watch(&self, token: usize, for_room: bool) {
        let wire = &mut self.network.0.lock().wires[self.number];
        wire.token = Some(token);
        wire.watches_room = for_room;
    }

    /// Registers the socket again, for room for output too.
    pub(crate) fn watch_room(&self) {
        let mut state = self.network.0.lock();
        state.wires[self.number].watches_room = true;
        // As after an `EPOLL_CTL_MOD`, what is ready already is reported.
        state.change(self.number);
    }

    /// Returns true if a connect has succeeded, false if it is still under way.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let mut state = self.network.0.lock();
        let wire = &mut state.wires[self.number];
        match wire.error.take() {
            Some(error) => Err(error.into()),
            None => Ok(!wire.connecting),
        }
    }

    /// Acts as `getsockname(2)`.
    pub(crate) fn local(&self) -> Place {
        self.network.0.lock().wires[self.number].local.clone()
    }

    /// Acts as `recv(2)`.
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.network.0.lock();
        let received = state.recv(self.number, into);
        state.note_call("recv", self.number, &received);
        received
    }

    /// Acts as `recv(2)` with `MSG_PEEK`.
    pub(crate) fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.network.0.lock();
        let wire = &mut state.wires[self.number];
        if !wire.arrived.is_empty() {
            let bytes = wire.arrived.iter().zip(into);
            return Ok(bytes.map(|(byte, into)| *into = *byte).count());
        }
        match (wire.error.take(), wire.broken || wire.fin) {
            (Some(error), _) => Err(error.into()),
            (None, true) => Ok(0),
            (None, false) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Acts as a `recv(2)` of as many bytes as a peek has found.
    pub(crate) fn take_peeked(&self, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.network.0.lock();
        state.wires[self.number].arrived.read_exact(into)
    }

    /// Acts as `send(2)`.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send_vectored(&[IoSlice::new(bytes)])
    }

    /// Acts as `sendmsg(2)`.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.network.0.lock();
        let sent = state.send(self.number, slices);
        state.note_call("send", self.number, &sent);
        sent
    }

    /// Acts as `shutdown(2)` of the writing side.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let mut state = self.network.0.lock();
        state.note("shutdown", self.number, 0);
        let wire = &mut state.wires[self.number];
        if wire.broken {
            return Err(ErrorKind::NotConnected.into());
        }
        wire.shut = true;
        state.change(self.number);
        state.plan_read(self.number);
        Ok(())
    }

    /// Acts as `SO_LINGER` with a time of zero.
    pub(crate) fn reset_on_close(&self) {
        self.network.0.lock().wires[self.number].resets = true;
    }

    /// Acts as `recv(2)` with `MSG_PEEK`. Returns true if it finds input.
    pub(crate) fn has_input(&self) -> bool {
        !self.network.0.lock().wires[self.number].arrived.is_empty()
    }

    /// Acts as `SO_ERROR`.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        let mut state = self.network.0.lock();
        state.wires[self.number].error.take().map(io::Error::from)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.network.0.lock().close(self.number);
    }
}

impl State {
    fn recv(&mut self, number: usize, into: &mut [u8]) -> io::Result<usize> {
        let interferes = self.interferes(number);
        let wire = &mut self.wires[number];
        let available = wire.arrived.len().min(into.len());
        if available == 0 {
            return match (wire.error.take(), wire.broken || wire.fin) {
                (Some(error), _) => Err(error.into()),
                (None, true) => Ok(0),
                (None, false) => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let mut n = available;
        if interferes && self.rng.u32(..8) == 0 {
            self.tally.interfered += 1;
            return Err(ErrorKind::Interrupted.into());
        }
        // Pretends that part of the input arrives a moment later, with another event. After an event has reported the
        // end of the stream, all input before the end must be readable.
        if interferes && !wire.fin_reported && !wire.broken {
            n = self.rng.usize(0..=available);
            self.tally.interfered += u64::from(n < available);
            self.change(number);
        }
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let wire = &mut self.wires[number];
        wire.arrived.read_exact(&mut into[..n])?;
        if let Far::Twin(twin) = wire.far {
            // The other end may send on.
            self.plan_read(twin);
        }
        Ok(n)
    }

    fn send(&mut self, number: usize, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let interferes = self.interferes(number);
        let wire = &mut self.wires[number];
        if wire.broken {
            return Err(wire.error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if wire.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = wire.room - wire.output.len();
        let mut n = offered.min(room);
        if interferes && n > 0 {
            if self.rng.u32(..8) == 0 {
                self.tally.interfered += 1;
                return Err(ErrorKind::Interrupted.into());
            }
            n = self.rng.usize(0..=n);
        }
        if n < offered {
            self.tally.interfered += 1;
            self.refuse(number, n < room);
        }
        let wire = &mut self.wires[number];
        let mut left = n;
        for slice in slices {
            let part = left.min(slice.len());
            wire.output.extend(&slice[..part]);
            left -= part;
        }
        self.plan_read(number);
        if n == 0 && offered > 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(n)
    }

    /// Notes that a write was cut short, so that an event reports when there is room. If there was room and chance refused
    /// the write, that event is planned here.
    fn refuse(&mut self, number: usize, by_chance: bool) {
        self.wires[number].wants_room = true;
        if by_chance {
            let at = self.now + self.delay(number);
            self.plan(at, number, Happening::Room);
        }
    }

    fn close(&mut self, number: usize) {
        self.note("close", number, 0);
        let wire = &mut self.wires[number];
        wire.closed = true;
        let unread = !wire.arrived.is_empty();
        wire.arrived = Default::default();
        // A connect that has not been answered is given up when its answer arrives.
        if wire.broken || wire.connecting || wire.crashed {
            return;
        }
        // A close with unread input sends RST, as Linux does.
        if wire.resets || unread {
            self.reset_peer(number);
        } else {
            wire.shut = true;
            self.plan_read(number);
        }
    }

    /// Sends the peer a reset, which drops bytes that it has not read.
    pub(super) fn reset_peer(&mut self, number: usize) {
        let wire = &mut self.wires[number];
        let kept = self.rng.usize(0..=wire.output.len());
        wire.output.truncate(kept);
        // The peer must not see the end of the stream behind the bytes that are left.
        wire.shut = false;
        let at = self.now + self.delay(number);
        self.plan(at, number, Happening::Reset);
    }

    fn note_call(&mut self, call: &str, number: usize, result: &io::Result<usize>) {
        self.tally.calls += 1;
        let result = match result {
            Ok(n) => {
                self.tally.bytes += *n as u64;
                n << 8
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => 1,
                ErrorKind::Interrupted => 2,
                _ => 3,
            },
        };
        self.note(call, number, result);
    }
}
