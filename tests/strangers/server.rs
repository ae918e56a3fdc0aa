//! Other implementations' clients against this crate's server. Their checks are in `client.py` and `client.js`.

use std::path::Path;
use std::process::Command;

use epicycle::http::{ServerResponse, StatusCode};
use epicycle::ws::{
    self, Close, CloseCode, DeflateOptions, Incoming, Limits, Message, Ping, ServerCodec,
};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame, Running, Server};

use crate::util::strangers::{node_ws, python_websockets};

/// Sends everything back, and does what some texts ask for.
struct Echo {
    deflate: Option<DeflateOptions>,
}

impl EventHandler for Echo {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::new(Limits::default().max_frame(2 << 20).max_message(2 << 20))
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        match frame {
            Incoming::Request(request) if request.path() != "/" => {
                conn.send(ServerResponse::new(StatusCode::NOT_FOUND)).into()
            }
            Incoming::Request(request) => {
                let answer = ws::accept(&request)
                    .and_then(|accept| accept.origins(["https://good.example"]))
                    .map(|accept| accept.protocol(["echo.v1"]))
                    .map(|accept| match self.deflate {
                        Some(options) => accept.deflate(options),
                        None => accept,
                    });
                conn.send(answer).into()
            }
            Incoming::Message(message) => answer(conn, message),
            Incoming::Pong(payload) => {
                let text = format!("pong {}", String::from_utf8_lossy(payload));
                conn.send(text).into()
            }
            Incoming::Closed(_) => Action::Continue,
        }
    }
}

fn answer(conn: &mut Conn<'_, Echo>, message: Message<'_>) -> Action {
    let text = message.as_text().unwrap_or_default();
    if let Some(payload) = text.strip_prefix("ping ") {
        return conn.send(Ping(payload.as_bytes())).into();
    }
    if let Some((code, reason)) = text
        .strip_prefix("close ")
        .and_then(|rest| rest.split_once(' '))
    {
        let code = code.parse().ok().and_then(CloseCode::new);
        return conn.send(Close::new(code.expect("a code"), reason)).into();
    }
    conn.send(message).into()
}

fn serve(deflate: Option<DeflateOptions>) -> Running<Echo> {
    Server::bind("tcp4://127.0.0.1:0")
        .reactors(2)
        .start(move |_| Echo { deflate })
        .expect("starts")
}

/// Runs a check of both clients.
fn check(server: &Running<Echo>, arguments: &[&str]) {
    let url = format!("ws://{}/", server.local_addrs()[0]);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers");
    let clients = [(python_websockets(), "client.py"), (node_ws(), "client.js")];
    for (client, script) in clients {
        let Some(mut client) = client else { continue };
        run(client.arg(scripts.join(script)).arg(&url).args(arguments));
    }
}

fn run(client: &mut Command) {
    let output = client.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client:?}\n{said}");
}

#[test]
fn text_and_binary_of_every_size_come_back() {
    check(&serve(None), &["echo"]);
}

#[test]
fn a_mebibyte_comes_back() {
    check(&serve(None), &["large"]);
}

#[test]
fn fragments_are_put_together_with_a_ping_between_them() {
    check(&serve(None), &["fragments"]);
}

#[test]
fn pings_are_answered() {
    check(&serve(None), &["pings"]);
}

#[test]
fn their_pongs_are_heard() {
    check(&serve(None), &["pinged"]);
}

#[test]
fn their_close_is_answered_with_its_code() {
    check(&serve(None), &["close"]);
}

#[test]
fn our_close_reaches_them_with_code_and_reason() {
    check(&serve(None), &["closed"]);
}

#[test]
fn what_breaks_the_protocol_is_closed_with_the_code_due_to_it() {
    check(&serve(None), &["invalid"]);
}

#[test]
fn a_message_that_is_too_long_is_closed_with_1009() {
    check(&serve(None), &["too_long"]);
    check(&serve(Some(DeflateOptions::default())), &["bomb"]);
}

#[test]
fn messages_are_compressed_as_agreed() {
    const NONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    check(&serve(None), &["deflate", "none"]);
    let options = DeflateOptions::default();
    check(&serve(Some(options)), &["deflate", NONE]);

    let server = serve(Some(options.context_takeover(true).threshold(0)));
    let deflate = |agreed: &str, offered: &[&str]| {
        check(&server, &[&["deflate", agreed], offered].concat());
    };
    deflate("permessage-deflate", &[]);
    deflate(
        "permessage-deflate; server_no_context_takeover",
        &["server_no_context_takeover"],
    );
    deflate(
        "permessage-deflate; client_no_context_takeover",
        &["client_no_context_takeover"],
    );
    deflate(
        "permessage-deflate; server_max_window_bits=10",
        &["server_max_window_bits=10"],
    );
    deflate(
        "permessage-deflate; server_max_window_bits=15",
        &["server_max_window_bits=15"],
    );

    let server = serve(Some(options.context_takeover(true).window_bits(9)));
    let agreed = "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9";
    check(&server, &["deflate", agreed, "client_max_window_bits"]);
}

#[test]
fn a_sub_protocol_is_agreed_upon() {
    check(&serve(None), &["protocol"]);
}

#[test]
fn foreign_origins_and_unknown_paths_are_refused() {
    check(&serve(None), &["origin"]);
}
