//! `epicycle admin`: asks the admin interface of a cluster.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use epicycle::cluster::State;
use epicycle::fetch::Client;
use serde_json::{Value, json};

use crate::util;

/// Asks the admin interface of a cluster, which `cluster::admin` starts
///
/// The answer is printed on standard output. The exit code is 1 if the interface cannot be reached or refuses.
///
/// Examples:
///   epicycle admin --token-file admin.token instances
///   EPICYCLE_ADMIN_TOKEN=… epicycle admin --addr http://10.0.0.7:9100 state node-1 busy
///   epicycle admin kick 7 --force
///   epicycle admin broadcast 12 '{"text": "the server restarts at 5"}'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Flags {
    /// The interface: http://HOST:PORT. The program sets it by `AdminBuilder::listen`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9100")]
    addr: String,
    /// The file that has the interface's token. Without it, the environment variable EPICYCLE_ADMIN_TOKEN is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The time for the answer
    #[arg(long, value_name = "PERIOD", default_value = "10s", value_parser = util::period)]
    timeout: Duration,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the records of all servers
    Instances,
    /// Sets the state of a gate, a node, or a mesh that has the secret of the cluster
    State {
        /// The server's id
        id: String,
        /// work, busy, hang or shut
        state: State,
    },
    /// Prints the gate, the address and the nodes of a user
    User {
        /// The user's id
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        uid: i64,
    },
    /// Closes the connection of a user
    Kick {
        /// The user's id
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        uid: i64,
        /// Resets it. Without it, what is queued for the user is sent first
        #[arg(long)]
        force: bool,
    },
    /// Pushes to all clients
    Broadcast {
        /// The route of the packets
        #[arg(allow_negative_numbers = true)]
        route: i32,
        /// The data, as JSON
        #[arg(default_value = "null")]
        data: String,
        /// The receivers
        #[arg(long, value_enum, default_value = "users")]
        to: Receivers,
    },
    /// Prints the metrics of the process, as Prometheus reads them
    Metrics,
    /// Asks if the process is ready for work
    Ready,
}

#[derive(Clone, Copy, ValueEnum)]
enum Receivers {
    /// All clients with a user
    Users,
    /// All clients
    Connections,
}

/// The environment variable of the token.
const TOKEN: &str = "EPICYCLE_ADMIN_TOKEN";

pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let (method, path, body) = request(&flags.command)?;
    let url = format!("{}{path}", flags.addr.trim_end_matches('/'));
    let client = Client::builder().timeout(flags.timeout).start()?;
    let mut request = client.request(method, url);
    if let Some(token) = token(flags)? {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request
        .send()
        .map_err(|error| format!("{error}; is the interface at {}? Set --addr", flags.addr))?;
    let text = String::from_utf8_lossy(response.body());
    let shown = match serde_json::from_slice::<Value>(response.body()) {
        Ok(value) => format!("{value:#}"),
        Err(_) => text.trim_end().to_owned(),
    };
    if response.status().is_success() {
        println!("{shown}");
        return Ok(ExitCode::SUCCESS);
    }
    let problem = serde_json::from_slice::<Value>(response.body()).ok();
    let problem = problem.and_then(|value| Some(value.get("error")?.as_str()?.to_owned()));
    let problem = problem.unwrap_or(shown);
    let remedy = match response.status().as_u16() {
        401 => format!("; set --token-file or {TOKEN}"),
        _ => String::new(),
    };
    Err(format!("{}: {problem}{remedy}", response.status()).into())
}

/// Returns the method, the path and the body of a command.
fn request(command: &Command) -> Result<(&'static str, String, Option<Value>), Box<dyn Error>> {
    let get = |path: &str| ("GET", path.to_owned(), None);
    Ok(match command {
        Command::Instances => get("/instances"),
        Command::Metrics => get("/metrics"),
        Command::Ready => get("/readyz"),
        Command::User { uid } => get(&format!("/users/{uid}")),
        Command::State { id, state } => {
            if id.is_empty()
                || !id
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"/?#%".contains(&byte))
            {
                return Err(format!("{id:?} is no server's id").into());
            }
            let body = json!({"state": state});
            ("PUT", format!("/instances/{id}/state"), Some(body))
        }
        Command::Kick { uid, force } => {
            let query = if *force { "?force=true" } else { "" };
            ("POST", format!("/users/{uid}/kick{query}"), None)
        }
        Command::Broadcast { route, data, to } => {
            let data: Value = serde_json::from_str(data).map_err(|error| {
                format!("the data is not JSON: {error}; quote it as one argument: '\"text\"'")
            })?;
            let to = match to {
                Receivers::Users => "users",
                Receivers::Connections => "connections",
            };
            let body = json!({"route": route, "data": data, "to": to});
            ("POST", "/broadcast".to_owned(), Some(body))
        }
    })
}

fn token(flags: &Flags) -> Result<Option<String>, Box<dyn Error>> {
    let token = match &flags.token_file {
        Some(file) => {
            let token = fs::read_to_string(file);
            Some(token.map_err(|error| format!("{}: {error}", file.display()))?)
        }
        None => std::env::var(TOKEN).ok(),
    };
    let token = token.map(|token| token.trim().to_owned());
    match token {
        Some(token) if token.is_empty() => Err("the token is empty".into()),
        token => Ok(token),
    }
}
