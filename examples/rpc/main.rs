//! RPC by topic: each sub-command is a small program, in a file of its own. All but `config`, and `ab --to`, run both peers in
//! one process. `rpc_server` and `rpc_client` are the two in programs of their own.
//!
//! ```text
//! rpc ab --clients 10 --calls 10000
//! rpc config --file peer.toml
//! rpc auth --token wrong
//! ```

mod ab;
mod age;
mod async_calls;
mod auth;
mod bytes;
mod config;
mod detail;
mod early;
mod group;
mod plugin_tps;
mod proxy;
mod registry;
mod route_func;
#[cfg(feature = "rpc-secure")]
mod secure;
mod stream;
#[path = "../util/mod.rs"]
mod util;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// RPC between peers, by topic
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Subcommand)]
enum Topic {
    /// Puts load on a peer: calls of several clients, one after the other in each
    Ab(ab::Flags),
    /// Sessions that close at their age, and handlers that take too long
    Age,
    /// Calls that do not block: callbacks, batches, futures
    Async,
    /// A token that clients must present before anything else
    Auth(auth::Flags),
    /// Handlers on encoded bodies
    Bytes,
    /// A peer whose options are in a file
    Config(config::Flags),
    /// Log lines of messages, with their contents and times
    Detail,
    /// Messages before a session opens
    Early,
    /// Groups of routes, and a plugin for one of them
    Group,
    /// A plugin that counts the messages of each second
    PluginTps(plugin_tps::Flags),
    /// A proxy in front of two backends
    Proxy,
    /// Functions and methods as handlers
    RouteFunc,
    /// A plugin that tells a registry the addresses and routes of its peer
    Registry,
    /// Messages that are encrypted one by one (feature `rpc-secure`)
    #[cfg(feature = "rpc-secure")]
    Secure,
    /// Streams of items, in either direction and in both
    Stream,
}

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr_from(match flags.topic {
        Topic::Detail => "info",
        _ => "warn",
    });
    let outcome = match flags.topic {
        Topic::Ab(flags) => ab::run(&flags),
        Topic::Age => age::run(),
        Topic::Async => async_calls::run(),
        Topic::Auth(flags) => auth::run(flags),
        Topic::Bytes => bytes::run(),
        Topic::Config(flags) => config::run(&flags),
        Topic::Detail => detail::run(),
        Topic::Early => early::run(),
        Topic::Group => group::run(),
        Topic::PluginTps(flags) => plugin_tps::run(&flags),
        Topic::Proxy => proxy::run(),
        Topic::RouteFunc => route_func::run(),
        Topic::Registry => registry::run(),
        #[cfg(feature = "rpc-secure")]
        Topic::Secure => secure::run(),
        Topic::Stream => stream::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => util::fail("rpc", error),
    }
}
