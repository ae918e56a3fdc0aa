//! Round trips through a running engine: one message at a time, pipelined, and large.

#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use epicycle::{Server, service};

fn echo(c: &mut Criterion) {
    let running = Server::bind("tcp://127.0.0.1:0")
        .reactors(1)
        .start(|_| service(|conn, bytes| conn.write(bytes).into()))
        .expect("the server starts");
    let addr = running.local_addrs()[0]
        .as_socket_addr()
        .expect("it is a TCP address");
    let mut stream = TcpStream::connect(addr).expect("it accepts");
    stream.set_nodelay(true).expect("TCP has the option");

    let mut group = c.benchmark_group("echo");
    for (name, size, depth) in [
        ("64 B", 64, 1),
        ("64 B, 16 at a time", 64, 16),
        ("1 KiB", 1024, 1),
        ("64 KiB", 65_536, 1),
    ] {
        let request = vec![7; size * depth];
        let mut answer = vec![0; size * depth];
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                stream.write_all(&request).expect("it reads");
                stream.read_exact(&mut answer).expect("it answers");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, echo);
criterion_main!(benches);
