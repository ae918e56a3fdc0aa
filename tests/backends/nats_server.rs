//! A NATS server of a test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use epicycle::cluster::backends::Nats;

use crate::process::{self, free_port, is_server};
use crate::util::LONG;

pub(crate) struct Server {
    server: process::Server,
}

is_server!(Server);

impl Server {
    /// Starts a server, or tells that there is none here.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), args)
    }

    pub(crate) fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        // It may be where only root looks for programs.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let server = process::Server::start_at(port, move |port| {
            let mut command = Command::new("nats-server");
            command.env("PATH", &path);
            command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
            command.args(&args);
            command
        });
        server.map(|server| Self { server })
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn open(&self) -> Nats {
        Nats::open(&self.url()).expect("is a URL")
    }

    /// A connection of a stranger, who has introduced himself.
    pub(crate) fn stranger(&self) -> Stranger {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.set_read_timeout(Some(LONG)).expect("is set");
        let mut stranger = Stranger(BufReader::new(stream));
        assert!(stranger.line().starts_with("INFO "));
        stranger.say(b"CONNECT {\"verbose\":false}\r\n");
        stranger.settle();
        stranger
    }
}

pub(crate) struct Stranger(BufReader<TcpStream>);

impl Stranger {
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("is sent");
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("is read");
        line.trim_end().to_owned()
    }

    /// Waits until the server has done what it was told.
    pub(crate) fn settle(&mut self) {
        self.say(b"PING\r\n");
        assert_eq!(self.line(), "PONG");
    }

    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.say(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        self.say(payload);
        self.say(b"\r\n");
    }

    /// The next message: its subject and its payload.
    pub(crate) fn message(&mut self) -> (String, Vec<u8>) {
        let line = self.line();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "MSG", "{line}");
        let len: usize = words[words.len() - 1].parse().expect("is a length");
        let mut payload = vec![0; len + 2];
        self.0.read_exact(&mut payload).expect("is read");
        payload.truncate(len);
        (words[1].to_owned(), payload)
    }
}
