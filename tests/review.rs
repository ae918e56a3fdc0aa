//! Regressions: what codecs, tasks and peers at the edge of their contracts must not bring about.

#[path = "util/mod.rs"]
mod util;

use epicycle::codec::{LengthField, encode_to_vec};

use crate::util::app::{Cut, local, start};
use crate::util::client::Client;

#[test]
fn a_flood_of_frames_that_fills_the_budget_exactly_goes_on() {
    let (server, log) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    // A read buffer of 80 KiB holds 2,048 of these, twice the frame budget.
    let frame = encode_to_vec(&mut LengthField::default(), [7; 36]).unwrap();
    let count = 200_000;
    Client::to(&server).echo_all(&frame.repeat(count));
    assert_eq!(log.frames(), count);
    let stats = server.engine().stats().total();
    assert_eq!((stats.panics, stats.frames), (0, count as u64));
}
