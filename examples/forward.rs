//! Forwards TCP connections: whoever connects here is joined with a connection to somewhere else. Try
//! `forward --listen tcp://:8000 --to tcp://example.com:80`. Either side may be a Unix socket instead.

mod util;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, Connect, Connecting, Endpoint, EventHandler,
    FailedConnect, Origin, Reactor, Server,
};

/// A port forwarder.
#[derive(Parser)]
struct Flags {
    /// Where to listen: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", default_value = "tcp://:9000")]
    listen: String,
    /// Where to connect to: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR")]
    to: Endpoint,
    /// How many reactors; one per core unless said otherwise
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    /// How long connecting may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = util::period)]
    timeout: Duration,
    /// Closes a pair through which nothing has gone for so long
    #[arg(long, value_name = "TIME", value_parser = util::period)]
    idle: Option<Duration>,
}

/// A reactor's part: who waits for a connection of theirs.
struct Forward {
    to: Endpoint,
    timeout: Duration,
    waiting: HashMap<u64, Waiting>,
}

/// A client that is accepted and not joined yet.
struct Waiting {
    client: ConnId,
    connecting: Connecting<Forward>,
}

impl EventHandler for Forward {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        match conn.origin() {
            Origin::Connected { token } => {
                // A client that has gone meanwhile needs no connection any more.
                let client = self.waiting.remove(&token)?.client;
                conn.pipe(client).ok()
            }
            _ => self.accept(conn),
        }
    }

    /// Nothing comes here: a client is paused until it is joined.
    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _bytes: &[u8]) -> Action {
        Action::Continue
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        if let Some(Waiting { client, .. }) = self.waiting.remove(&failed.token) {
            log::warn!("cannot forward {client} to {}: {}", failed.to, failed.error);
            reactor.with(client, |conn, ()| conn.abort());
        }
    }

    fn on_close(&mut self, info: &Closed, (): (), reason: CloseReason) {
        if let Some(Waiting { connecting, .. }) = self.waiting.remove(&info.id.as_u64()) {
            // If that is refused, the connection is closed as soon as it is open.
            let _ = connecting.cancel();
        }
        log::info!(
            "{} with {} ends: {reason}; {} bytes in, {} out",
            info.id,
            info.peer,
            info.bytes_in,
            info.bytes_out
        );
    }
}

impl Forward {
    fn accept(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let client = conn.id();
        conn.pause_reads();
        // Only connections of one reactor can be joined.
        let connect = Connect::to(self.to.clone()).timeout(self.timeout);
        let connect = connect.token(client.as_u64());
        let connecting = conn.engine().connect_on(client.reactor(), connect);
        let connecting = connecting
            .inspect_err(|error| log::warn!("cannot forward {client}: {error}"))
            .ok()?;
        let waiting = Waiting { client, connecting };
        self.waiting.insert(client.as_u64(), waiting);
        Some(())
    }
}

fn main() -> ExitCode {
    let Flags {
        listen,
        to,
        reactors,
        timeout,
        idle,
    } = Flags::parse();
    let mut server = Server::bind(listen).drain_deadline(Duration::from_secs(10));
    if let Some(reactors) = reactors {
        server = server.reactors(reactors);
    }
    if let Some(idle) = idle {
        server = server.idle_timeout(idle);
    }
    util::run("forward", server, move |_reactor| Forward {
        to: to.clone(),
        timeout,
        waiting: HashMap::new(),
    })
}
