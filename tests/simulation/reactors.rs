//! Several reactors of one engine, with the mailbox between them. The seed decides the order of their turns.

use std::collections::HashSet;
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::testing::{Link, Peer, World, each_seed, spend};
use epicycle::{AcceptMode, Action, Conn, ConnInfo, EventHandler, Handle, Server, service};
use fastrand::Rng;

use super::world;

/// A chat room across reactors: each line goes to the member that is named in it, by a handle.
struct Room {
    members: std::rc::Rc<std::cell::RefCell<Vec<Handle<Room>>>>,
}

impl EventHandler for Room {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let mut members = self.members.borrow_mut();
        conn.send(format!("you are {}", members.len()).as_bytes())
            .ok()?;
        members.push(conn.handle());
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        let text = std::str::from_utf8(line).expect("text");
        let (to, text) = text.split_once(' ').expect("a member and a text");
        let members = self.members.borrow();
        let member = &members[to.parse::<usize>().expect("a number")];
        // It may have left.
        let _ = member.send(text.to_owned());
        Action::Continue
    }
}

const REACTORS: usize = 3;

fn chat(seed: u64) -> (u64, Vec<u64>) {
    chat_on(seed, |server| server)
}

/// Members of a room write to each other. Returns the fingerprint, and the number of members on each reactor.
fn chat_on(seed: u64, options: impl Fn(Server) -> Server) -> (u64, Vec<u64>) {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(0);
    let mut world = World::new(seed, link).expect("a world");
    let members = std::rc::Rc::default();
    let room = |_| Room {
        members: std::rc::Rc::clone(&members),
    };
    let server = world::server_on("tcp://:9000", &mut rng).reactors(REACTORS);
    let server = options(server);
    let server = match rng.bool() {
        true => server.accept_mode(AcceptMode::ReusePort),
        false => server,
    };
    let host = world.start([192, 168, 0, 1], server, room).expect("a room");
    let peers: Vec<Peer> = (0..6).map(|_| world.connect((host, 9000))).collect();
    world.run_for(Duration::from_secs(10));
    // The place of a peer in the room is for the seed to decide.
    let place = |world: &mut World, peer: &Peer| -> usize {
        let line = String::from_utf8(world.take_received(*peer)).expect("text");
        let place = line.trim().strip_prefix("you are ").expect("a greeting");
        place.parse().expect("a number")
    };
    let places: Vec<usize> = peers.iter().map(|peer| place(&mut world, peer)).collect();
    let mut said = vec![vec![Vec::new(); peers.len()]; peers.len()];
    for n in 0..200 {
        let (from, to) = (rng.usize(..peers.len()), rng.usize(..peers.len()));
        let text = format!("{from}:{n}");
        world.send(peers[from], format!("{} {text}\n", places[to]));
        said[from][to].push(text);
        if rng.u32(..4) == 0 {
            world.run_for(Duration::from_micros(rng.u64(..5_000)));
        }
    }
    world.run_for(Duration::from_secs(100));
    for (to, peer) in peers.iter().enumerate() {
        let heard = String::from_utf8(world.take_received(*peer)).expect("text");
        for (from, said) in said.iter().enumerate() {
            let prefix = format!("{from}:");
            let lines = heard.lines().filter(|line| line.starts_with(&prefix));
            let lines: Vec<&str> = lines.collect();
            assert_eq!(lines, said[to], "from {from} to {to}");
        }
    }
    let stats = world.engine(host).stats();
    let spread = stats.reactors.iter().map(|reactor| reactor.connections);
    let spread = spread.collect();
    world.finish(host);
    assert_eq!(world.stats(host).connections, 0);
    (world.fingerprint(), spread)
}

#[test]
fn writes_by_handles_between_reactors_arrive_once_and_in_each_senders_order() {
    let mut spreads = HashSet::new();
    each_seed(0..150, |seed| {
        let (_, spread) = chat(seed);
        assert_eq!(spread.iter().sum::<u64>(), 6);
        spreads.insert(spread);
    });
    assert!(spreads.contains(&vec![2; REACTORS]), "{spreads:?}");
}

#[test]
fn the_same_seed_has_the_same_trace_with_several_reactors() {
    let mut different = HashSet::new();
    let mut runs = 0;
    each_seed(0..40, |seed| {
        let first = chat(seed);
        assert_eq!(first, chat(seed));
        different.insert(first.0);
        runs += 1;
    });
    assert_eq!(different.len(), runs);
}

#[test]
fn a_simulated_loop_does_not_spin() {
    each_seed(0..5, |seed| {
        let spinning = chat_on(seed, |server| server.spin(Duration::MAX));
        assert_eq!(spinning, chat(seed));
    });
}

#[test]
fn the_order_of_the_reactors_turns_is_the_seeds() {
    let mut orders = HashSet::new();
    for seed in 0..50 {
        let mut world = World::new(seed, Link::calm()).expect("a world");
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let note = |reactor| {
            let order = order.clone();
            service(move |_, _| {
                order.borrow_mut().push(reactor);
                Action::Continue
            })
        };
        let server = Server::bind("tcp://:9000").reactors(3);
        let host = world.start([192, 168, 0, 1], server, note);
        let host = host.expect("an engine");
        let peers: Vec<Peer> = (0..3).map(|_| world.connect((host, 9000))).collect();
        world.run_for(Duration::from_secs(1));
        for peer in peers {
            world.send(peer, "x");
        }
        world.run_for(Duration::from_secs(1));
        let order = order.borrow().clone();
        assert_eq!(order.len(), 3);
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6, "all orders of three: {orders:?}");
}

#[test]
fn a_reactor_in_a_long_turn_does_not_delay_another() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let work = |_| {
        service(|conn, bytes| {
            if bytes == b"slow" {
                spend(Duration::from_secs(5));
            }
            conn.write(bytes).into()
        })
    };
    let server = Server::bind("tcp://:9000").reactors(2);
    let host = world.start([192, 168, 0, 1], server, work);
    let host = host.expect("an engine");
    let [slow, same, other] = [0, 1, 2].map(|_| world.connect((host, 9000)));
    world.run_for(Duration::from_secs(1));
    world.send(slow, "slow");
    world.run_for(Duration::from_secs(1));
    // Dealt round robin, so the third peer shares the reactor of the first.
    world.send(same, "quick");
    world.send(other, "quick");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.received(same), b"quick");
    assert_eq!(world.received(other), b"");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.received(other), b"quick");
}
