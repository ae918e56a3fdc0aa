//! HTTP over real sockets: promises to clients, and limits on hostile ones.
#![cfg(feature = "http")]

#[path = "../util/mod.rs"]
mod util;

#[cfg(feature = "tls")]
#[path = "../tls/peer.rs"]
#[allow(dead_code)]
mod peer;
#[cfg(feature = "tls")]
#[path = "../tls/pki.rs"]
#[allow(dead_code)]
mod pki;

mod answering;
mod cases;
mod client;
mod curl;
mod downloading;
mod failing;
mod fetching;
mod heads;
mod origin;
mod parsing;
mod patience;
mod pipelining;
mod pool;
mod proxy;
mod proxying;
mod relaying;
mod responses;
mod secure;
mod site;
mod static_files;
mod uploading;
mod wire;
mod writing;
