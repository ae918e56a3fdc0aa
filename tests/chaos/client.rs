//! One hostile client: a non-blocking socket and a script.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::behaviour::{Behaviour, Check, Script, Step};
use super::kind::Kind;

/// The socket buffers of a client with little room, in bytes.
const CRAMPED: usize = 8 << 10;

pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) behaviour: Behaviour,
    pub(crate) kind: Kind,
    pub(crate) born: Instant,
    /// How long its thread had been away by then.
    pub(crate) away_at_birth: Duration,
    connected: bool,
    script: Script,
    step: usize,
    /// The progress of the step: the number of bytes or repetitions.
    done: usize,
    /// The client sleeps until this time.
    asleep_until: Option<Instant>,
    received: Vec<u8>,
}

/// The state of a client after its turn.
pub(crate) enum Turn {
    /// It waits for its socket, or is asleep.
    Waits,
    /// It has just fallen asleep.
    Sleeps(Instant),
    /// It has closed, or the server has closed it.
    Ended,
}

impl Client {
    /// Starts to connect.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn start(
        behaviour: Behaviour,
        kind: Kind,
        script: Script,
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // An address whose port is in TIME_WAIT may be used again, because the servers' ports differ.
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        if script.cramped {
            socket.set_recv_buffer_size(CRAMPED)?;
            socket.set_send_buffer_size(CRAMPED)?;
        }
        match socket.connect(&to.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error);
            }
            _ => {}
        }
        Ok(Self {
            socket,
            behaviour,
            kind,
            born: Instant::now(),
            away_at_birth: Duration::ZERO,
            connected: false,
            script,
            step: 0,
            done: 0,
            asleep_until: None,
            received: Vec::new(),
        })
    }

    pub(crate) fn has_connected(&self) -> bool {
        self.connected
    }

    /// Executes steps until the client has to wait.
    ///
    /// # Errors
    ///
    /// If it could not connect.
    pub(crate) fn proceed(&mut self, now: Instant) -> io::Result<Turn> {
        if self.asleep_until.is_some_and(|until| now < until) {
            return Ok(Turn::Waits);
        }
        self.asleep_until = None;
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            if self.socket.peer_addr().is_err() {
                return Ok(Turn::Waits);
            }
            self.connected = true;
        }
        while self.step < self.script.steps.len() {
            match self.take_step(now) {
                Ok(true) => {
                    self.step += 1;
                    self.done = 0;
                }
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // After any error, the connection is gone.
                Err(_) => break,
            }
            if let Some(until) = self.asleep_until {
                return Ok(Turn::Sleeps(until));
            }
        }
        Ok(Turn::Ended)
    }

    /// Does a part of the current step. Returns true if that completes it.
    fn take_step(&mut self, now: Instant) -> io::Result<bool> {
        match &self.script.steps[self.step] {
            Step::Send(bytes) => {
                self.done += (&self.socket).write(&bytes[self.done..])?;
                Ok(self.done == bytes.len())
            }
            Step::Trickle(bytes, pause) => {
                self.done += (&self.socket).write(&bytes[self.done..=self.done])?;
                self.asleep_until = Some(now + *pause);
                Ok(self.done == bytes.len())
            }
            Step::Flood(bytes, most) => {
                self.done += (&self.socket).write(&bytes[self.done % bytes.len()..])?;
                Ok(self.done >= *most)
            }
            Step::Read(len) => {
                let len = *len;
                let n = self.receive(len - self.done)?;
                self.done += n;
                if n == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(self.done == len)
            }
            Step::ReadSlowly(len, times, pause) => {
                let (len, times, pause) = (*len, *times, *pause);
                if self.receive(len)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                self.done += 1;
                self.asleep_until = Some(now + pause);
                Ok(self.done == times)
            }
            Step::ReadToEnd => Ok(self.receive(16 << 10)? == 0),
            Step::Fin => self.socket.shutdown(Shutdown::Write).map(|()| true),
            Step::Wait(pause) => {
                self.asleep_until = Some(now + *pause);
                Ok(true)
            }
            Step::Reset => self.socket.set_linger(Some(Duration::ZERO)).map(|()| true),
        }
    }

    /// Reads up to `len` bytes, at most 16 KiB, and keeps them.
    fn receive(&mut self, len: usize) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let len = len.min(bytes.len());
        let n = (&self.socket).read(&mut bytes[..len])?;
        self.received.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Checks that the client has received what it must. If the client is late, some of it may be missing, but nothing may be
    /// wrong.
    ///
    /// # Errors
    ///
    /// A description of the difference.
    pub(crate) fn check(&self, late: bool) -> Result<(), String> {
        let kind = self.kind;
        let (payloads, whole, refused) = match &self.script.check {
            Check::Nothing => return Ok(()),
            Check::Some(payloads) => (payloads, false, false),
            Check::All(payloads) => (payloads, !late, false),
            Check::Refusal(payloads) => (payloads, !late, kind == Kind::Http),
        };
        let told = kind
            .compare(&self.received, payloads, whole)
            .and_then(|rest| {
                let due = if refused {
                    kind.is_refusal(rest)
                } else {
                    rest.is_empty()
                };
                if due || (late && (rest.is_empty() || kind.is_refusal(rest))) {
                    return Ok(());
                }
                let (len, rest) = (rest.len(), String::from_utf8_lossy(rest));
                Err(format!("{len} bytes behind the answers: {rest:.300}"))
            });
        told.map_err(|why| {
            let (words, kind) = (self.behaviour.words(), self.kind.name());
            format!(
                "a client to {words:?} of {kind}, after {:?}: {why}",
                self.born.elapsed()
            )
        })
    }
}
