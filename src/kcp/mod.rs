//! KCP: a reliable stream over datagrams, as a state machine without socket and clock.
//!
//! [`Kcp`] is one end of a connection. It takes the [datagrams](Kcp::input) of the peer and the [bytes](Kcp::send) of the
//! application, and gives the [bytes](Kcp::recv) of the peer and [datagrams](Kcp::flush) to send. [`Kcp::check`] tells when it has to
//! be flushed although nothing has happened. An idle connection is never due.
//!
//! ```
//! use std::time::Instant;
//! use epicycle::kcp::{Kcp, KcpOptions};
//!
//! let now = Instant::now();
//! let mut client = Kcp::client(7, &KcpOptions::new(), now);
//! client.send(b"hello")?;
//! let mut datagrams = Vec::new();
//! client.flush(now, |datagram| datagrams.push(datagram.to_vec()));
//!
//! assert_eq!(Kcp::opening(&datagrams[0]), Some(7));
//! let mut server = Kcp::server(7, &KcpOptions::new(), now, 0x5eed);
//! server.input(&datagrams[0], now)?;
//! assert_eq!(server.recv().as_deref(), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The datagrams are those of KCP without encryption: little-endian heads of 24 bytes `conv, cmd, frg, wnd, ts, sn, una, len`. A
//! segment of up to [`mtu`](KcpOptions::mtu) − 24 bytes is what [`send`](Kcp::send) was given; more is cut, and each part is a message
//! of its own for the peer (`frg` is 0), as with kcp-go. The fragments of others are a stream here.
//!
//! | Input | Result |
//! |---|---|
//! | a datagram with a head that is cut off, an unknown command or a length beyond its end | [`InputError::Malformed`], and nothing of it counts |
//! | another `conv` | [`InputError::OtherConv`] |
//! | a segment beyond the window | dropped |
//! | an acknowledgement of what was not sent | ignored |
//! | 24 bytes | 24 bytes at most |
//!
//! Datagrams may have the heads of forward error correction (FEC) of kcp-go in front: `number u32, kind u16` (0xf1 data, 0xf2 parity),
//! and for data `size u16`, all little-endian. [`KcpOptions::fec`] sends them. They are understood without that, too: data that was lost
//! is repaired by the parity of its group. That holds as many datagrams of the peer as a group has data, in three groups at most. If
//! the peer's groups have other sizes, nothing is repaired, and the rest goes on.
//!
//! A source address is easily forged, so a [server's](Kcp::server) end sends no more than three times what has come, until an
//! acknowledgement has proved the address: it has the time of the segment, which begins at a number that only this end knows.

mod fec;
mod options;
mod receiving;
mod round_trip;
mod segment;
mod sending;

use std::time::{Duration, Instant};

use self::fec::{Protection, Repair, Shard, Sizes};
use self::receiving::Receiving;
use self::segment::{Command, HEAD, Segment, distance};
use self::sending::Sending;
use crate::error::error_messages;

pub use self::options::KcpOptions;

/// The longest datagram that others send, such as kcp-go.
const COMMON_MTU: usize = 1500;

/// The longest time for which acknowledgements wait for data to travel with.
const ACK_DELAY: u64 = 10;

/// The multiple of the bytes that have come, which may be sent to an address that is not proved.
const UNPROVED: usize = 3;

/// One end of a KCP connection.
#[derive(Debug)]
pub struct Kcp {
    conv: u32,
    mtu: usize,
    segment: usize,
    /// The longest segment that is taken.
    longest: usize,
    max_queued: usize,
    /// The longest time for which acknowledgements wait, in milliseconds.
    ack_delay: u64,
    began: Instant,
    /// The clock of the heads when the connection began.
    clock: u32,
    receiving: Receiving,
    sending: Sending,
    /// The time by which the acknowledgements are sent.
    ack_at: Option<u64>,
    /// True if the peer is told the window, which it has asked for or thinks to be zero.
    tells_window: bool,
    /// The bytes that an address may still be sent that is not proved.
    allowance: Option<usize>,
    /// True if that was too little for what was due. Nothing is due then before the next datagram of the peer.
    is_starved: bool,
    /// The datagram that is being made.
    datagram: Vec<u8>,
    /// The sizes of the peer's groups of FEC.
    sizes: Sizes,
    repair: Option<Box<Repair>>,
    repaired: u64,
    protection: Option<Box<Protection>>,
}

/// The reason why a datagram was not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputError {
    /// It is no datagram of KCP.
    Malformed(&'static str),
    /// It is one of another connection.
    OtherConv(u32),
}

error_messages! {
    InputError {
        Self::Malformed(problem) => "no datagram of KCP: {problem}",
        Self::OtherConv(conv) => "a datagram of connection {conv:#x}, which is another one",
    }
}

/// The reason why bytes were not taken: more than [`max_queued`](KcpOptions::max_queued) would wait.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Full {
    /// The bytes that wait.
    pub queued: usize,
}

error_messages! {
    Full {
        Self { queued } => "{queued} bytes wait already, and the peer does not acknowledge them",
    }
}

impl Kcp {
    /// Returns the number of the connection that a datagram opens: it is well-formed, and its first segment has data and the number 0.
    pub fn opening(datagram: &[u8]) -> Option<u32> {
        let datagram = match Shard::parse(datagram).ok()? {
            Some(shard) => shard.datagram?,
            None => datagram,
        };
        let (first, _) = Segment::parse(datagram).ok()?;
        let opens = first.command == Command::Push && first.sn == 0 && !first.data.is_empty();
        let is_one = opens && check(datagram, first.conv, usize::MAX).is_ok();
        is_one.then_some(first.conv)
    }

    /// Returns the end of the side that begins, with a number of its choice. Nothing is sent before [`send`](Self::send) is called.
    pub fn client(conv: u32, options: &KcpOptions, now: Instant) -> Self {
        Self::new(conv, options, now, 0)
    }

    /// Returns the end of the side that answers. `secret` is a number that the peer cannot guess; it proves the peer's address.
    pub fn server(conv: u32, options: &KcpOptions, now: Instant, secret: u32) -> Self {
        Self {
            allowance: Some(0),
            ..Self::new(conv, options, now, secret)
        }
    }

    fn new(conv: u32, options: &KcpOptions, now: Instant, clock: u32) -> Self {
        let ack_delay = match options.ack_no_delay {
            true => 0,
            false => ACK_DELAY.min(options.interval.as_millis() as u64),
        };
        Self {
            conv,
            mtu: options.mtu.max(HEAD + 1),
            segment: options.segment(),
            longest: options.mtu.max(COMMON_MTU),
            max_queued: options.max_queued,
            ack_delay,
            began: now,
            clock,
            receiving: Receiving::new(options.receive_window.max(1)),
            sending: Sending::new(options),
            ack_at: None,
            tells_window: false,
            allowance: None,
            is_starved: false,
            datagram: Vec::new(),
            sizes: options.fec.unwrap_or(Sizes::USUAL),
            repair: None,
            repaired: 0,
            protection: options.fec.map(Protection::new).map(Box::new),
        }
    }

    /// Returns the number of the connection.
    pub fn conv(&self) -> u32 {
        self.conv
    }

    /// Takes a datagram of the peer. [`recv`](Self::recv) may have something then, and [`flush`](Self::flush) something to send.
    ///
    /// # Errors
    ///
    /// [`InputError`]. The state has not changed then.
    pub fn input(&mut self, datagram: &[u8], now: Instant) -> Result<(), InputError> {
        let shard = Shard::parse(datagram).map_err(InputError::Malformed)?;
        let data = match &shard {
            Some(shard) => shard.datagram,
            None => Some(datagram),
        };
        if let Some(data) = data {
            check(data, self.conv, self.longest)?;
        }
        if let Some(allowance) = &mut self.allowance {
            *allowance += UNPROVED * datagram.len();
            self.is_starved = false;
        }
        if let Some(data) = data {
            self.take(data, now, false);
        }
        // A longer one has segments that are refused, or that need not be kept.
        if let Some(shard) = shard.filter(|_| datagram.len() <= self.longest + fec::HEAD) {
            let new = || Box::new(Repair::new(self.sizes));
            for repaired in self.repair.get_or_insert_with(new).take(shard) {
                if check(&repaired, self.conv, self.longest).is_ok() {
                    self.repaired += 1;
                    self.take(&repaired, now, true);
                }
            }
        }
        Ok(())
    }

    /// Takes the segments of a datagram that was checked. One that was repaired is late: its times and its window tell nothing.
    fn take(&mut self, datagram: &[u8], now: Instant, is_repaired: bool) {
        let at = self.at(now);
        let clock = self.clock_at(at);
        let before = self.sending.first();
        let (mut skipped_to, mut last) = (None, None);
        for segment in Segment::all(datagram).flatten() {
            last = Some((segment.window, segment.una));
            match segment.command {
                Command::Push => {
                    self.receiving.push(segment.sn, segment.ts, segment.data);
                }
                Command::Ack => {
                    let Some(acked) = self.sending.on_ack(segment.sn, segment.ts) else {
                        continue;
                    };
                    if acked.is_its {
                        self.allowance = None;
                    }
                    if acked.is_its && acked.is_first && !is_repaired {
                        // It was sent at that time, so the difference is not negative.
                        let took = clock.wrapping_sub(segment.ts);
                        self.sending.round_trip.note(took);
                    }
                    if acked.is_first
                        && skipped_to.is_none_or(|last| distance(segment.sn, last) > 0)
                    {
                        skipped_to = Some(segment.sn);
                    }
                }
                Command::AskWindow => self.tells_window = true,
                Command::TellWindow => {}
            }
        }
        // After the acknowledgements, whose times tell nothing once `una` has ended their segments.
        if let Some((window, una)) = last {
            if !is_repaired {
                self.sending.on_window(window);
            }
            self.sending.on_una(una);
        }
        if let Some(sn) = skipped_to {
            self.sending.skip_to(sn);
        }
        if distance(self.sending.first(), before) > 0 {
            self.sending.on_progress();
        }
        if !self.receiving.acks.is_empty() && self.ack_at.is_none() {
            self.ack_at = Some(at + self.ack_delay);
        }
    }

    /// Returns true if the peer is known to be at its address: it has acknowledged what was sent there. A [client](Self::client) need
    /// not know.
    pub fn is_proved(&self) -> bool {
        self.allowance.is_none()
    }

    /// Returns the number of datagrams that were lost, and repaired by the parity of others.
    pub fn repaired(&self) -> u64 {
        self.repaired
    }

    /// Takes the next bytes that the peer has sent: those of a segment.
    pub fn recv(&mut self) -> Option<Vec<u8>> {
        let was_full = self.receiving.room() == 0;
        let data = self.receiving.pop()?;
        self.tells_window |= was_full && self.receiving.room() > 0;
        Some(data)
    }

    /// Queues bytes for the peer.
    ///
    /// # Errors
    ///
    /// [`Full`], and nothing is queued.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let queued = self.sending.bytes();
        if queued.saturating_add(bytes.len()) > self.max_queued {
            return Err(Full { queued });
        }
        for part in bytes.chunks(self.segment) {
            self.sending.push(part);
        }
        Ok(())
    }

    /// Returns the number of bytes that wait for the peer or for its acknowledgement.
    pub fn queued(&self) -> usize {
        self.sending.bytes()
    }

    /// Returns true if the peer has not acknowledged a segment that was sent again 20 times.
    pub fn is_dead(&self) -> bool {
        self.sending.is_dead()
    }

    /// Hands the datagrams that are due to `out`: new data as far as the windows allow, lost data, and acknowledgements.
    pub fn flush(&mut self, now: Instant, mut out: impl FnMut(&[u8])) {
        let at = self.at(now);
        let clock = self.clock_at(at);
        let head = Segment {
            conv: self.conv,
            command: Command::Ack,
            window: self.receiving.room(),
            ts: clock,
            sn: 0,
            una: self.receiving.next(),
            data: &[],
        };
        let mut datagrams = Datagrams {
            datagram: std::mem::take(&mut self.datagram),
            mtu: self.mtu,
            allowance: &mut self.allowance,
            is_starved: false,
            protection: self.protection.as_deref_mut(),
            at,
            out: &mut out,
        };

        let acks = self.receiving.acks.len();
        let acks_are_due = self.ack_at.is_some_and(|due| due <= at)
            || 4 * acks >= usize::from(head.window).max(4)
            || self.sending.has_next()
            || self.sending.has_lost(at);
        if acks > 0 && acks_are_due {
            self.ack_at = None;
            for (index, (sn, ts)) in self.receiving.acks.drain(..).enumerate() {
                // `una` acknowledges the others. The last one tells the peer how long it took.
                if distance(sn, head.una) >= 0 || index + 1 == acks {
                    datagrams.push(Segment { sn, ts, ..head });
                }
            }
        }
        if std::mem::take(&mut self.tells_window) {
            let command = Command::TellWindow;
            datagrams.push(Segment { command, ..head });
        }
        if self.sending.probes(at) {
            let command = Command::AskWindow;
            datagrams.push(Segment { command, ..head });
        }
        let head = Segment {
            command: Command::Push,
            ..head
        };
        if self.sending.has_lost(at) {
            self.sending.resend(at, clock, |due| {
                datagrams.push(Segment {
                    sn: due.sn,
                    data: due.data,
                    ..head
                })
            });
        }
        while let room = datagrams.room().min(self.segment)
            && let Some(due) = self.sending.take_next(room, at, clock)
        {
            datagrams.push(Segment {
                sn: due.sn,
                data: due.data,
                ..head
            });
        }
        datagrams.finish();
        self.is_starved = datagrams.is_starved;
        self.datagram = datagrams.datagram;
    }

    /// Returns the time at which [`flush`](Self::flush) has to be called, whatever else happens; `None` if nothing is due.
    pub fn check(&self) -> Option<Instant> {
        if self.is_starved {
            return None;
        }
        let at = self.ack_at.into_iter().chain(self.sending.due_at()).min()?;
        Some(self.began + Duration::from_millis(at))
    }

    /// Returns the milliseconds since the connection began.
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    fn clock_at(&self, at: u64) -> u32 {
        self.clock.wrapping_add(at as u32)
    }
}

/// The datagrams of a flush.
struct Datagrams<'a, F: FnMut(&[u8])> {
    datagram: Vec<u8>,
    mtu: usize,
    allowance: &'a mut Option<usize>,
    is_starved: bool,
    protection: Option<&'a mut Protection>,
    at: u64,
    out: &'a mut F,
}

impl<F: FnMut(&[u8])> Datagrams<'_, F> {
    /// Adds a segment. Returns false if the address is not proved and has been sent enough.
    fn push(&mut self, segment: Segment<'_>) -> bool {
        let begins = self.begins(segment.len());
        let head = if begins { self.head() } else { 0 };
        if !self.allow(head + segment.len()) {
            self.is_starved = true;
            return false;
        }
        if begins {
            self.finish();
            self.datagram.resize(head, 0);
        }
        segment.write(&mut self.datagram);
        true
    }

    /// Returns the data that a segment may have.
    fn room(&self) -> usize {
        // That of a segment of any length has room behind both heads.
        let heads = HEAD + self.head();
        self.allowance
            .map_or(usize::MAX, |allowance| allowance.saturating_sub(heads))
    }

    fn finish(&mut self) {
        if self.datagram.is_empty() {
            return;
        }
        let Some(protection) = &mut self.protection else {
            (self.out)(&self.datagram);
            return self.datagram.clear();
        };
        protection.seal(&mut self.datagram);
        (self.out)(&self.datagram);
        self.datagram.clear();
        for parity in protection.parity(self.at) {
            if self.allow(parity.len()) {
                (self.out)(&parity);
            }
        }
    }

    /// Returns true if a segment of this length begins another datagram.
    fn begins(&self, len: usize) -> bool {
        self.datagram.is_empty() || self.datagram.len() + len > self.mtu
    }

    /// Returns the length of what is in front of the first segment.
    fn head(&self) -> usize {
        if self.protection.is_some() {
            fec::HEAD
        } else {
            0
        }
    }

    /// Returns true if so many bytes may be sent, and counts them.
    fn allow(&mut self, len: usize) -> bool {
        let Some(allowance) = self.allowance else {
            return true;
        };
        let rest = allowance.checked_sub(len);
        *self.allowance = Some(rest.unwrap_or(*allowance));
        rest.is_some()
    }
}

/// Checks that a datagram is well-formed and has segments of one connection only, which are not too long.
fn check(datagram: &[u8], conv: u32, longest: usize) -> Result<(), InputError> {
    for segment in Segment::all(datagram) {
        let segment = segment?;
        if segment.conv != conv {
            return Err(InputError::OtherConv(segment.conv));
        }
        if segment.len() > longest {
            return Err(InputError::Malformed("a segment longer than the MTU"));
        }
    }
    Ok(())
}
