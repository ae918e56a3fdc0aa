//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::target::{Protocol, Target};
use crate::util;

/// Measures the latency and the throughput of a server.
///
/// Without --rate, each connection has --pipeline requests under way and sends the next one when it receives an answer (a
/// closed loop). This finds the highest throughput of the server. With --rate, requests are due at even intervals, even if
/// the server does not keep up (an open loop). Latency counts from the moment when a request is due. So it includes the time
/// that a request waits for a stalled server or for a connection, as the users of that server would see it.
///
/// The due times are exact to the nanosecond. A reactor sends all requests that are due whenever it wakes: for an answer, or
/// by a kernel timer, usually within a tenth of a millisecond. This delay counts as latency too, and the report shows how
/// long requests waited to be sent.
///
/// Examples:
///   epicycle load tcp://127.0.0.1:9000 --connections 64
///   epicycle load http://127.0.0.1:8080/ --rate 10000 --duration 30s --report load.html
///   epicycle load wss://localhost:8443/chat --ca ca.pem --size 200
///   epicycle load unix:///run/app.sock --protocol length-field --pipeline 16 --json
///   epicycle load kcp://127.0.0.1:3553 --connections 1000 --rate 5000
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Flags {
    /// The server: tcp://HOST:PORT, tls://HOST:PORT, unix://PATH, http://HOST/PATH, https://, ws:// or wss://; kcp://HOST:PORT for a gate
    pub(crate) target: Target,
    /// The protocol of a tcp://, tls:// or unix:// target; kcp:// implies cluster [default: echo]
    #[arg(short = 'P', long, value_enum, hide_default_value = true)]
    pub(crate) protocol: Option<Protocol>,
    /// The number of connections, of all reactors together
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    pub(crate) connections: usize,
    /// The number of requests due in a second, of all connections together [default: a closed loop]
    #[arg(short, long, value_name = "N")]
    pub(crate) rate: Option<u64>,
    /// The number of bytes in a request; with HTTP, of its body, which makes it a POST; a gate takes as much as its max_data [default: 64, with HTTP 0]
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// The number of requests that may be under way on a connection
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// The duration of the measurement
    #[arg(short, long, value_name = "PERIOD", default_value = "10s", value_parser = util::period)]
    pub(crate) duration: Duration,
    /// The duration of the warm-up before it, which is not measured; 0s for none
    #[arg(short, long, value_name = "PERIOD", default_value = "1s", value_parser = util::period_or_zero)]
    pub(crate) warm_up: Duration,
    /// The timeout of an answer, and of a connect
    #[arg(short, long, value_name = "PERIOD", default_value = "5s", value_parser = util::period)]
    pub(crate) timeout: Duration,
    /// The number of reactors, that is, of threads that send and receive
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) reactors: usize,
    /// The path to request, if the target has none
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// An HTTP header to send, "Name: value"; may be repeated
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Uses TLS on a unix:// target
    #[arg(long)]
    pub(crate) tls: bool,
    /// Trusts the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The name that the server's certificate must have, instead of the target's host
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The number of errors that are allowed; with more errors, or without an answer, the exit code is 1
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_errors: u64,
    /// Prints the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes the report as a self-contained web page with plots
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write \"Name: value\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
