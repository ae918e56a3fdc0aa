//! A gateway between the hostile clients and its nodes, some of which are hostile too.

use std::env;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use epicycle::Server;
use epicycle::gateway::settings::{Drain, ListenerSettings, OnFin, PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, Hooks, RequestHead, Verdict};

use super::behaviour::Behaviour;
use super::evil::evil_node;
use super::ledger::Ledger;
use super::server::{NODES, Started, obey};
use super::services::{Counted, Http, MAX_PAYLOAD};
use super::storm;
use crate::util::process::{descriptor_limit, limit_descriptors};

/// The clients whose requests go to the hostile nodes. They do not compare their answers.
const AMONG_THEMSELVES: [Behaviour; 5] = [
    Behaviour::Trickling,
    Behaviour::Flooding,
    Behaviour::Resetting,
    Behaviour::Vanishing,
    Behaviour::Deaf,
];

/// Sends some hostile clients to the hostile nodes, and all others to the good one.
struct Divide;

impl Hooks for Divide {
    type Exchange = ();

    fn on_request(&mut self, request: &mut RequestHead<'_>, (): &mut ()) -> Verdict {
        let Some(IpAddr::V4(client)) = request.client() else {
            return Verdict::Close;
        };
        let who = Behaviour::at(client);
        match AMONG_THEMSELVES.iter().any(|other| other.words() == who) {
            true => Verdict::Pool("evil".to_owned()),
            false => Verdict::Forward,
        }
    }
}

/// Runs the storm and the nodes in this process, and the gateway in one of its own.
pub(crate) fn weather(test: &str, seed: u64) {
    let good = Server::bind("tcp://127.0.0.1:0")
        .start(|_| Counted::<Http>::new(Arc::<Ledger>::default()))
        .expect("starts");
    let addr = good.local_addrs()[0].as_socket_addr().expect("is TCP");
    let (evil, worse) = (evil_node(), evil_node());
    storm::pass_a_gateway(test, &format!("http://{addr} {evil} {worse}"), seed);
    good.shutdown();
}

/// Runs the gateway. Its limits are those of one in production, with timeouts short enough to fire.
pub(crate) fn serve() {
    limit_descriptors(descriptor_limit().1);
    let nodes = env::var(NODES).expect("is set");
    let mut nodes = nodes.split(' ');
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.timeouts.head = Duration::from_millis(1700);
    listener.timeouts.idle = Duration::from_millis(2000);
    listener.timeouts.body_idle = Duration::from_millis(1700);
    listener.timeouts.write_stall = Duration::from_millis(1500);
    listener.limits.max_head = 8 << 10;
    listener.limits.max_body = MAX_PAYLOAD as u64;
    listener.limits.high_water = 32 << 10;
    // More than the control group makes on a connection, and less than a flood.
    listener.limits.max_requests = 40;
    listener.limits.max_clients = Some(10_000);
    listener.limits.max_clients_per_ip = Some(24);
    listener.on_fin = OnFin::Finish;
    let mut good = PoolSettings::of(nodes.next());
    good.connections.idle_timeout = Duration::from_millis(300);
    let mut evil = PoolSettings::of(nodes);
    evil.connections.idle_timeout = Duration::from_millis(300);
    evil.timeouts.response_head = Duration::from_millis(200);
    evil.timeouts.body_idle = Duration::from_millis(200);
    // Nothing else ends a body that comes byte by byte.
    evil.timeouts.request = Duration::from_secs(1);
    let mut drain = Drain::default();
    drain.deadline = Duration::from_millis(1000);
    let gateway = Gateway::builder()
        .reactors(2)
        .listen(listener)
        .pool("good", good)
        .pool("evil", evil)
        .route(RouteSettings::to("good"))
        .drain(drain)
        .build()
        .expect("is sound");
    let running = gateway.start(|_reactor| Divide).expect("starts");
    let (engine, control) = (running.engine().clone(), running.control().clone());
    let for_metrics = control.clone();
    let address = running.local_addrs()[0].as_socket_addr();
    obey(vec![Started {
        name: "http",
        addresses: vec![address.expect("is TCP").to_string()],
        ledger: Arc::default(),
        stats: Arc::new(move || engine.stats().total()),
        under_way: Box::new(move || under_way(&for_metrics.metrics())),
        shutdown: Box::new(move || control.shutdown()),
        join: Box::new(move || running.join().into()),
    }]);
}

/// Returns the sum of what a gateway has under way, from its metrics.
pub(crate) fn under_way(metrics: &str) -> u64 {
    let gauges = ["in_flight", "tunnels", "associations", "udp_sessions"];
    let values = gauges.map(|gauge| {
        let name = format!("epicycle_gateway_{gauge} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let value = value.and_then(|value| value.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{gauge} is not in\n{metrics}"))
    });
    values.iter().sum()
}
