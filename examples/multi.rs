//! Several protocols in one handler: HTTP and a line protocol on one port, told apart by their first bytes, and
//! connections to a web server that both get pages from. With `http --port 8080` running, try
//! `multi --port 9000 --to tcp://127.0.0.1:8080` and
//!
//! ```text
//! curl -i http://127.0.0.1:9000/headers
//! printf 'hello\nfetch /headers\nraw\nanything' | nc -N 127.0.0.1 9000
//! ```

mod util;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::{self, Lines, Peek, Raw};
use epicycle::http::client::{ClientCodec, ClientRequest};
use epicycle::http::{HttpCodec, ServerResponse, StatusCode};
use epicycle::{
    Action, Answer, CloseReason, Closed, Conn, ConnInfo, Connect, Endpoint, EventHandler,
    FailedConnect, Origin, Reactor,
};

/// HTTP and a line protocol on one port
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
    /// The web server to get pages from: tcp://HOST:PORT
    #[arg(long, value_name = "ADDR")]
    to: Endpoint,
}

codec::one_of! {
    /// The protocols. A client's connection begins with `Peek`, one to the web server with `Upstream`.
    enum Protocol {
        Peek(Peek),
        Http(HttpCodec),
        Lines(Lines),
        Raw(Raw),
        Upstream(ClientCodec),
    }
    enum ProtocolFrame;
    impl Encode<ServerResponse<'_>> for Http;
    impl Encode<ClientRequest<'_>> for Upstream;
    impl Encode<&str> for Lines | Raw;
    impl Encode<&[u8]> for Lines | Raw;
}

struct Multi {
    to: Endpoint,
    /// The pages whose connection is being made, by its token.
    waiting: HashMap<u64, (Answer<Multi>, String)>,
    last_token: u64,
}

impl EventHandler for Multi {
    type Codec = Protocol;
    /// The answer that a connection to the web server is for. None on a client's connection.
    type Session = Option<Answer<Multi>>;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Protocol {
        match info.origin() {
            Origin::Connected { .. } => ClientCodec::default()
                .response_timeout(Duration::from_secs(30))
                .into(),
            _ => Peek::new().into(),
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Self::Session> {
        let Origin::Connected { token } = conn.origin() else {
            return Some(None);
        };
        let (answer, path) = self.waiting.remove(&token)?;
        let to = self.to.to_string();
        let host = to.trim_start_matches("tcp://");
        match conn.send(ClientRequest::get(host, &path).close()) {
            Ok(()) => Some(Some(answer)),
            Err(_) => {
                // A client has sent a path that HTTP does not allow.
                give(answer, StatusCode::BAD_REQUEST, Vec::new());
                None
            }
        }
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
        frame: ProtocolFrame<'_>,
    ) -> Action {
        match frame {
            ProtocolFrame::Peek(begin) => {
                choose(conn, begin);
                Action::Continue
            }
            ProtocolFrame::Http(request) => match request.method() {
                "GET" | "HEAD" => {
                    self.fetch(conn, request.path_and_query());
                    Action::Continue
                }
                _ => conn
                    .send(ServerResponse::new(StatusCode::NOT_IMPLEMENTED))
                    .into(),
            },
            ProtocolFrame::Lines(line) => self.line(conn, line),
            ProtocolFrame::Raw(bytes) => conn.send(bytes).into(),
            ProtocolFrame::Upstream(response) => {
                if let Some(answer) = session.take() {
                    give(answer, response.status(), response.body().to_vec());
                }
                Action::Close
            }
        }
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        _: &Closed,
        session: Self::Session,
        _: CloseReason,
    ) {
        // The web server has ended the connection, or said nonsense, instead of answering.
        if let Some(answer) = session {
            give(answer, StatusCode::BAD_GATEWAY, Vec::new());
        }
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        log::warn!("cannot connect to {}: {}", failed.to, failed.error);
        if let Some((answer, _)) = self.waiting.remove(&failed.token) {
            give(answer, StatusCode::BAD_GATEWAY, Vec::new());
        }
    }
}

impl Multi {
    fn line(&mut self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Action {
        if line == b"raw" {
            let told = conn.send("what follows is echoed as it comes");
            conn.switch(Raw);
            return told.into();
        }
        match line.strip_prefix(b"fetch ").map(str::from_utf8) {
            Some(Ok(path)) => {
                // The lines behind this one are answered after it. HTTP's codec sees to that by itself.
                conn.pause_reads();
                self.fetch(conn, path);
                Action::Continue
            }
            Some(Err(_)) => conn.send("the path is not UTF-8").into(),
            None => conn.send(line).into(),
        }
    }

    /// Connects to the web server, to answer a client with a page of it.
    fn fetch(&mut self, conn: &mut Conn<'_, Self>, path: &str) {
        // Until it is given, the connection stays open, even if the client ends its stream or the server shuts down.
        let answer = conn.defer_answer();
        self.last_token += 1;
        let connect = Connect::to(self.to.clone()).token(self.last_token);
        match conn.reactor().connect(connect) {
            Ok(_) => {
                let page = (answer, path.to_owned());
                self.waiting.insert(self.last_token, page);
            }
            Err(_) => give(answer, StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
        }
    }
}

/// Chooses a client's protocol by the first bytes, once there are enough of them.
fn choose(conn: &mut Conn<'_, Multi>, begin: &[u8]) {
    const METHODS: [&str; 6] = ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS "];
    if METHODS.iter().any(|m| begin.starts_with(m.as_bytes())) {
        conn.switch(HttpCodec::default());
    } else if conn.peer_has_shut_down() || !METHODS.iter().any(|m| m.as_bytes().starts_with(begin))
    {
        conn.switch(Lines::new());
    }
}

/// Answers a client in the protocol that it speaks.
fn give(answer: Answer<Multi>, status: StatusCode, body: Vec<u8>) {
    // An error means that the client has left.
    let _ = answer.run(move |_, client, _| {
        let sent = match client.codec() {
            Protocol::Http(_) => client.send(ServerResponse::new(status).body(&body)),
            _ => {
                client.resume_reads();
                let line = format!("{}, {} bytes", status.as_u16(), body.len());
                client.send(line.as_str())
            }
        };
        if sent.is_err() {
            client.close();
        }
    });
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let server = util::with_timeouts(flags.listen.server());
    util::run("multi", server, move |_reactor| Multi {
        to: flags.to.clone(),
        waiting: HashMap::new(),
        last_token: 0,
    })
}
