//! `epicycle rpc`: calls another peer's routes and pushes to them.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fmt, io};

use clap::{Args, Subcommand, ValueEnum};
use epicycle::Connect;
use epicycle::rpc::wire::{Codec, Codecs, Raw};
use epicycle::rpc::{Peer, Reply, Session};
use serde_json::Value;

use crate::proto::{Proto, WEBSOCKET_PATH};
use crate::util;

/// Calls another peer, or pushes to it
#[derive(Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Calls a route. Prints the reply's body on standard output, and its metadata and cost on standard error
    ///
    /// The exit code is 1 if the peer cannot be reached or the call fails. The status is then printed on standard error.
    ///
    /// Examples:
    ///   epicycle rpc call tcp://127.0.0.1:9090 /math/add '[1, 2, 3]'
    ///   epicycle rpc call tcp://127.0.0.1:9090 '/math/add?author=me' '[1, 2]' --proto json --meta X-Trace=7
    ///   epicycle rpc call tls://example.org:443 /math/add '[1, 2]' --proto ws-json --path /rpc
    #[command(verbatim_doc_comment)]
    Call(Message),
    /// Pushes to a route. Nothing comes back: a peer does not answer a push
    ///
    /// Example:
    ///   epicycle rpc push unix:///run/app.sock /note '"that was all"'
    #[command(verbatim_doc_comment)]
    Push(Message),
}

#[derive(Args)]
struct Message {
    /// The peer: tcp://HOST:PORT, tls://HOST:PORT or unix://PATH
    addr: String,
    /// The route and its query, for example /math/add?author=me
    uri: String,
    /// The body. JSON, also for the codec form; the text itself for plain; hexadecimal digits for protobuf
    body: Option<String>,
    /// The protocol. A 4 means the dialect of Teleport v4.0.0, and ws a WebSocket: over tls:// it is what others call wss
    #[arg(short, long, value_enum, default_value = "raw")]
    proto: Proto,
    /// The path of the WebSocket, and its query if it has one [default: /ws]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The codec of the body
    #[arg(short, long, value_enum, default_value = "json")]
    codec: BodyCodec,
    /// The time for the connection, and again for the reply
    #[arg(short, long, value_name = "PERIOD", default_value = "5s", value_parser = util::period)]
    timeout: Duration,
    /// A pair of the metadata; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// Trusts the certificates in this PEM file instead of the system's, for tls://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum BodyCodec {
    Json,
    Form,
    Plain,
    Protobuf,
}

impl BodyCodec {
    fn id(self) -> Codec {
        match self {
            Self::Json => Codec::JSON,
            Self::Form => Codec::FORM,
            Self::Plain => Codec::PLAIN,
            Self::Protobuf => Codec::PROTOBUF,
        }
    }

    /// Encodes the body of the command line.
    fn encode(self, body: &str) -> Result<Vec<u8>, Box<dyn Error>> {
        match self {
            Self::Plain => Ok(body.into()),
            Self::Protobuf => from_hex(body).ok_or_else(|| {
                "the body of --codec protobuf must be hexadecimal digits, two for each byte".into()
            }),
            Self::Json | Self::Form => {
                let value: Value = serde_json::from_str(body).map_err(|error| {
                    format!("the body is not JSON: {error}; quote it as one argument: '\"text\"'")
                })?;
                if matches!(self, Self::Json) {
                    return Ok(body.into());
                }
                let mut encoded = Vec::new();
                Codecs::standard()
                    .marshal(self.id(), &value, &mut encoded)
                    .map_err(|error| {
                        format!("{error}; a form is an object of texts and numbers")
                    })?;
                Ok(encoded)
            }
        }
    }
}

/// Does what the flags ask for.
pub(crate) fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    match flags.command {
        Command::Call(message) => with_session(&message, |session, body| {
            let mut call = session.call::<_, Reply<Raw>>(&message.uri, body);
            for (key, value) in &message.meta {
                call = call.meta(key, value);
            }
            let reply = call.codec(message.codec.id()).wait()?;
            print(&reply)?;
            Ok(())
        }),
        Command::Push(message) => with_session(&message, |session, body| {
            let mut push = session.prepare_push(&message.uri, body);
            for (key, value) in &message.meta {
                push = push.meta(key, value);
            }
            push.codec(message.codec.id()).send()?;
            Ok(())
        }),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Connects, runs `work`, and closes the session once everything is sent.
fn with_session(
    message: &Message,
    work: impl FnOnce(&Session, &Raw) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let body = match &message.body {
        Some(body) => message.codec.encode(body)?,
        None => Vec::new(),
    };
    let path = match &message.path {
        Some(_) if !message.proto.is_websocket() => {
            return Err("--path is for WebSockets: add --proto ws-json, for example".into());
        }
        path => path.as_deref().unwrap_or(WEBSOCKET_PATH),
    };
    let peer = Peer::builder()
        .dial_protocol(message.proto.of_dial(path))
        .call_timeout(message.timeout)
        .close_within(message.timeout)
        .reactors(1)
        .start()?;
    let begun = Instant::now();
    let session = peer.dial(connect(message)?)?;
    log::info!("connected after {:.1?}", begun.elapsed());
    let result = work(&session, &Raw(body.into()));
    peer.shutdown();
    result
}

fn connect(message: &Message) -> Result<Connect, Box<dyn Error>> {
    let (addr, is_tls) = match message.addr.strip_prefix("tls://") {
        Some(rest) => (format!("tcp://{rest}"), true),
        None => (message.addr.clone(), false),
    };
    let connect = Connect::to(&addr).timeout(message.timeout);
    match (is_tls, &message.ca) {
        (true, ca) => Ok(connect.tls(&util::tls_client(ca.as_deref())?)),
        (false, Some(_)) => Err("--ca is for TLS: write tls://HOST:PORT".into()),
        (false, None) => Ok(connect),
    }
}

/// Prints the body on standard output, and everything else on standard error.
fn print(reply: &Reply<Raw>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match (reply.codec, std::str::from_utf8(&reply.body.0)) {
        (Codec::PROTOBUF, _) | (_, Err(_)) => writeln!(out, "{}", Hex(&reply.body.0))?,
        (_, Ok(text)) => writeln!(out, "{text}")?,
    }
    for (key, value) in reply.meta.iter() {
        let (key, value) = (
            String::from_utf8_lossy(&key),
            String::from_utf8_lossy(&value),
        );
        eprintln!(
            "meta {}: {}",
            key.escape_debug().to_string().replace("\\'", "'"),
            value.escape_debug().to_string().replace("\\'", "'")
        );
    }
    let codec = match reply.codec {
        Codec::NONE => "none".to_owned(),
        codec => Codecs::standard().format(codec).name().to_owned(),
    };
    eprintln!(
        "codec {codec}, {} bytes, after {:.1?}",
        reply.body.0.len(),
        reply.cost
    );
    Ok(())
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
