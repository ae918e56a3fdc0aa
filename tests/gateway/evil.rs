//! A node that does what no node should.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::util::noise;

/// Starts a node that answers with anything but what it should.
pub(crate) fn evil_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { return };
            thread::spawn(move || misbehave(stream, n as u64));
        }
    });
    url
}

fn misbehave(mut stream: TcpStream, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    if rng.u32(..10) > 0 {
        let _ = stream.read(&mut [0; 2000]);
    }
    let ok = "HTTP/1.1 200 OK\r\n";
    let deed: Vec<u8> = match rng.u32(..12) {
        0 => noise(seed, 500),
        1 => ok.into(),
        2 => format!("{ok}X: {}", "a".repeat(100_000)).into(),
        3 => format!("{ok}Content-Length: 10\r\n\r\nhalf").into(),
        4 => format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n").into(),
        5 => format!("{ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc").into(),
        6 => format!("{ok}Content-Length: 2\r\n\r\nok{ok}Content-Length: 4\r\n\r\nevil").into(),
        7 => "HTTP/1.1 103 Hints\r\n\r\n".repeat(40).into(),
        8 => {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n".into()
        }
        9 => format!(
            "{ok}Connection: X-A, close\r\nX-A: 1\r\n\r\n{}",
            "x".repeat(50_000)
        )
        .into(),
        10 => format!("{ok}Content-Length: 4\r\n\r\nfine").into(),
        _ => Vec::new(),
    };
    let _ = stream.write_all(&deed);
    match rng.u32(..3) {
        0 => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
        1 => thread::sleep(Duration::from_millis(rng.u64(..100))),
        _ => {}
    }
}
