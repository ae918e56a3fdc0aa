//! An HTTP client that reuses its connection, and a server that sends more than was requested.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
use epicycle::testing::{Ending, Link, Peer, Simulation};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server};

/// When the second request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// In the callback that has had the first response.
    AtOnce,
    /// A second later, reads paused meanwhile.
    Later,
}

/// What has happened, in order.
type Story = Rc<RefCell<Vec<String>>>;

/// Asks twice on one connection.
struct Client {
    again: Again,
    story: Story,
}

impl Client {
    fn tell(&self, what: impl Into<String>) {
        self.story.borrow_mut().push(what.into());
    }

    fn ask_again(&self, conn: &mut Conn<'_, Self>) -> Action {
        match conn.send(ClientRequest::get("a", "/2")) {
            Ok(()) => self.tell("asked again"),
            Err(error) => self.tell(error.to_string()),
        }
        Action::Continue
    }
}

impl EventHandler for Client {
    type Codec = ClientCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        conn.send(ClientRequest::get("a", "/1")).ok()
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        response: ClientResponse<'_>,
    ) -> Action {
        self.tell(response.header("n").unwrap_or("none"));
        match self.again {
            Again::AtOnce => self.ask_again(conn),
            Again::Later => {
                conn.pause_reads();
                conn.set_timer(Duration::from_secs(1), 0);
                Action::Continue
            }
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        let action = self.ask_again(conn);
        conn.resume_reads();
        action
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.tell(reason.to_string());
    }
}

const READ_BUFFER: usize = 16 << 10;

/// A response of so many bytes, its head included.
fn response(n: u32, len: usize) -> Vec<u8> {
    let head = |body| format!("HTTP/1.1 200 OK\r\nN: {n}\r\nContent-Length: {body:05}\r\n\r\n");
    let mut response = head(len - head(0).len()).into_bytes();
    response.resize(len, b'x');
    response
}

/// What becomes of a client that is sent `first`, and half a second later `second`.
fn story(again: Again, first: &[u8], second: &[u8]) -> Vec<String> {
    let story = Story::default();
    let server = Server::bind("tcp://:1").read_buffer(READ_BUFFER);
    let mut sim = Simulation::new(1, Link::calm(), server, |_| Client {
        again,
        story: story.clone(),
    })
    .expect("a simulation");
    let peer: Peer = sim.connect();
    sim.run_for(Duration::from_millis(100));
    sim.send(peer, first);
    sim.run_for(Duration::from_millis(500));
    if !second.is_empty() {
        sim.send(peer, second);
    }
    sim.run_for(Duration::from_secs(100));
    let is_open = sim.ending(peer) == Ending::Open;
    sim.finish();
    let mut told = story.take();
    if is_open {
        told.pop();
    }
    told
}

const REFUSED: &str = "the connection closes or changes its protocol after the earlier requests, or has received input that was not requested; use another connection";
const UNASKED: &str = "a malformed HTTP message: a response that was not requested";

#[test]
fn what_a_server_sends_unasked_is_never_the_answer_to_a_later_request() {
    let unasked = response(2, 100);
    for len in [
        100,
        READ_BUFFER - 1,
        READ_BUFFER,
        READ_BUFFER + 1,
        3 * READ_BUFFER,
    ] {
        let both = [response(1, len), unasked.clone()].concat();
        for again in [Again::AtOnce, Again::Later] {
            let told = story(again, &both, &[]);
            assert_eq!(told, ["1", REFUSED, UNASKED], "{again:?}, {len} bytes");
        }
    }
    // What comes while nobody reads counts as well.
    let told = story(Again::Later, &response(1, 100), &unasked);
    assert_eq!(told, ["1", REFUSED, UNASKED]);
    // A connection on which nothing lies is used again.
    for (again, len) in [
        (Again::AtOnce, 100),
        (Again::Later, 100),
        (Again::AtOnce, 30_000),
    ] {
        let told = story(again, &response(1, len), &[]);
        assert_eq!(told, ["1", "asked again"], "{again:?}, {len} bytes");
    }
}
