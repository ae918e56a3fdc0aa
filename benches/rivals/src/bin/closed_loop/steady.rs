//! Connections that stay open during the load.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::message::{Answer, Exchange};
use crate::{Clients, Counts};

/// The number of connections opened at once, which is less than a listener's backlog.
const AT_ONCE: usize = 64;

pub(crate) struct Steady {
    peers: Vec<Peer>,
    buffer: Vec<u8>,
    batch: Batch,
    answer: Answer,
}

/// The messages by turns, back to back: one of each turn, and as many more as are under way on a connection. So a write
/// that begins with any turn can send as many.
struct Batch {
    bytes: Vec<u8>,
    /// The end of each message.
    ends: Vec<usize>,
    /// The number of different messages.
    turns: usize,
}

impl Batch {
    fn new(messages: &[Vec<u8>], depth: usize) -> Self {
        let mut bytes = Vec::new();
        let by_turns = messages.iter().cycle().take(messages.len() + depth);
        let ends = by_turns.map(|message| {
            bytes.extend(message);
            bytes.len()
        });
        Self {
            ends: ends.collect(),
            bytes,
            turns: messages.len(),
        }
    }

    fn begin(&self, turn: usize) -> usize {
        turn.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

impl Steady {
    /// Opens all connections and sends the first messages.
    pub(crate) fn open(
        registry: &Registry,
        addr: SocketAddr,
        exchange: Exchange,
        connections: usize,
        depth: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let batch = Batch::new(&exchange.messages, depth);
        let mut peers = Vec::new();
        for n in 0..connections {
            if n % AT_ONCE == AT_ONCE - 1 {
                thread::sleep(Duration::from_millis(2));
            }
            let mut stream = exchange.connect(addr)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, Token(n), interest)?;
            peers.push(Peer::new(stream, n % batch.turns, &batch));
        }
        for peer in &mut peers {
            peer.ask(depth, &batch)?;
        }
        Ok(Self {
            peers,
            buffer: vec![0; 1 << 20],
            batch,
            answer: exchange.answer,
        })
    }
}

impl Clients for Steady {
    fn ready(
        &mut self,
        _: &Registry,
        event: &Event,
        counts: &mut Counts,
    ) -> Result<(), Box<dyn Error>> {
        let peer = &mut self.peers[event.token().0];
        if event.is_readable() {
            let answers = peer.receive(&mut self.buffer, &self.answer, counts)?;
            if answers > 0 {
                peer.ask(answers, &self.batch)?;
            }
        }
        if event.is_writable() {
            peer.send(&self.batch)?;
        }
        Ok(())
    }
}

/// One connection to the server.
struct Peer {
    stream: TcpStream,
    /// The number of messages that are due and not sent completely.
    due: usize,
    /// The message in the batch whose turn it is, and the next byte to be sent.
    turn: usize,
    sent: usize,
    /// The number of bytes received of the current answer.
    come: usize,
    /// The times when the messages under way became due, and the number of messages at each.
    under_way: VecDeque<(Instant, usize)>,
}

impl Peer {
    /// `turn` is the message with which it begins, so that not all connections send the same one.
    fn new(stream: TcpStream, turn: usize, batch: &Batch) -> Self {
        Self {
            stream,
            due: 0,
            turn,
            sent: batch.begin(turn),
            come: 0,
            under_way: VecDeque::new(),
        }
    }

    /// Makes more messages due.
    fn ask(&mut self, count: usize, batch: &Batch) -> io::Result<()> {
        self.under_way.push_back((Instant::now(), count));
        self.due += count;
        self.send(batch)
    }

    /// Sends due messages, as far as the kernel accepts them.
    fn send(&mut self, batch: &Batch) -> io::Result<()> {
        while self.due > 0 {
            let end = batch.begin(self.turn + self.due);
            match self.stream.write(&batch.bytes[self.sent..end]) {
                Ok(sent) => self.on_sent(sent, batch),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn on_sent(&mut self, sent: usize, batch: &Batch) {
        self.sent += sent;
        while self.due > 0 && batch.ends[self.turn] <= self.sent {
            self.turn += 1;
            self.due -= 1;
        }
        let rounds = self.turn - self.turn % batch.turns;
        self.sent -= batch.begin(rounds);
        self.turn -= rounds;
    }

    /// Reads the available input. Returns the number of answers that it completes.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        answer: &Answer,
        counts: &mut Counts,
    ) -> Result<usize, Box<dyn Error>> {
        let mut answers = 0;
        loop {
            let come = match self.stream.read(buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(come) => come,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            answers += self.check(&buffer[..come], answer)?;
            // Events are edge-triggered, but a short read has drained the socket.
            if come < buffer.len() {
                break;
            }
        }
        self.answered(answers, counts);
        Ok(answers)
    }

    /// Compares bytes with the expected answers.
    fn check(&mut self, mut bytes: &[u8], answer: &Answer) -> Result<usize, Box<dyn Error>> {
        let mut answers = 0;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(answer.len - self.come));
            let known = answer.begin.get(self.come..).unwrap_or_default();
            let compared = known.len().min(part.len());
            if part[..compared] != known[..compared] {
                return Err("the server answers something else than it should".into());
            }
            self.come += part.len();
            if self.come == answer.len {
                answers += 1;
                self.come = 0;
            }
            bytes = rest;
        }
        Ok(answers)
    }

    fn answered(&mut self, mut answers: usize, counts: &mut Counts) {
        counts.answers += answers as u64;
        let now = Instant::now();
        while answers > 0
            && let Some((since, count)) = self.under_way.front_mut()
        {
            let of_these = answers.min(*count);
            let latency = now.duration_since(*since).as_nanos() as u64;
            counts
                .latencies
                .saturating_record_n(latency, of_these as u64);
            answers -= of_these;
            *count -= of_these;
            if *count == 0 {
                self.under_way.pop_front();
            }
        }
    }
}
