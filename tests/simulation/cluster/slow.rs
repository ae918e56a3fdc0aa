//! Clients that read slowly or not at all, and what they cost the others.

use std::time::Duration;

use epicycle::cluster::drpc::{Request, Scope};
use epicycle::cluster::gate::{HeartbeatMode, SlowClient};
use epicycle::cluster::packet::{Packet, PacketOptions};
use epicycle::testing::{Link, Reading, each_seed};

use super::field::{Client, Field, GATES};
use super::node::{ECHO, NEWS};

const PUSHES: u32 = 200;
const LIMIT: usize = 64 << 10;

/// A node sends `PUSHES` packets of 2 kB to all clients of both gates. Some clients read, and some do not.
struct Audience {
    field: Field,
    good: Vec<Client>,
    bad: Vec<Client>,
}

impl Audience {
    fn gather(seed: u64, policy: SlowClient) -> Self {
        // A socket takes less than a client may have waiting.
        let link = Link::calm().send_buffer(4000..=8000);
        let mut field = Field::start(seed, link, Link::calm(), |gate| {
            gate.heartbeat(HeartbeatMode::Respond, Duration::ZERO)
                .outbound_limit(LIMIT, policy)
        });
        field.open_links();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for number in 0..20 {
            let client = field.connect(number % GATES.len());
            match field.rng.u32(..3) {
                0 => {
                    let reading = match field.rng.bool() {
                        true => Reading::Never,
                        false => Reading::Slowly(field.rng.u32(1..500)),
                    };
                    field.world.set_reading(client.peer, reading);
                    bad.push(client);
                }
                _ => good.push(client),
            }
        }
        field.world.run_for(Duration::from_millis(50));
        Self { field, good, bad }
    }

    fn publish(&mut self, number: u32) {
        let data = format!("{number} {}", "x".repeat(2000));
        let packet = Packet {
            route: NEWS,
            seq: 0,
            data: data.as_bytes(),
        };
        let packet = PacketOptions::default().encode(&packet).expect("is short");
        let engine = self.field.world.engine(self.field.nodes[0]);
        let published = engine.run_on(0, move |node, reactor| {
            for (gate, _) in GATES {
                let broadcast = Request::Broadcast {
                    scope: Scope::Conn,
                    disconnect: false,
                    packet: packet.as_bytes(),
                };
                node.send(gate, &broadcast, reactor);
            }
        });
        published.expect("the mailbox has room");
    }

    /// All that read send a packet, which is back soon.
    fn echo(&mut self, number: u32) {
        let seq = number as i32 + 1;
        for client in &self.good {
            assert!(self.field.send(client, ECHO, seq, "echo"));
        }
        self.field.world.run_for(Duration::from_millis(20));
        for client in &mut self.good {
            let read = self.field.read(client);
            let is_back = read
                .iter()
                .any(|(_, back, data)| *back == seq && data.starts_with("echo@"));
            assert!(is_back, "an echo takes more than 20 ms");
        }
    }
}

/// Returns the numbers of the news that a client has read.
fn news(client: &Client) -> Vec<u32> {
    let news = client.read.iter().filter(|(route, ..)| *route == NEWS);
    let numbers = news.map(|(.., data)| data.split_once(' ').expect("news").0.parse());
    numbers.collect::<Result<_, _>>().expect("are numbers")
}

#[test]
fn clients_that_do_not_read_are_closed_and_cost_only_themselves() {
    each_seed(0..20, |seed| {
        let mut audience = Audience::gather(seed, SlowClient::Close);
        for number in 0..PUSHES {
            audience.publish(number);
            audience.echo(number);
        }
        let Audience {
            mut field,
            good,
            bad,
        } = audience;
        for client in &good {
            assert!(
                news(client).into_iter().eq(0..PUSHES),
                "a client that reads misses something"
            );
            assert!(field.is_open(client));
        }
        for client in &bad {
            assert!(
                field.world.is_closed(client.peer),
                "it does not read, and is not closed"
            );
        }
        let slow: u64 = field.gates.iter().map(|gate| gate.stats().slow).sum();
        assert_eq!(slow, bad.len() as u64);
        field.world.run_for(Duration::from_secs(1));
        for gate in &field.gates {
            assert_eq!(gate.engine_stats(&field.world).buffered, 0);
        }
        field.finish();
    });
}

#[test]
fn clients_that_do_not_read_miss_pushes_and_cost_only_themselves_if_they_may_stay() {
    each_seed(0..20, |seed| {
        let mut audience = Audience::gather(seed, SlowClient::Drop);
        for number in 0..PUSHES {
            audience.publish(number);
            audience.echo(number);
        }
        let Audience {
            mut field,
            good,
            mut bad,
        } = audience;
        for client in &good {
            assert!(
                news(client).into_iter().eq(0..PUSHES),
                "a client that reads misses something"
            );
        }
        let waiting: u64 = field
            .gates
            .iter()
            .map(|gate| gate.engine_stats(&field.world).buffered)
            .sum();
        assert!(
            waiting <= (bad.len() * (LIMIT + (16 << 10))) as u64,
            "{waiting} bytes wait"
        );
        for client in &bad {
            field.world.set_reading(client.peer, Reading::Freely);
        }
        field.world.run_for(Duration::from_secs(60));
        for client in &mut bad {
            field.read(client);
            let numbers = news(client);
            assert!(field.is_open(client));
            assert!(
                numbers.is_sorted_by(|a, b| a < b),
                "out of order: {numbers:?}"
            );
            let count = numbers.len() as u32;
            assert!((10..PUSHES).contains(&count), "it has read {count}");
        }
        let dropped: u64 = field
            .gates
            .iter()
            .map(|gate| gate.stats().pushes_dropped)
            .sum();
        let read: usize = bad.iter().map(|client| news(client).len()).sum();
        assert_eq!(dropped as usize + read, bad.len() * PUSHES as usize);
        field.finish();
    });
}
