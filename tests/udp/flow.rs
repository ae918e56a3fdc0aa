//! Fairness: a flood of datagrams does not starve other work.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::{Action, Addr, Listen, Server, UdpSessions};

use crate::peer::Peer;
use crate::util::app::start;
use crate::util::client::Client;
use crate::util::{LONG, eventually};

/// Sends to `to` as fast as it goes while `body` runs.
fn flood(to: &Addr, body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    socket
        .connect(to.as_socket_addr().expect("an address"))
        .expect("connects");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Bounded: what does not fit is dropped by the kernel.
                for _ in 0..100 {
                    socket.send(&[7; 100]).expect("sends");
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let _over = Over(&over);
        body();
    });
}

/// Ends the flood, also when what it is to disturb fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_datagrams_does_not_starve_connections() {
    for batch in [1, 64] {
        let listen = Listen::on("udp://127.0.0.1:0").batch(batch);
        let server = Server::bind(listen)
            .and("tcp://127.0.0.1:0")
            .and("udp://127.0.0.1:0")
            .reactors(1)
            .frame_budget(16);
        let (running, _) = start(server, |app| {
            app.on_datagram(|udp, datagram| {
                if udp.listener() == Some(0) {
                    // More slowly than they come, so that there is always another one.
                    thread::sleep(Duration::from_micros(50));
                    return Action::Continue;
                }
                udp.reply(datagram.data).into()
            })
        });
        let datagrams_in = || running.engine().stats().total().datagrams_in;
        flood(&running.local_addrs()[0], || {
            eventually("the flood is there", || datagrams_in() > 1000);
            let client = Client::connect(&running.local_addrs()[1]);
            let other = Peer::to(&running.local_addrs()[2]);
            for n in 0..50_u64 {
                client.round_trip(n.to_be_bytes());
                other.round_trip(n.to_be_bytes());
            }
            let before = datagrams_in();
            eventually("the flood goes on", || datagrams_in() > before);
            // Each socket has 16 a turn, and a turn that is not over yet is not counted.
            let total = running.engine().stats().total();
            let (came, turns) = (total.datagrams_in, total.turns);
            assert!(
                came <= 32 * (turns + 2),
                "{came} datagrams in {turns} turns"
            );
        });
    }
}

#[test]
fn a_flood_in_batches_longer_than_the_budget_does_not_starve_another_socket() {
    const BUDGET: usize = 63;
    let server = Server::bind(Listen::on("udp://127.0.0.1:0").batch(64))
        .and("udp://127.0.0.1:0")
        .reactors(1)
        .frame_budget(BUDGET);
    let (waited, waits) = mpsc::channel();
    let (running, _) = start(server, move |app| {
        let waited = waited.clone();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let mut since = None;
        let mut handled = 0_usize;
        app.on_datagram(move |udp, _| {
            if udp.listener() == Some(1) {
                let since = since.take().expect("was sent from here");
                waited.send(handled - since).expect("is awaited");
                return Action::Continue;
            }
            // More slowly than they come, so that there is always another one.
            thread::sleep(Duration::from_micros(50));
            handled += 1;
            if handled.is_multiple_of(500) && since.is_none() {
                let other = udp.engine().local_addrs()[1].as_socket_addr();
                socket
                    .send_to(b"x", other.expect("an address"))
                    .expect("sends");
                since = Some(handled);
            }
            Action::Continue
        })
    });
    let mut waits_of_other = Vec::new();
    flood(&running.local_addrs()[0], || {
        waits_of_other.extend((0..5).map(|_| waits.recv_timeout(LONG).ok()));
    });
    for waited in waits_of_other {
        let waited = waited.expect("is served");
        assert!(waited <= 4 * BUDGET, "{waited} datagrams came before it");
    }
}

#[test]
fn a_batch_is_dealt_out_over_several_turns() {
    for sessions in [false, true] {
        let listen = Listen::on("udp://127.0.0.1:0");
        let listen = match sessions {
            true => listen.sessions(UdpSessions::new()),
            false => listen,
        };
        let server = Server::bind(listen)
            .and("udp://127.0.0.1:0")
            .reactors(1)
            .frame_budget(1);
        let (running, _) = start(server, |app| app);
        let peers = [Peer::of(&running), Peer::to(&running.local_addrs()[1])];
        for round in 0..20_u8 {
            for n in 0..50_u8 {
                for peer in &peers {
                    peer.send([round, n]);
                }
            }
            for n in 0..50 {
                for peer in &peers {
                    assert_eq!(peer.recv(), [round, n]);
                }
            }
        }
    }
}

#[test]
fn a_session_that_ends_within_a_batch_does_not_hold_the_others_up() {
    let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    let (running, log) = start(Server::bind(listen).reactors(1).frame_budget(2), |app| {
        app.react(|conn, _, frame| {
            conn.write(frame).expect("is queued");
            match frame {
                [.., 0] => Action::Close,
                _ => Action::Continue,
            }
        })
    });
    let (short, long) = (Peer::of(&running), Peer::of(&running));
    for round in 1..=50_u8 {
        short.send([round, 0]);
        short.send([round, 1]);
        long.send([round, 1]);
    }
    for round in 1..=50 {
        assert_eq!(long.recv(), [round, 1]);
    }
    // Each close takes effect at the end of its turn; what comes before that is dropped.
    eventually("all are answered or dropped", || {
        let total = running.engine().stats().total();
        total.datagrams_in == 150 && total.datagrams_out + total.datagrams_dropped == 150
    });
    eventually("sessions have ended", || log.closed() > 0);
}
