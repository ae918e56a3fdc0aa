//! An HTTP client that waits for a response only until its timeout.

use std::time::Duration;

use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
use epicycle::http::{Chunk, End};
use epicycle::testing::{Ending, Link, Peer, Reading, Simulation};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server, TimeoutKind,
};

/// The requests that are sent when the connection opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Once,
    Twice,
    /// A request whose body ends ten seconds later.
    Slowly,
    /// A request that the peer does not take at once.
    Much,
}

struct Client {
    asks: Asks,
    answers: usize,
    ended: Option<CloseReason>,
}

impl EventHandler for Client {
    type Codec = ClientCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::default().response_timeout(LIMIT)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let get = ClientRequest::get("a", "/");
        let sent = match self.asks {
            Asks::Once => conn.send(get),
            Asks::Twice => conn.send(get.clone()).and_then(|()| conn.send(get)),
            Asks::Much => conn.send(get.body(&[b'x'; 200_000])),
            Asks::Slowly => {
                conn.set_timer(10 * SECOND, 0);
                conn.send(ClientRequest::new("PUT", "a", "/").streamed())
            }
        };
        sent.ok()
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _: ClientResponse<'_>) -> Action {
        self.answers += 1;
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        conn.send(Chunk(b"last"))
            .and_then(|()| conn.send(End))
            .into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.ended = Some(reason);
    }
}

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(5);
const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn world(asks: Asks) -> (Simulation<Client>, Peer) {
    let server = Server::bind("tcp://:1")
        .send_buffer(4096)
        .fin_timeout(SECOND);
    let link = Link::calm().send_buffer(4096..=4096);
    let mut sim = Simulation::new(1, link, server, |_| Client {
        asks,
        answers: 0,
        ended: None,
    })
    .expect("a simulation");
    let peer = sim.connect();
    (sim, peer)
}

/// Checks that the client gives up `limit` from now, and not much before.
fn gives_up_after(mut sim: Simulation<Client>, peer: Peer, limit: Duration) {
    sim.run_for(limit - SECOND / 2);
    assert_eq!(sim.ending(peer), Ending::Open, "too early");
    sim.run_for(SECOND / 2 + SECOND / 100);
    assert_ne!(sim.ending(peer), Ending::Open, "too late");
    sim.run_for(10 * SECOND);
    let ended = sim.handler().ended.as_ref();
    let kind = ended.map(|reason| matches!(reason, CloseReason::Timeout(TimeoutKind::Response)));
    assert_eq!(kind, Some(true), "{ended:?}");
    sim.finish();
}

#[test]
fn a_response_has_to_begin_in_time_whatever_comes_before_it() {
    for interims in [false, true] {
        let (mut sim, peer) = world(Asks::Once);
        for _ in 0..8 {
            sim.run_for(SECOND / 2);
            if interims {
                sim.send(peer, INTERIM);
            }
        }
        gives_up_after(sim, peer, SECOND);
    }
}

#[test]
fn a_response_that_has_begun_in_time_may_take_longer() {
    let (mut sim, peer) = world(Asks::Once);
    sim.run_for(4 * SECOND);
    let (head, body) = RESPONSE.split_at(RESPONSE.len() - 2);
    sim.send(peer, head);
    sim.run_for(100 * SECOND);
    sim.send(peer, body);
    sim.run_for(100 * SECOND);
    // Nothing is awaited between responses.
    assert_eq!((sim.handler().answers, sim.ending(peer)), (1, Ending::Open));
    sim.finish();
}

#[test]
fn each_of_several_responses_has_its_time_from_the_one_before_it() {
    let (mut sim, peer) = world(Asks::Twice);
    sim.run_for(4 * SECOND);
    sim.send(peer, RESPONSE);
    sim.run_for(SECOND / 1000);
    assert_eq!(sim.handler().answers, 1);
    gives_up_after(sim, peer, LIMIT);
}

#[test]
fn the_time_for_a_response_begins_when_the_request_has_been_sent() {
    let (mut sim, peer) = world(Asks::Slowly);
    sim.run_for(10 * SECOND);
    gives_up_after(sim, peer, LIMIT);

    let (mut sim, peer) = world(Asks::Much);
    sim.set_reading(peer, Reading::Slowly(10_000));
    let mut taken = 0;
    while taken < 200_000 {
        sim.run_for(SECOND / 10);
        taken += sim.take_received(peer).len();
        assert_eq!(sim.ending(peer), Ending::Open, "{taken} bytes were taken");
    }
    assert!(sim.now() > 15 * SECOND, "it is slow: {:?}", sim.now());
    gives_up_after(sim, peer, LIMIT);
}
