//! Files over TLS, which the engine reads.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use epicycle::codec::Lines;
use epicycle::{Action, CloseReason};

use crate::peer::Peer;
use crate::pki::{local, server_tls};
use crate::util::app::{Cut, start};
use crate::util::client::TempPath;
use crate::util::noise;
use crate::util::process::alone;

/// A file of this content, which is gone from the file system already.
fn file_of(bytes: &[u8]) -> Arc<File> {
    let path = TempPath::new();
    let mut file = File::create_new(&path.0).expect("is made");
    file.write_all(bytes).expect("is written");
    Arc::new(File::open(&path.0).expect("opens"))
}

#[test]
fn a_file_is_sent_in_order_with_what_is_written_before_and_behind() {
    let content = noise(1, 3 << 20);
    let file = file_of(&content);
    let (running, _log) = start(local(&server_tls()), move |app| {
        let file = file.clone();
        app.react(move |conn, _, _| {
            conn.write(b"head ").expect("is taken");
            conn.send_file(file.clone(), ..).expect("is taken");
            conn.write(b" between ").expect("is taken");
            conn.send_file(file.clone(), 7..).expect("is taken");
            conn.write(b" end").into()
        })
    });
    let expected = [b"head ", &content[..], b" between ", &content[7..], b" end"].concat();
    let peer = Peer::to(&running);
    for _ in 0..2 {
        peer.send("go");
        assert!(peer.recv(expected.len()) == expected, "differs");
    }
}

#[test]
fn closing_after_a_file_sends_all_of_it_and_close_notify() {
    let content = noise(2, 5 << 20);
    let file = file_of(&content);
    let (running, log) = start(local(&server_tls()), move |app| {
        let file = file.clone();
        app.react(move |conn, _, _| {
            conn.send_file(file.clone(), ..).expect("is taken");
            Action::Close
        })
    });
    let peer = Peer::to(&running);
    peer.send("go");
    let received = peer.recv_to_end().expect("ends properly");
    assert!(received == content, "differs");
    drop(peer);
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local));
    assert_eq!((closed.bytes_out, closed.unsent), (5 << 20, 0));
}

#[test]
fn a_file_that_gets_shorter_cuts_the_stream_short() {
    let path = TempPath::new();
    std::fs::write(&path.0, noise(3, 32 << 20)).expect("is written");
    let file = Arc::new(File::open(&path.0).expect("opens"));
    let (running, log) = start(local(&server_tls()), move |app| {
        let file = file.clone();
        app.react(move |conn, _, _| conn.send_file(file.clone(), ..).into())
    });
    let peer = Peer::to(&running);
    peer.send("go");
    peer.recv(1);
    let shorter = File::options().write(true).open(&path.0).expect("opens");
    shorter.set_len(16 << 20).expect("is cut");
    assert!(peer.recv_to_end().is_err());
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Io(_)), "{reason}");
}

#[test]
fn a_slow_reader_holds_little_in_memory() {
    alone("files::a_slow_reader_holds_little_in_memory", || {
        let content = noise(4, 32 << 20);
        let file = file_of(&content);
        let (running, _log) = start(local(&server_tls()), move |app| {
            let file = file.clone();
            app.codec(Cut::Lines(Lines::new()))
                .react(move |conn, _, line| match line {
                    b"file" => conn.send_file(file.clone(), ..).into(),
                    _ => conn.send(line).into(),
                })
        });
        let slow = Peer::to(&running);
        slow.send("file\n");
        let other = Peer::to(&running);
        for _ in 0..100 {
            other.round_trip("quick\n");
        }
        assert!(running.engine().stats().total().buffered <= 1 << 20);
        assert!(slow.recv(content.len()) == content, "differs");
    });
}
