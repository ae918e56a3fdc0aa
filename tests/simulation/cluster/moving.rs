//! Users of real nodes that move to others, because somebody wants it or because their node stops.

use std::collections::HashSet;
use std::time::Duration;

use epicycle::cluster::gate::{GateBuilder, HeartbeatMode};
use epicycle::testing::{Link, each_seed};
use fastrand::Rng;

use super::field::{Client, Field, GATES};
use super::node::{ECHO, LOGIN, PLAY};
use super::real::Game;
use crate::world;

/// Clients with users. The data of their packets is `CLIENT:COUNT`.
struct Players {
    /// With the number of packets that each has sent.
    clients: Vec<(Client, u64)>,
    /// The packets that must be handled and answered.
    wanted: HashSet<String>,
}

impl Players {
    /// Connects clients, each of which logs in and is bound to the node that has taken its login.
    fn log_in(field: &mut Field, count: usize) -> Self {
        let mut clients = Vec::new();
        for number in 0..count {
            let gate = field.rng.usize(..GATES.len());
            let client = field.connect(gate);
            assert!(field.send(&client, LOGIN, 1, &(number + 1).to_string()));
            clients.push((client, 1));
        }
        let mut players = Self {
            clients,
            wanted: HashSet::new(),
        };
        players.run_until(field, "all have logged in", |players, _| {
            let mut clients = players.clients.iter().enumerate();
            clients.all(|(number, (client, _))| {
                let code = client.read.first().map(|(.., data)| data.as_str());
                code == Some(&*format!("{}=0", number + 1))
            })
        });
        for (client, _) in &mut players.clients {
            client.read.clear();
        }
        players
    }

    /// A client sends a request, mostly to the node of its user.
    fn send(&mut self, field: &mut Field) {
        let number = field.rng.usize(..self.clients.len());
        let (client, sent) = &mut self.clients[number];
        let data = format!("{number}:{sent}");
        *sent += 1;
        let route = match field.rng.u32(..4) {
            0 => ECHO,
            _ => PLAY,
        };
        assert!(field.send(client, route, *sent as i32, &data));
        self.wanted.insert(data);
    }

    fn run_until(&mut self, field: &mut Field, what: &str, done: impl Fn(&Self, &Field) -> bool) {
        for _ in 0..10_000 {
            field.catch_up();
            for (client, _) in &mut self.clients {
                field.read(client);
            }
            if done(self, field) {
                return;
            }
            field.world.run_for(Duration::from_millis(20));
        }
        panic!("{what} has not happened");
    }

    /// Checks that each request was handled and answered once, and that those to the node of the user were handled in order,
    /// whichever node that was.
    fn check(mut self, field: &mut Field) {
        self.run_until(field, "an answer to each request", |players, _| {
            let answers = players.clients.iter().map(|(client, _)| client.read.len());
            answers.sum::<usize>() >= players.wanted.len()
        });
        // One that is answered twice has the time for it.
        field.world.run_for(Duration::from_secs(5));
        let mut answered = HashSet::new();
        for (client, _) in &mut self.clients {
            for (_, seq, data) in field.read(client) {
                let (packet, _) = data.split_once('@').expect("a node sent it");
                assert_eq!(*seq as u64, parts(packet).1 + 1);
                assert!(answered.insert(packet.to_owned()), "{packet} twice");
            }
        }
        assert_eq!(answered, self.wanted);
        let (mut handled, mut last) = (HashSet::new(), vec![0; self.clients.len()]);
        for (route, packet) in field.order.lock().iter() {
            assert!(handled.insert(packet.clone()), "{packet} is handled twice");
            let (client, count) = parts(packet);
            if *route == PLAY {
                assert!(count > last[client], "{packet} behind {}", last[client]);
                last[client] = count;
            }
        }
        assert_eq!(handled, self.wanted);
    }
}

/// Returns client and count of a packet.
fn parts(packet: &str) -> (usize, u64) {
    let (client, count) = packet.split_once(':').expect("a packet");
    let client = client.parse().expect("a number");
    (client, count.parse().expect("a count"))
}

fn quiet(gate: GateBuilder) -> GateBuilder {
    gate.heartbeat(HeartbeatMode::Respond, Duration::ZERO)
}

fn links(rng: &mut Rng) -> Link {
    Link::calm()
        .segments(rng.usize(1..2000))
        .delay(Duration::ZERO..=Duration::from_millis(rng.u64(1..50)))
}

/// Users move between nodes. Returns the trace.
pub(crate) fn wander(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let links = links(&mut rng);
    let mut field = Field::start_real(seed, world::link(&mut rng).resets(0), links, quiet);
    field.open_links();
    let mut players = Players::log_in(&mut field, 1 + seed as usize % 10);
    let mut moved = vec![Duration::ZERO; players.clients.len()];
    for _ in 0..150 {
        players.send(&mut field);
        let at = rng.usize(..moved.len());
        if rng.bool() {
            moved[at] = field.world.now();
            let uid = at as i64 + 1;
            let later = field.real[rng.usize(..3)].later();
            let bind = later.bind_node(uid, |_: &mut Game, _, bound| bound);
            bind.expect("the node runs");
        }
        field.pass(Duration::from_millis([1, 10, 100][rng.usize(..3)]));
    }
    players.check(&mut field);
    field.finish()
}

/// All nodes are replaced. Returns the trace.
pub(crate) fn replace(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let links = links(&mut rng);
    let mut field = Field::start_real(seed, world::link(&mut rng).resets(0), links, quiet);
    field.open_links();
    let mut players = Players::log_in(&mut field, 1 + seed as usize % 10);
    for number in 4..7 {
        field.start_real_node(&format!("node-{number}"), [10, 0, 1, number]);
        let deadline = Duration::from_secs(60);
        while !field.real[0].drain(&field.world, deadline) {
            if rng.bool() {
                players.send(&mut field);
            }
            field.pass(Duration::from_millis(20));
        }
        let old = field.real.remove(0);
        old.finish(&mut field.world);
    }
    players.check(&mut field);
    field.finish()
}

#[test]
fn users_move_between_nodes_and_their_requests_are_handled_once_and_in_order() {
    each_seed(0..12, |seed| drop(wander(seed)));
}

#[test]
fn all_nodes_are_replaced_under_load_and_each_request_is_answered_once() {
    each_seed(0..12, |seed| drop(replace(seed)));
}
