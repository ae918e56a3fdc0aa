//! Forwards TCP connections: joins each accepted connection with a new connection to another address. Try
//! `forward --listen tcp://:8000 --to tcp://example.com:80`. Either side may also be a Unix socket.

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, Connect, Connecting, Endpoint,
    EventHandler, FailedConnect, Origin, Reactor, Server,
};

/// A port forwarder
#[derive(Parser)]
struct Flags {
    /// The address to listen on: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", default_value = "tcp://:9000")]
    listen: String,
    /// The address to connect to: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR")]
    to: Endpoint,
    /// The number of reactors [default: one per core]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    /// The timeout of a connect
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = util::period)]
    timeout: Duration,
    /// Closes a pair of connections that has been idle for this long
    #[arg(long, value_name = "TIME", value_parser = util::period)]
    idle: Option<Duration>,
}

/// The handler of a reactor.
struct Forward {
    to: Endpoint,
    timeout: Duration,
}

impl EventHandler for Forward {
    type Codec = Raw;
    /// The connect that a client waits for, whose token is the client's identifier. None for a connection to the upstream.
    type Session = Option<Connecting<Forward>>;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Self::Session> {
        match conn.origin() {
            Origin::Connected { token } => {
                // If the client has disconnected meanwhile, the new connection is closed.
                conn.pipe(ConnId::from_u64(token)).ok()?;
                Some(None)
            }
            _ => self.accept(conn).map(Some),
        }
    }

    /// Is never called, because reading from a client is paused until it is joined.
    fn react(
        &mut self,
        _conn: &mut Conn<'_, Self>,
        _: &mut Self::Session,
        _bytes: &[u8],
    ) -> Action {
        Action::Continue
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        let client = ConnId::from_u64(failed.token);
        reactor.with(client, |conn, _| {
            log::warn!("cannot forward {client} to {}: {}", failed.to, failed.error);
            conn.abort();
        });
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        connecting: Self::Session,
        reason: CloseReason,
    ) {
        if let Some(connecting) = connecting {
            // If this fails, `on_open` finds no client and closes the connection. It does nothing once the two are joined.
            let _ = connecting.cancel();
        }
        log::info!(
            "{} with {} closed: {reason}; {} bytes in, {} out",
            info.id,
            info.peer,
            info.bytes_in,
            info.bytes_out
        );
    }
}

impl Forward {
    fn accept(&mut self, conn: &mut Conn<'_, Self>) -> Option<Connecting<Self>> {
        let client = conn.id();
        conn.pause_reads();
        // Only connections of one reactor can be joined.
        let connect = Connect::to(self.to.clone()).timeout(self.timeout);
        let connect = connect.token(client.as_u64());
        let connecting = conn.reactor().connect(connect);
        connecting
            .inspect_err(|error| log::warn!("cannot forward {client}: {error}"))
            .ok()
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
    })
}
