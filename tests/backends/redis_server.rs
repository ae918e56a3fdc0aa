//! A Redis server of a test's own.

use std::process::Command;

use epicycle::cluster::backends::Redis;
use redis::{Client, Connection};

use crate::process::{self, Process, free_port, is_server};
use crate::util::await_some;
use crate::util::client::TempPath;

/// A server that ends with the test.
pub(crate) struct Server {
    server: process::Server,
}

is_server!(Server);

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), args)
    }

    /// When it is started again, it has nothing of what it had.
    pub(crate) fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let server = process::Server::start_at(port, move |port| {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
            command.args(["--save", "", "--appendonly", "no", "--dir"]);
            command.arg(std::env::temp_dir()).args(&args);
            command
        });
        server.map(|server| Self { server })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn open(&self) -> Redis {
        Redis::open(&self.url()).expect("is a URL")
    }

    /// A connection of a stranger.
    pub(crate) fn stranger(&self) -> Connection {
        await_some("the server answers", || {
            Client::open(self.url()).ok()?.get_connection().ok()
        })
    }
}

/// A sentinel that watches a server.
pub(crate) struct Sentinel {
    pub(crate) port: u16,
    _process: Process,
    _config: TempPath,
}

impl Sentinel {
    pub(crate) fn start(master: &Server) -> Self {
        let (port, config) = (free_port(), TempPath::new());
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor games 127.0.0.1 {} 1\n",
            master.port
        );
        std::fs::write(&config.0, text).expect("writes");
        let process = Process::start(
            Command::new("redis-server")
                .arg(&config.0)
                .arg("--sentinel"),
        );
        Self {
            port,
            _process: process.expect("starts"),
            _config: config,
        }
    }
}
