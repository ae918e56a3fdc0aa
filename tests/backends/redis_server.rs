//! A Redis server of a test's own.

use std::process::Command;

use epicycle::cluster::backends::Redis;
use redis::{Client, Connection};

use crate::process::{Process, free_port};
use crate::util::await_some;
use crate::util::client::TempPath;

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    args: Vec<String>,
    process: Process,
}

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), args)
    }

    pub(crate) fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let process = spawn(port, &args)?;
        let server = Self {
            port,
            args,
            process,
        };
        server.await_answer();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
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

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it anew at its port, with nothing of what it had.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.port, &self.args).expect("starts again");
        self.await_answer();
    }

    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    fn await_answer(&self) {
        // With a password too, the server answers that there is one.
        await_some("the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

fn spawn(port: u16, args: &[String]) -> Option<Process> {
    let dir = std::env::temp_dir();
    Process::start(
        Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args(["--appendonly", "no", "--dir"])
            .arg(dir)
            .args(args),
    )
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
