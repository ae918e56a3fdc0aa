//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::target::{Protocol, Target};
use super::util;

/// Measures a server: how fast it answers, and how many requests it takes.
///
/// Without --rate each connection has --pipeline requests under way and sends the next one when one is answered (a
/// closed loop): this finds what a server can take. With --rate requests are due at even intervals, whether or not the
/// server keeps up (an open loop), and latency counts from the moment a request was due: one that waits for a server
/// that stalls, or for a connection, is counted with all of its wait. This is what users of that server would see.
///
/// Requests are due at exact nanoseconds. All that are due are sent whenever a reactor wakes: for an answer, or by a timer of
/// the kernel's, usually within a tenth of a millisecond. How late a request is sent counts too, and the report tells how
/// long requests waited to be sent.
///
/// Examples:
///   load tcp://127.0.0.1:9000 --connections 64
///   load http://127.0.0.1:8080/ --rate 10000 --duration 30s --report load.html
///   load wss://localhost:8443/chat --ca ca.pem --size 200
///   load unix:///run/app.sock --protocol length-field --pipeline 16 --json
#[derive(Parser)]
#[command(verbatim_doc_comment)]
pub(crate) struct Flags {
    /// What to load: tcp://HOST:PORT, tls://HOST:PORT, unix://PATH, http://HOST/PATH, https://, ws:// or wss://
    pub(crate) target: Target,
    /// What to speak to a tcp://, tls:// or unix:// target [default: echo]
    #[arg(short = 'P', long, value_enum, hide_default_value = true)]
    pub(crate) protocol: Option<Protocol>,
    /// How many connections, all reactors together
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    pub(crate) connections: usize,
    /// How many requests are due a second, all connections together; without, a closed loop
    #[arg(short, long, value_name = "N")]
    pub(crate) rate: Option<u64>,
    /// How many bytes a request carries; with HTTP its body's, which makes it a POST [default: 64, with HTTP 0]
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// How many requests may be under way on a connection
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// How long to measure
    #[arg(short, long, value_name = "PERIOD", default_value = "10s", value_parser = util::period)]
    pub(crate) duration: Duration,
    /// How long to send before that, without measuring; 0s for not at all
    #[arg(short, long, value_name = "PERIOD", default_value = "1s", value_parser = util::period_or_zero)]
    pub(crate) warm_up: Duration,
    /// How long to wait for an answer, and for a connection
    #[arg(short, long, value_name = "PERIOD", default_value = "5s", value_parser = util::period)]
    pub(crate) timeout: Duration,
    /// How many reactors, that is threads, send and receive
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) reactors: usize,
    /// The path to ask for, when the target is a socket
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// An HTTP header to send along, "Name: value"; can be given several times
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Speaks TLS where the target's scheme does not say it: to unix://
    #[arg(long)]
    pub(crate) tls: bool,
    /// Trusts the certificates in this PEM file rather than the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The name that the server's certificate must be for, in place of the target's host
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The most errors that are forgiven: with more of them, or no answer, the exit code is 1
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_errors: u64,
    /// Prints the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes the report as a web page of its own, with plots
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write \"Name: value\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
