//! A handler that asks for it is told of the peer's FIN when it arrives.

use std::sync::mpsc;

use epicycle::codec::Lines;
use epicycle::{
    Action, Answer, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Running, Server,
};

use crate::util::LONG;
use crate::util::client::Client;

/// Answers `later` when the test says so, `pause` by not reading on, closes at FIN after `leave`, and gives the socket away at
/// FIN after `detach`.
struct Host {
    told: mpsc::Sender<String>,
    owed: mpsc::Sender<Answer<Host>>,
}

#[derive(Default)]
enum AtFin {
    #[default]
    ReadsOn,
    Closes,
    Detaches,
}

impl EventHandler for Host {
    type Codec = Lines;
    type Session = AtFin;

    const HANDLES_FIN: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<AtFin> {
        Some(AtFin::default())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, at_fin: &mut AtFin, line: &[u8]) -> Action {
        let _ = self.told.send(String::from_utf8_lossy(line).into());
        match line {
            b"later" => drop(self.owed.send(conn.defer_answer())),
            b"pause" => conn.pause_reads(),
            b"leave" => {
                *at_fin = AtFin::Closes;
                conn.pause_reads();
            }
            b"detach" => *at_fin = AtFin::Detaches,
            line => return conn.send(line).into(),
        }
        Action::Continue
    }

    fn on_fin(&mut self, conn: &mut Conn<'_, Self>, at_fin: &mut AtFin) -> Action {
        let _ = self.told.send("FIN".into());
        match at_fin {
            AtFin::ReadsOn => conn.resume_reads(),
            AtFin::Closes => return Action::Close,
            AtFin::Detaches => {
                let told = self.told.clone();
                let detached = conn.detach(move |_| drop(told.send("detached".into())));
                assert!(detached.is_ok());
            }
        }
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, _: &mut AtFin) -> Action {
        let _ = self.told.send("end".into());
        Action::Close
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: AtFin, reason: CloseReason) {
        let _ = self.told.send(format!("{reason:?}"));
    }
}

struct Scene {
    // First, so that it hangs up before the server shuts down.
    client: Client,
    _running: Running<Host>,
    told: mpsc::Receiver<String>,
    owed: mpsc::Receiver<Answer<Host>>,
}

fn scene() -> Scene {
    let (tell, told) = mpsc::channel();
    let (owe, owed) = mpsc::channel();
    let server = Server::bind("tcp://127.0.0.1:0").reactors(1);
    let running = server.start(move |_| Host {
        told: tell.clone(),
        owed: owe.clone(),
    });
    let running = running.expect("starts");
    Scene {
        client: Client::to(&running),
        _running: running,
        told,
        owed,
    }
}

impl Scene {
    fn hears(&self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.told.recv_timeout(LONG).as_deref(), Ok(*expected));
        }
    }
}

#[test]
fn fin_is_told_while_an_answer_is_owed_and_the_end_once_it_is_given() {
    let scene = scene();
    scene.client.send("later\n");
    let answer = scene.owed.recv_timeout(LONG).expect("it is asked");
    scene.client.end_writes();
    scene.hears(&["later", "FIN"]);
    assert!(scene.told.try_recv().is_err(), "nothing else is told yet");
    answer.send("at last").expect("is taken");
    assert_eq!(scene.client.recv_to_end(), b"at last\n");
}

#[test]
fn fin_is_told_while_reads_are_paused_and_the_input_before_it_still_arrives() {
    let scene = scene();
    scene.client.send("pause\nafter the pause\n");
    scene.client.end_writes();
    scene.hears(&["pause", "FIN", "after the pause", "end", "Peer"]);
    assert_eq!(scene.client.recv_to_end(), b"after the pause\n");
}

#[test]
fn a_handler_may_close_at_fin() {
    let scene = scene();
    scene.client.send("leave\nnever handled\n");
    scene.client.end_writes();
    scene.hears(&["leave", "FIN", "Peer"]);
    assert_eq!(scene.client.recv_to_end(), b"");
}

#[test]
fn without_anything_to_wait_for_fin_is_told_once_right_before_the_end() {
    let scene = scene();
    scene.client.round_trip("hello\n");
    scene.client.end_writes();
    scene.hears(&["hello", "FIN", "end", "Peer"]);
    assert!(scene.told.try_recv().is_err());
}

#[test]
fn a_connection_that_leaves_at_fin_is_not_closed_for_the_end_of_the_stream() {
    let scene = scene();
    scene.client.send("detach\n");
    scene.client.end_writes();
    scene.hears(&["detach", "FIN", "Detached", "detached"]);
    assert!(scene.told.try_recv().is_err(), "no end is told");
}
