//! An etcd server of a test's own.

use std::process::Command;
use std::time::Duration;

use epicycle::cluster::backends::Etcd;
use epicycle::fetch::Client;

use crate::process::{Process, free_port};
use crate::util::client::TempPath;
use crate::util::eventually;

pub(crate) struct Server {
    pub(crate) port: u16,
    peer_port: u16,
    data: TempPath,
    process: Process,
}

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start() -> Option<Self> {
        Self::start_at(free_port())
    }

    pub(crate) fn start_at(port: u16) -> Option<Self> {
        let (peer_port, data) = (free_port(), TempPath::new());
        let process = spawn(port, peer_port, &data)?;
        let server = Self {
            port,
            peer_port,
            data,
            process,
        };
        server.await_answer();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn open(&self) -> Etcd {
        Etcd::open(&self.url()).expect("is a URL")
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it anew, with what it has stored.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.port, self.peer_port, &self.data).expect("starts again");
        self.await_answer();
    }

    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
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

    fn await_answer(&self) {
        let client = Client::new().expect("starts");
        eventually("etcd answers", || {
            let asked = client.get(format!("{}/health", self.url()));
            let answer = asked.timeout(Duration::from_secs(1)).send();
            answer.is_ok_and(|answer| answer.status() == 200)
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.data.0);
    }
}

fn spawn(port: u16, peer_port: u16, data: &TempPath) -> Option<Process> {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    Process::start(
        Command::new("etcd")
            .arg("--data-dir")
            .arg(&data.0)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")]),
    )
}
