//! A server's process, which ends with its test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::util::skipped;

pub(crate) struct Process(Child);

impl Process {
    /// Starts a program, or tells that there is none here.
    pub(crate) fn start(command: &mut Command) -> Option<Self> {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null());
        match silent.stderr(Stdio::null()).spawn() {
            Ok(child) => Some(Self(child)),
            Err(error) => {
                let program = command.get_program().to_string_lossy();
                skipped(&format!("there is no {program}: {error}"));
                None
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("is killed");
        self.0.wait().expect("has ended");
    }

    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.0), Signal::STOP).expect("is ours");
    }

    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.0), Signal::CONT).expect("is ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("has an address").port()
}
