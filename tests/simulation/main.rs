//! The engine's promises on a simulated network: thousands of seeds, each with its own connections and faults.
//!
//! `EPICYCLE_SEEDS=10000 cargo test --release --features full --test simulation -- --nocapture` tries more seeds and prints the
//! totals. If a seed fails, the output tells how to replay it.

#[cfg(feature = "ws")]
mod bombs;
mod breaking;
#[cfg(feature = "http")]
mod clients;
#[cfg(feature = "cluster")]
mod cluster;
mod codecs;
mod crowd;
mod datagrams;
mod dials;
#[cfg(feature = "http")]
mod exchanges;
mod fairness;
mod faulty;
#[cfg(feature = "http")]
mod fetching;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "gateway")]
mod gateway_datagrams;
#[cfg(feature = "gateway")]
mod gateway_routes;
#[cfg(feature = "gateway")]
mod gateway_tunnels;
mod handles;
mod hosts;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod http_proxies;
mod idle;
mod ledger;
mod limits;
mod listening;
mod memory;
#[cfg(feature = "http")]
#[path = "../http/origin.rs"]
mod origin;
mod pace;
mod panics;
mod pipes;
#[cfg(feature = "proxy-protocol")]
mod proxied;
mod proxies;
#[cfg(feature = "http")]
#[path = "../http/proxy.rs"]
mod proxy;
mod reaching;
mod reactors;
#[cfg(feature = "rpc")]
mod redial;
mod relay;
#[cfg(feature = "http")]
mod reuse;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(feature = "rpc")]
mod rpc_multi;
#[cfg(feature = "rpc")]
mod rpc_plugins;
#[cfg(feature = "rpc")]
mod rpc_results;
#[cfg(feature = "rpc")]
mod rpc_streams;
mod storm;
mod switching;
mod timeouts;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "http")]
mod waiting;
mod workers;
mod world;
mod writes;
#[cfg(feature = "ws")]
mod ws;
#[cfg(feature = "ws")]
mod ws_client;
