//! An etcd server of a test's own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epicycle::cluster::backends::Etcd;
use epicycle::fetch::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::redis_server::free_port;
use crate::util::client::TempPath;
use crate::util::{eventually, skipped};

pub(crate) struct Server {
    pub(crate) port: u16,
    peer_port: u16,
    data: TempPath,
    child: Child,
}

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start() -> Option<Self> {
        Self::start_at(free_port())
    }

    pub(crate) fn start_at(port: u16) -> Option<Self> {
        let (peer_port, data) = (free_port(), TempPath::new());
        let child = spawn(port, peer_port, &data)?;
        let server = Self {
            port,
            peer_port,
            data,
            child,
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
        self.child.kill().expect("is killed");
        self.child.wait().expect("has ended");
    }

    /// Starts it anew, with what it has stored.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, self.peer_port, &self.data).expect("starts again");
        self.await_answer();
    }

    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("is ours");
    }

    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("is ours");
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
        let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data.0);
    }
}

fn spawn(port: u16, peer_port: u16, data: &TempPath) -> Option<Child> {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let started = Command::new("etcd")
        .arg("--data-dir")
        .arg(&data.0)
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(child),
        Err(error) => {
            skipped(&format!("there is no etcd: {error}"));
            None
        }
    }
}
