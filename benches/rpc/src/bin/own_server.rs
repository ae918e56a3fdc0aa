//! The servers of this crate that `benches/rpc.py` measures. All have one reactor.

use std::error::Error;
use std::net::Ipv4Addr;

use clap::{Parser, ValueEnum};
use epicycle::codec::LengthField;
use epicycle::rpc::wire::{Kind, Message, Pb, Raw, RawProtocol};
use epicycle::rpc::{Peer, Router, Wire};
use epicycle::{Action, Bytes, Conn, ConnInfo, EventHandler, Server};
use rpc_bench::message::BenchmarkMessage;

/// A server to measure. It runs until the process is killed
#[derive(Parser)]
struct Flags {
    /// The port on 127.0.0.1 to listen on
    port: u16,
    kind: ServerKind,
}

#[derive(Clone, Copy, ValueEnum)]
enum ServerKind {
    /// A peer whose handler gets the encoded body, and echoes it
    CallBytes,
    /// A peer whose handler gets the message
    Call,
    /// The messages alone, without a peer, echoed
    Wire,
    /// Frames with a length field, echoed
    LengthField,
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let addr = format!("tcp4://{}:{}", Ipv4Addr::LOCALHOST, flags.port);
    match flags.kind {
        ServerKind::CallBytes | ServerKind::Call => {
            let peer = Peer::builder()
                .listen(addr)
                .routes(routes(flags.kind))
                .reactors(1)
                .start()?;
            peer.wait();
        }
        ServerKind::Wire => {
            Server::bind(addr).reactors(1).run(|_| WireEcho)?;
        }
        ServerKind::LengthField => {
            Server::bind(addr).reactors(1).run(|_| FrameEcho)?;
        }
    }
    Ok(())
}

fn routes(kind: ServerKind) -> Router {
    let mut routes = Router::new();
    if let ServerKind::CallBytes = kind {
        routes.call_bytes("/bench", |_, body, out| {
            out.extend_from_slice(body);
            Ok(())
        });
        // Pushes its body to all sessions.
        routes.push_bytes("/broadcast", |ctx, body| match ctx.session().peer() {
            Some(peer) => peer.broadcast("/news", &Raw(Bytes::copy_from_slice(body))),
            None => Ok(()),
        });
    } else {
        routes.call("/bench", |_, message: Pb<BenchmarkMessage>| {
            Ok(Pb(message.0.answered()))
        });
    }
    routes
}

struct WireEcho;

impl EventHandler for WireEcho {
    type Codec = Wire;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Wire {
        Wire::new(RawProtocol::detect())
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), call: Message<'_>) -> Action {
        if call.kind != Kind::Call {
            return Action::Close;
        }
        let mut reply = Message::reply(&call, conn.codec().dialect().echoes_uri());
        reply.codec = call.codec;
        reply.body = (&*call.body).into();
        conn.send(&reply).into()
    }
}

struct FrameEcho;

impl EventHandler for FrameEcho {
    type Codec = LengthField;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> LengthField {
        LengthField::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), frame: &[u8]) -> Action {
        conn.send(frame).into()
    }
}
