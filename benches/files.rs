//! Compares ways to send a file: `send_file`, by the kernel and by reads, and a handler that reads and writes. Measures the
//! processor time of all threads but the receiver, and the peak of memory. The ways take turns in one run, and the results
//! are medians of several rounds.

#![allow(missing_docs)]

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epicycle::codec::Raw;
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::{ClockId, clock_gettime};

const LEN: usize = 256 << 20;
const ROUNDS: usize = 7;
const PIECE: usize = 128 << 10;

/// The ways to send the file. The receiver requests one by its number.
const WAYS: [&str; 4] = [
    "send_file, by the kernel",
    "send_file, by reads",
    "read and write, 128 KiB at a time",
    "read and write, all at once",
];

fn main() {
    // `cargo test` runs this too, and must not measure.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let path = std::env::temp_dir().join(format!("epicycle-files-{}", std::process::id()));
    fs::write(&path, vec![7; LEN]).expect("there is room for the file");
    let file = Arc::new(File::open(&path).expect("it opens"));
    fs::remove_file(&path).expect("it is there");
    let running = Server::bind("tcp://127.0.0.1:0")
        .reactors(1)
        .outbound_limit(2 * LEN)
        .start(move |_| Files { file: file.clone() })
        .expect("the server starts");
    let addr = running.local_addrs()[0].as_socket_addr();
    let addr = addr.expect("it is a TCP address");

    let mut results = [const { Vec::new() }; WAYS.len()];
    for round in 0..=ROUNDS {
        for (way, results) in results.iter_mut().enumerate() {
            let stream = TcpStream::connect(addr).expect("it accepts");
            let result = fetch(&stream, way as u8);
            // The first round is the warm-up.
            if round > 0 {
                results.push(result);
            }
        }
    }
    println!(
        "{:<36} {:>8} {:>14} {:>12}",
        "", "GiB/s", "CPU s a GiB", "memory, MiB"
    );
    let gib = LEN as f64 / f64::from(1 << 30);
    for (way, results) in WAYS.iter().zip(&mut results) {
        let mut median = |of: fn(&Fetched) -> f64| {
            results.sort_by(|a, b| of(a).total_cmp(&of(b)));
            of(&results[ROUNDS / 2])
        };
        let (took, cpu) = (
            median(|r| r.took.as_secs_f64()),
            median(|r| r.cpu.as_secs_f64()),
        );
        let memory = median(|r| r.memory as f64 / f64::from(1 << 20));
        println!(
            "{way:<36} {:>8.2} {:>14.3} {memory:>12.1}",
            gib / took,
            cpu / gib
        );
    }
}

struct Fetched {
    took: Duration,
    cpu: Duration,
    memory: usize,
}

/// Requests the file and discards it.
fn fetch(stream: &TcpStream, way: u8) -> Fetched {
    let time = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let others = || time(ClockId::ProcessCPUTime) - time(ClockId::ThreadCPUTime);
    let (before, cpu, begin) = (resident(), others(), Instant::now());
    rustix::net::send(stream, &[way], SendFlags::empty()).expect("it is sent");
    let mut room = vec![0; 1 << 20];
    let (mut received, mut most, mut looked) = (0, before, 0);
    while received < LEN {
        // The kernel drops the bytes without copying them.
        let flags = RecvFlags::TRUNC;
        let (_, n) = rustix::net::recv(stream, &mut room[..], flags).expect("it is received");
        assert!(n > 0, "it ends after {received} bytes");
        received += n;
        if received - looked > 8 << 20 {
            looked = received;
            most = most.max(resident());
        }
    }
    Fetched {
        took: begin.elapsed(),
        cpu: others() - cpu,
        memory: most - before,
    }
}

/// Returns the resident memory of this process in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    resident.unwrap_or(0) * rustix::param::page_size()
}

struct Files {
    file: Arc<File>,
}

impl EventHandler for Files {
    type Codec = Raw;
    /// The number of bytes read so far, if the handler reads the file in pieces.
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<usize> {
        Some(LEN)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, read: &mut usize, way: &[u8]) -> Action {
        match way[0] {
            0 => conn.send_file(self.file.clone(), ..).into(),
            1 => {
                // sendfile(2) fails if its output is open for appending, so the engine reads the file instead.
                let flags = fcntl_getfl(conn.as_fd()).expect("it has flags");
                fcntl_setfl(conn.as_fd(), flags | OFlags::APPEND).expect("it takes them");
                conn.send_file(self.file.clone(), ..).into()
            }
            2 => {
                *read = 0;
                self.go_on(conn, read)
            }
            _ => conn.write_shared(self.piece(0, LEN)).into(),
        }
    }
}

impl Files {
    /// Reads and writes a piece, and the next one once the kernel has accepted it.
    fn go_on(&mut self, conn: &mut Conn<'_, Self>, read: &mut usize) -> Action {
        if *read == LEN {
            return Action::Continue;
        }
        let piece = self.piece(*read, PIECE);
        *read += PIECE;
        let handle = conn.handle();
        let taken = move |_| {
            let _ = handle.run(|files, conn, read| {
                let _ = files.go_on(conn, read);
            });
        };
        conn.write_then(piece, taken).into()
    }

    fn piece(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, offset as u64);
        read.expect("the file is long enough");
        bytes
    }
}
