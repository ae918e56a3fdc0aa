//! Connections without a listener: outbound, adopted and detached ones.

#[path = "../util/mod.rs"]
mod util;

mod adopting;
mod cancelling;
mod detaching;
mod echo;
mod failing;
mod lookups;
mod names;
mod opening;
mod racing;
mod reconnecting;
mod stopping;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use epicycle::{Addr, Client, Running};

use crate::util::app::App;
use crate::util::eventually;

/// The first address of a server.
fn address(server: &Running<App>) -> SocketAddr {
    let Addr::Ip(addr) = server.local_addrs()[0] else {
        panic!("no IP address");
    };
    addr
}

/// Echoes whatever arrives, with plain blocking sockets and a thread for each connection.
fn plain_echo(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepts");
            thread::spawn(move || copy_back(&stream, &stream));
        }
    });
}

fn copy_back(mut from: impl Read, mut to: impl Write) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(n) if n > 0 && to.write_all(&bytes[..n]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// An engine that only connects, with so many reactors.
fn client(reactors: usize) -> Client {
    Client::new().reactors(reactors)
}

/// Waits until nothing of any connection is left: no slot, no timer, no request.
fn is_quiet(running: &Running<App>) {
    eventually("nothing is left", || {
        let total = running.engine().stats().total();
        total.connections == 0 && total.timers == 0 && total.queued == 0
    });
}
