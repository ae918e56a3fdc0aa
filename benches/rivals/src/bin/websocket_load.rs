//! Loads a WebSocket echo server and tells its processor time.
//!
//! Each connection keeps as many messages under way as the depth says: for each that comes back another is sent. The
//! first one on a connection is compared with what was sent, the others are only counted. Prints one line: messages,
//! seconds, and the seconds of processor time that all threads of the server have used, over the time measured.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fs, process};

use clap::Parser;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Loads a WebSocket echo server and tells its processor time
#[derive(Parser)]
struct Flags {
    /// The server's port on 127.0.0.1
    port: u16,
    /// The server's process
    pid: u32,
    /// How many connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many bytes a message has
    #[arg(long, default_value_t = 125)]
    size: usize,
    /// How many messages are under way on each connection
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// For how many seconds the load is on before the measurement
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// How many seconds are measured
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    // A load that nobody ends must not go on.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(120));
        process::abort();
    });
    let batch = Batch::new(flags.size, flags.depth);
    let poll = Poll::new()?;
    let mut peers = Vec::new();
    for n in 0..flags.connections {
        let mut stream = connected(flags.port)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(n), interest)?;
        peers.push(Peer {
            stream,
            due: batch.requests.len(),
            come: 0,
            compared: false,
        });
    }
    for peer in &mut peers {
        peer.send(&batch)?;
    }
    let mut load = Load { poll, peers, batch };
    load.run(Duration::from_secs_f64(flags.warm_up))?;
    let (begin, cpu) = (Instant::now(), processor_time(flags.pid)?);
    let messages = load.run(Duration::from_secs_f64(flags.seconds))?;
    let (took, cpu) = (begin.elapsed(), processor_time(flags.pid)? - cpu);
    println!("{messages} {} {}", took.as_secs_f64(), cpu.as_secs_f64());
    Ok(())
}

/// Connects and speaks the opening handshake (RFC 6455, section 4.1).
fn connected(port: u16) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err(format!("the server does not open a WebSocket: {head}").into());
    }
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

/// What goes to and fro. All messages are the same.
struct Batch {
    /// As many messages as are under way on a connection, back to back.
    requests: Vec<u8>,
    /// How many bytes of it one message is.
    message: usize,
    /// What the server answers to one message.
    answer: Vec<u8>,
}

impl Batch {
    fn new(size: usize, depth: usize) -> Self {
        let payload: Vec<u8> = (0..size).map(|n| (n * 7 + n / 64) as u8).collect();
        let message = masked(&payload);
        Self {
            requests: message.repeat(depth),
            message: message.len(),
            answer: [header(size, 0), payload].concat(),
        }
    }
}

/// A binary message of one frame, masked as a client's must be (RFC 6455, section 5.3).
fn masked(payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = header(payload.len(), 0x80);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// What a final binary frame of `len` bytes begins with, with the shortest form of its length.
fn header(len: usize, mask_bit: u8) -> Vec<u8> {
    let mut header = vec![0x82];
    match len {
        0..126 => header.push(mask_bit | len as u8),
        126..0x1_0000 => {
            header.push(mask_bit | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}

/// How long all threads of a process have run so far.
fn processor_time(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let told = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = told.split(' ').next().unwrap_or(&told);
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

struct Load {
    poll: Poll,
    peers: Vec<Peer>,
    batch: Batch,
}

impl Load {
    /// Keeps the load on for so long, and counts the messages that come back meanwhile.
    fn run(&mut self, how_long: Duration) -> Result<u64, Box<dyn Error>> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 1 << 20];
        let mut messages = 0;
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            self.poll.poll(&mut events, Some(Duration::from_secs(5)))?;
            if events.is_empty() {
                return Err("the server does not answer".into());
            }
            for event in &events {
                let peer = &mut self.peers[event.token().0];
                if event.is_readable() {
                    messages += peer.receive(&mut buffer, &self.batch)?;
                }
                peer.send(&self.batch)?;
            }
        }
        Ok(messages)
    }
}

/// One connection to the server.
struct Peer {
    stream: TcpStream,
    /// How many bytes are still to be sent: the rest of a message, and whole ones.
    due: usize,
    /// How many bytes of an answer have come.
    come: usize,
    /// Whether an answer has been compared with what was sent.
    compared: bool,
}

impl Peer {
    /// Sends what is due, as far as the kernel takes it.
    fn send(&mut self, batch: &Batch) -> io::Result<()> {
        while self.due > 0 {
            let begun = (batch.message - self.due % batch.message) % batch.message;
            let end = batch.requests.len().min(begun + self.due);
            match self.stream.write(&batch.requests[begun..end]) {
                Ok(sent) => self.due -= sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, and makes as many messages due as have come back. Tells how many.
    fn receive(&mut self, buffer: &mut [u8], batch: &Batch) -> Result<u64, Box<dyn Error>> {
        let mut count = 0;
        loop {
            let come = match self.stream.read(buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(come) => come,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            if !self.compared {
                let rest = &batch.answer[self.come..];
                let known = come.min(rest.len());
                if buffer[..known] != rest[..known] {
                    return Err("the server answers with something else than it got".into());
                }
                self.compared = known == rest.len();
            }
            self.come += come;
            count += self.come / batch.answer.len();
            self.come %= batch.answer.len();
            // It is edge-triggered; but a short read has taken all that there was.
            if come < buffer.len() {
                break;
            }
        }
        self.due += count * batch.message;
        Ok(count as u64)
    }
}
