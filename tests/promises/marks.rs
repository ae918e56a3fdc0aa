//! Reads that end before the socket is empty: at a mark of urgent data, and behind a message with descriptors.

use std::io::IoSlice;
use std::os::fd::AsFd;

use epicycle::{Action, Server};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::util::app::{App, Gate, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::eventually;

/// A piece of what a peer sends.
enum Piece {
    Plain(&'static str),
    /// A byte of urgent data.
    Urgent,
    /// With a descriptor.
    Carrying(&'static str),
}

use Piece::{Carrying, Plain, Urgent};

/// Has a peer send the pieces while the reactor looks elsewhere, so that all of them lie in its socket when it reads. All
/// that is no urgent data has to be handled then, without another word.
fn are_heard(server: Server, pieces: &[Piece]) {
    let (running, log) = start(server, |app: App| app.react(|_, _, _| Action::Continue));
    let client = Client::to(&running);
    log.await_open(0);
    let bytes_in = || running.engine().stats().total().bytes_in as usize;
    let gate = Gate::before(running.engine(), 0);
    let mut expected = 0;
    for piece in pieces {
        match piece {
            Plain(text) => {
                client.send(text);
                expected += text.len();
            }
            Urgent => {
                client.0.send_out_of_band(b"!").expect("sends");
            }
            Carrying(text) => {
                let descriptors = [client.0.as_fd()];
                let mut space =
                    [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
                let slices = [IoSlice::new(text.as_bytes())];
                sendmsg(&client.0, &slices, &mut control, SendFlags::empty()).expect("sends");
                expected += text.len();
            }
        }
    }
    drop(gate);
    // Nothing is written, because room for output is an event, which tells of input too.
    eventually("all of it is heard", || bytes_in() == expected);
    client.send("and so it goes on");
    eventually("and what follows", || bytes_in() > expected);
}

#[test]
fn what_follows_urgent_data_is_handled_without_waiting_for_more() {
    are_heard(local(), &[Plain("before"), Urgent, Plain("behind")]);
    are_heard(local(), &[Urgent, Plain("behind")]);
}

#[test]
fn what_follows_a_message_with_descriptors_is_handled_without_waiting_for_more() {
    let path = TempPath::new();
    let unix = || Server::bind(path.addr()).reactors(1);
    are_heard(unix(), &[Carrying("with"), Plain("behind")]);
    are_heard(
        unix(),
        &[Plain("before"), Carrying("with"), Plain("behind")],
    );
    are_heard(
        unix(),
        &[
            Carrying("one"),
            Carrying("two"),
            Carrying("three"),
            Plain("behind"),
        ],
    );
}

#[test]
fn a_stream_that_ends_behind_urgent_data_is_heard_to_its_end() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    client.round_trip("hello");
    let gate = Gate::before(running.engine(), 0);
    client.send("before");
    client.0.send_out_of_band(b"!").expect("sends");
    client.send("behind");
    client.end_writes();
    drop(gate);
    assert_eq!(client.recv_to_end(), b"beforebehind");
    let (closed, _) = log.await_close(0);
    assert_eq!(closed.bytes_in, 17);
}
