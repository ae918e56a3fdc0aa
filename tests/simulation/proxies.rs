//! Client, proxy and origin: three engines in one world, whose links are hostile.

use std::time::Duration;

use epicycle::testing::{Ending, Host, Link, Peer, World, each_seed};
use epicycle::{Server, service};
use fastrand::Rng;

use super::relay::Relay;
use super::world;

const ORIGIN: [u8; 4] = [192, 168, 0, 3];
const PROXY: [u8; 4] = [192, 168, 0, 2];

/// Starts an origin that echoes, and a proxy to it.
fn start(world: &mut World, rng: &mut Rng) -> Host<Relay> {
    let echo = |_| service(|conn, bytes| conn.write(bytes).into());
    let origin = world::server_on("tcp://:80", rng);
    world.start(ORIGIN, origin, echo).expect("an origin");
    let proxy = world::server_on("tcp://:8080", rng).reactors(rng.usize(1..4));
    let relay = |_| Relay::to("tcp://192.168.0.3:80");
    world.start(PROXY, proxy, relay).expect("a proxy")
}

/// Some peers talk to the origin through the proxy. Returns the fingerprint of the run.
fn relayed(seed: u64, resets: u32) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(resets);
    let mut world = World::new(seed, link).expect("a world");
    let proxy = start(&mut world, &mut rng);
    let peers: Vec<Peer> = (0..rng.usize(1..5))
        .map(|_| world.connect((proxy, 8080)))
        .collect();
    let mut sent = vec![Vec::new(); peers.len()];
    for _ in 0..rng.usize(1..30) {
        let n = rng.usize(..peers.len());
        let mut bytes = vec![0; world::len(&mut rng)];
        rng.fill(&mut bytes);
        if world.send(peers[n], &bytes) {
            sent[n].extend(bytes);
        }
        if rng.bool() {
            world.run_for(Duration::from_micros(rng.u64(..20_000)));
        }
    }
    for peer in &peers {
        world.set_reading(*peer, world::reading(&mut rng));
        world.shutdown(*peer);
    }
    world.run_for(Duration::from_secs(3000));
    for (peer, sent) in peers.iter().zip(&sent) {
        let received = world.received(*peer);
        assert!(sent.starts_with(received), "something else came back");
        match world.ending(*peer) {
            Ending::Finished => assert_eq!(received.len(), sent.len(), "a clean end too early"),
            ending => assert_eq!((ending, resets > 0), (Ending::Reset, true)),
        }
    }
    world.finish(proxy);
    for reactor in 0..world.engine(proxy).reactors() {
        assert!(world.handler(proxy, reactor).is_idle());
    }
    assert_eq!(world.stats(proxy).connections, 0);
    assert_eq!(world.stats(proxy).buffered, 0, "buffers have leaked");
    world.fingerprint()
}

#[test]
fn a_proxy_relays_everything_once_and_in_order() {
    each_seed(0..400, |seed| {
        relayed(seed, 0);
    });
}

#[test]
fn whatever_breaks_behind_a_proxy_its_client_sees_a_beginning_and_a_visible_end() {
    each_seed(0..400, |seed| {
        relayed(seed, 25);
    });
}

#[test]
fn the_same_seed_has_the_same_trace_in_a_world_of_several_engines() {
    let mut different = std::collections::HashSet::new();
    let mut runs = 0;
    each_seed(0..100, |seed| {
        let first = relayed(seed, 10);
        assert_eq!(first, relayed(seed, 10));
        different.insert(first);
        runs += 1;
    });
    assert_eq!(different.len(), runs);
}

#[test]
fn a_slow_client_slows_its_origin_down_and_nobody_holds_more() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let origin = |_| service(|conn, _| conn.write(&[7; 4 << 20]).into());
    let server = Server::bind("tcp://:80");
    world.start(ORIGIN, server, origin).expect("an origin");
    let proxy = Server::bind("tcp://:8080");
    let relay = |_| Relay::to("tcp://192.168.0.3:80");
    let proxy = world.start(PROXY, proxy, relay).expect("a proxy");
    // 100 KiB a second to the client, and no limit behind the proxy.
    world.set_link_from(proxy, [10, 0, 0, 1], Link::calm().bandwidth(100 << 10));
    let client = world.connect((proxy, 8080));
    world.send(client, "go");
    world.run_for(Duration::from_secs(10));
    let received = world.received(client).len();
    assert!(
        (900 << 10..=1000 << 10).contains(&received),
        "{received} bytes in ten seconds"
    );
    let stats = world.stats(proxy);
    let held = stats.bytes_in - stats.bytes_out;
    assert!(held <= 512 << 10, "the proxy holds {held} bytes");
    world.run_for(Duration::from_secs(40));
    assert_eq!(world.received(client).len(), 4 << 20);
}
