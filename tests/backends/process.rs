//! A server's process, which ends with its test.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::util::{await_some, skipped};

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

    /// Returns when it has stopped: on a busy machine it runs for a while after the signal.
    pub(crate) fn pause(&self) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::STOP).expect("is ours");
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("stops");
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

/// A server of a test's own at a port of its own, which ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    command: Box<dyn Fn(u16) -> Command + Send + Sync>,
    process: Process,
}

impl Server {
    /// Starts the program that `command` names for a port, or tells that there is none here.
    pub(crate) fn start(command: impl Fn(u16) -> Command + Send + Sync + 'static) -> Option<Self> {
        Self::start_at(free_port(), command)
    }

    pub(crate) fn start_at(
        port: u16,
        command: impl Fn(u16) -> Command + Send + Sync + 'static,
    ) -> Option<Self> {
        let process = Process::start(&mut command(port))?;
        let command = Box::new(command);
        let server = Self {
            port,
            command,
            process,
        };
        server.await_answer();
        Some(server)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it anew at its port.
    pub(crate) fn restart(&mut self) {
        self.process = Process::start(&mut (self.command)(self.port)).expect("starts again");
        self.await_answer();
    }

    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    fn await_answer(&self) {
        // With a password too, a server lets a connection come about.
        await_some("the server listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

/// Lets a server of some kind do what each can do.
macro_rules! is_server {
    ($name:ident) => {
        impl std::ops::Deref for $name {
            type Target = crate::process::Server;

            fn deref(&self) -> &Self::Target {
                &self.server
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.server
            }
        }
    };
}

pub(crate) use is_server;
