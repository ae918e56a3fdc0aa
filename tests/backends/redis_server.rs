//! A Redis server of a test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use epicycle::cluster::backends::Redis;
use redis::{Client, Connection};
use rustix::process::{Pid, Signal, kill_process};

use crate::util::client::TempPath;
use crate::util::{await_some, skipped};

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    args: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), args)
    }

    pub(crate) fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(port, &args)?;
        let server = Self { port, args, child };
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
        self.child.kill().expect("is killed");
        self.child.wait().expect("has ended");
    }

    /// Starts it anew at its port, with nothing of what it had.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.args).expect("starts again");
        self.await_answer();
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("is ours");
    }

    fn await_answer(&self) {
        // With a password too, the server answers that there is one.
        await_some("the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.resume_if_paused();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn resume_if_paused(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("has an address").port()
}

fn spawn(port: u16, args: &[String]) -> Option<Child> {
    let dir = std::env::temp_dir();
    let started = Command::new("redis-server")
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
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(child),
        Err(error) => {
            skipped(&format!("there is no redis-server: {error}"));
            None
        }
    }
}

/// A sentinel that watches a server.
pub(crate) struct Sentinel {
    pub(crate) port: u16,
    child: Child,
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
        let child = Command::new("redis-server")
            .arg(&config.0)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        Self {
            port,
            child,
            _config: config,
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
