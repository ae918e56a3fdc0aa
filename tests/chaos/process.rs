//! The process of the servers, as controlled by the process of the clients.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use serde_json::Value;

use super::kind::KINDS;
use super::ledger::Ends;
use super::server::{NODES, ROLE, SAYS};
use crate::util::await_some;
use crate::util::process::Partner;

/// The servers' process. It ends when this is dropped.
pub(crate) struct Servers {
    process: Partner,
    /// One for each kind.
    pub(crate) addresses: [SocketAddr; KINDS.len()],
    /// The certificate of the TLS server's authority, in PEM.
    pub(crate) authority: String,
}

/// The resources of the process at one moment, and their peaks since the last reset.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// One for each kind.
    pub(crate) servers: Vec<Counts>,
    /// Without those of pipes, and of the reactors' timers.
    pub(crate) descriptors: u64,
    pub(crate) pipes: u64,
    /// Resident memory in bytes, on Linux.
    pub(crate) memory: Option<u64>,
    pub(crate) peak_connections: u64,
    pub(crate) peak_buffered: u64,
    pub(crate) peak_memory: u64,
}

/// The counters of a server.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) name: String,
    pub(crate) ends: Ends,
    numbers: BTreeMap<String, u64>,
}

impl Servers {
    /// Starts this program again, as the servers of the test with that name. `nodes` are those of a gateway.
    pub(crate) fn start(test: &str, nodes: &str) -> Self {
        // The C library returns large blocks to the system at once, so that resident memory shows the memory in use.
        let allocator = ("MALLOC_MMAP_THRESHOLD_", "4096");
        let mut this = Self {
            process: Partner::start(test, &[(ROLE, test), (NODES, nodes), allocator]),
            addresses: [SocketAddr::from(([127, 0, 0, 1], 0)); KINDS.len()],
            authority: String::new(),
        };
        let said = this.listen();
        let authority = said["authority"].as_str();
        authority.expect("is text").clone_into(&mut this.authority);
        for (address, said) in this.addresses.iter_mut().zip(array(&said["addresses"])) {
            let said = said.as_str().expect("is text");
            *address = said.parse().expect("is an address");
        }
        this
    }

    pub(crate) fn look(&mut self) -> Look {
        let said = self.ask("look");
        Look {
            servers: array(&said["servers"]).iter().map(Counts::new).collect(),
            descriptors: number(&said, "descriptors"),
            pipes: number(&said, "pipes"),
            memory: said["memory"].as_u64(),
            peak_connections: number(&said, "peak_connections"),
            peak_buffered: number(&said, "peak_buffered"),
            peak_memory: number(&said, "peak_memory"),
        }
    }

    /// Waits until no connection and none of their resources are left, and returns the resources of the process.
    pub(crate) fn look_when_quiet(&mut self) -> Look {
        await_some("all connections end, and their buffers and timers", || {
            let look = self.look();
            let none = |what| look.servers.iter().all(|counts| counts.of(what) == 0);
            ["connections", "buffered", "timers", "under_way"]
                .into_iter()
                .all(none)
                .then_some(look)
        })
    }

    pub(crate) fn forget_the_peak(&mut self) {
        self.order("forget the peak");
    }

    /// Shuts the servers down. Returns their final counters.
    pub(crate) fn end(mut self) -> Vec<Counts> {
        let said = self.ask("end");
        assert!(self.process.child.wait().expect("ends").success());
        array(&said).iter().map(Counts::new).collect()
    }

    fn ask(&mut self, what: &str) -> Value {
        self.order(what);
        self.listen()
    }

    fn order(&mut self, what: &str) {
        writeln!(self.process.orders, "{what}").expect("the servers are there");
    }

    fn listen(&mut self) -> Value {
        let said = self.process.lines.find_map(|line| {
            let line = line.expect("is text");
            line.strip_prefix(SAYS).map(str::to_owned)
        });
        let said = said.expect("the servers have ended before their time");
        serde_json::from_str(&said).expect("is JSON")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
    }
}

impl Counts {
    fn new(said: &Value) -> Self {
        let all = said.as_object().expect("is an object");
        let numbers = |all: &serde_json::Map<String, Value>| {
            all.iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
                .collect::<BTreeMap<_, _>>()
        };
        let ends = said["ends"].as_object().expect("is an object");
        let ends = ends.iter().map(|(who, why)| {
            let why = why.as_object().expect("is an object");
            (who.clone(), numbers(why))
        });
        Self {
            name: said["name"].as_str().expect("has a name").to_owned(),
            ends: ends.collect(),
            numbers: numbers(all),
        }
    }

    /// Returns the number of closed connections of clients with that behaviour, for one reason or for any.
    pub(crate) fn ended(&self, who: &str, why: Option<&str>) -> u64 {
        let ends = self.ends.get(who).into_iter().flatten();
        ends.filter(|(reason, _)| why.is_none_or(|why| why == reason.as_str()))
            .map(|(_, count)| count)
            .sum()
    }

    /// Returns the number of connections of all clients that were closed for that reason.
    pub(crate) fn ended_by(&self, why: &str) -> u64 {
        self.ends.keys().map(|who| self.ended(who, Some(why))).sum()
    }

    /// Returns the counter with that name.
    pub(crate) fn of(&self, name: &str) -> u64 {
        let count = self.numbers.get(name);
        *count.unwrap_or_else(|| panic!("no {name} is counted"))
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("is an array")
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().expect("is a number")
}
