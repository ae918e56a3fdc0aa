//! An etcd server of a test's own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use epicycle::cluster::backends::Etcd;
use epicycle::fetch::Client;

use crate::process::{self, free_port, is_server};
use crate::util::client::TempPath;
use crate::util::eventually;

pub(crate) struct Server {
    server: process::Server,
    data: Arc<TempPath>,
}

is_server!(Server);

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start() -> Option<Self> {
        Self::start_at(free_port())
    }

    pub(crate) fn start_at(port: u16) -> Option<Self> {
        let (peer, data) = (free_port(), Arc::new(TempPath::new()));
        let folder = data.clone();
        let server = process::Server::start_at(port, move |port| {
            command(&folder.0, &format!("http://127.0.0.1:{port}"), peer)
        })?;
        let server = Self { server, data };
        server.await_health();
        Some(server)
    }

    /// Starts it anew, with what it has stored.
    pub(crate) fn restart(&mut self) {
        self.server.restart();
        self.await_health();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn open(&self) -> Etcd {
        Etcd::open(&self.url()).expect("is a URL")
    }

    /// Runs etcd's own client.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url()])
            .args(args)
            .output()
            .expect("runs");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out
    }

    /// It listens before it serves.
    fn await_health(&self) {
        let client = Client::new().expect("starts");
        eventually("etcd answers", || {
            let asked = client.get(format!("{}/health", self.url()));
            let answer = asked.timeout(Duration::from_secs(1)).send();
            answer.is_ok_and(|answer| answer.status() == 200)
        });
    }
}

/// Returns what starts a server with a folder of its own, at a URL for clients and a port for others of its kind.
pub(crate) fn command(folder: &Path, client: &str, peer: u16) -> Command {
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder);
    command.args(["--listen-client-urls", client]);
    command.args(["--advertise-client-urls", client]);
    command.args(["--listen-peer-urls", &peer]);
    command.args(["--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    command
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.kill();
        let _ = std::fs::remove_dir_all(&self.data.0);
    }
}
