//! The gateway: exchanges over real sockets, its configuration file, and the program as a user runs it.

#[path = "../util/mod.rs"]
mod util;

mod admitting;
mod associations;
mod binding;
mod chaining;
mod changing;
mod compressing;
mod config;
mod discovering;
mod dns;
mod documented;
mod evil;
mod exchanges;
mod flushing;
mod forward;
mod hooks;
mod hostile;
mod limiting;
mod live;
mod mirroring;
mod nginx;
mod observing;
mod operating;
mod options;
mod peers;
#[cfg(feature = "tls")]
#[path = "../tls/pki.rs"]
#[allow(dead_code)]
mod pki;
mod places;
mod pools;
mod program;
mod rig;
#[cfg(feature = "tls")]
mod secure;
mod services;
mod socks;
mod splitting;
mod strange_clients;
mod strangers;
mod target_names;
mod tcp;
mod udp;
mod websockets;
mod zookeeper;
