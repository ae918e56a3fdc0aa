//! Questions to name servers, for what `getaddrinfo(3)` does not know: services, and the times for which answers are good.

mod client;
mod message;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use self::client::{Asker, Question, TIMEOUT};
use self::message::{Kind, Parsed, Records};
use super::Stop;
use crate::engine::client::Client;
use crate::engine::server::Running;
use crate::error::error_messages;
use crate::sys::files::read_at_most;

pub(super) use self::message::Service;

/// The times that each name server is asked.
const ROUNDS: usize = 2;

/// The most name servers, as the system's resolver has it.
const MAX_SERVERS: usize = 3;

/// The bounds of the time for which an answer is good.
const GOOD_FOR: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The reason why there are no records.
pub(super) enum NoRecords {
    /// The name does not exist, or has no such records.
    Nothing { name: String },
    /// No name server has answered.
    NoAnswer { name: String, why: String },
}

error_messages! {
    NoRecords {
        Self::Nothing { name } => "the name {name:?} does not exist, or has no such records",
        Self::NoAnswer { name, why } => "no name server tells {name:?}: {why}",
    }
}

/// Asks name servers, on a reactor of its own.
pub(super) struct NameClient {
    /// Instead of the system's name servers.
    server: Option<SocketAddr>,
    running: Option<Running<Asker>>,
}

impl NameClient {
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        Self {
            server,
            running: None,
        }
    }

    /// Returns the servers that a service has, and the time for which that is good.
    pub(super) fn services(
        &mut self,
        name: &str,
        stop: &Stop,
    ) -> Result<(Vec<Service>, Duration), NoRecords> {
        let records = self.ask(name, Kind::Srv, stop)?;
        Ok((records.services, good_for(records.ttl)))
    }

    /// Returns the addresses of a host, and the time for which they are good.
    pub(super) fn addrs(
        &mut self,
        name: &str,
        stop: &Stop,
    ) -> Result<(Vec<IpAddr>, Duration), NoRecords> {
        let v6 = self.ask(name, Kind::Aaaa, stop);
        let v4 = self.ask(name, Kind::A, stop);
        let (mut addrs, mut ttl) = (Vec::new(), u32::MAX);
        for records in [v6, v4] {
            match records {
                Ok(records) => {
                    addrs.extend(records.addrs);
                    ttl = ttl.min(records.ttl);
                }
                Err(NoRecords::Nothing { .. }) => {}
                // Half of the addresses would look like all.
                Err(no_answer) => return Err(no_answer),
            }
        }
        match addrs.is_empty() {
            true => Err(NoRecords::Nothing {
                name: name.to_owned(),
            }),
            false => Ok((addrs, good_for(ttl))),
        }
    }

    fn ask(&mut self, name: &str, kind: Kind, stop: &Stop) -> Result<Records, NoRecords> {
        let servers = match self.server {
            Some(server) => vec![server],
            None => system_servers(Path::new("/etc/resolv.conf")),
        };
        let mut why = "there is none".to_owned();
        for _ in 0..ROUNDS {
            for server in &servers {
                let mut over_tcp = false;
                let parsed = loop {
                    if stop.is_set() {
                        why = "the gateway ends".to_owned();
                        break Parsed::NotOurs;
                    }
                    match self.ask_one(*server, name, kind, over_tcp) {
                        Parsed::Truncated if !over_tcp => over_tcp = true,
                        parsed => break parsed,
                    }
                };
                match parsed {
                    Parsed::Records(records) => return Ok(records),
                    Parsed::Nothing => {
                        return Err(NoRecords::Nothing {
                            name: name.to_owned(),
                        });
                    }
                    Parsed::Failed(failure) => why = format!("{server}: {failure}"),
                    Parsed::Truncated => why = format!("{server}: its answer is cut over TCP"),
                    Parsed::NotOurs => {}
                }
            }
        }
        Err(NoRecords::NoAnswer {
            name: name.to_owned(),
            why,
        })
    }

    /// Asks a name server once.
    fn ask_one(&mut self, server: SocketAddr, name: &str, kind: Kind, over_tcp: bool) -> Parsed {
        let (answer, answered) = channel();
        let question = Question {
            server,
            name: name.to_owned(),
            kind,
            over_tcp,
            answer,
        };
        let running = match self.running.take() {
            Some(running) => running,
            None => match Client::new().start(|_| Asker::default()) {
                Ok(running) => running,
                Err(error) => return Parsed::Failed(error.to_string()),
            },
        };
        let asked = running
            .engine()
            .run_on(0, |asker, reactor| asker.ask(question, reactor));
        self.running = Some(running);
        if let Err(error) = asked {
            return Parsed::Failed(error.to_string());
        }
        // Over TCP the connect has its time, and the answer.
        let answer = answered.recv_timeout(3 * TIMEOUT);
        answer.unwrap_or_else(|_| Parsed::Failed("it has not answered in time".to_owned()))
    }
}

impl Drop for NameClient {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.engine().shutdown_within(Duration::ZERO);
            running.join();
        }
    }
}

impl fmt::Debug for NameClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameClient")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

fn good_for(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into()).clamp(GOOD_FOR.0, GOOD_FOR.1)
}

/// Returns the name servers of a file (`resolv.conf(5)`), or the one on this machine if it names none.
fn system_servers(file: &Path) -> Vec<SocketAddr> {
    let bytes = read_at_most(64 << 10, file).ok().flatten();
    let text = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let ip = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        Some(SocketAddr::new(ip.parse().ok()?, 53))
    });
    let mut servers: Vec<_> = named.take(MAX_SERVERS).collect();
    if servers.is_empty() {
        servers.push(([127, 0, 0, 1], 53).into());
    }
    servers
}

/// Reads a message as an answer, for fuzzing. Returns the number of its records.
#[cfg(feature = "internals")]
pub fn dns_answer(bytes: &[u8]) -> usize {
    let mut count = 0;
    for (name, kind) in [
        ("_http._tcp.app.test", Kind::Srv),
        ("app.test", Kind::A),
        ("app.test", Kind::Aaaa),
    ] {
        if let Parsed::Records(records) = message::parse(bytes, 0x1234, name, kind) {
            count += records.addrs.len() + records.services.len();
        }
    }
    count
}
