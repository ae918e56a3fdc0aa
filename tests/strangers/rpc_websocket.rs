//! Programs in other languages that call an RPC peer over a WebSocket. They are in `rpc_websocket.py` and `rpc_websocket.js`.

use std::path::Path;
use std::process::Command;

use epicycle::rpc::{Peer, ProtocolChoice, Router, WebSocket};

use crate::util::strangers::{node_ws, python_websockets};

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("/echo", |_ctx, text: String| Ok(text));
    routes.call_async("/greet", |ctx, greeting: String| async move {
        let name: String = ctx.session().call("/name", &()).await?;
        Ok(format!("{greeting}, {name}"))
    });
    routes.push("/note", |ctx, text: String| {
        ctx.session().push("/noted", &text)
    });
    routes
}

fn check(client: Option<Command>, script: &str) {
    let Some(mut client) = client else { return };
    let protocol = ProtocolChoice::raw().or_http(WebSocket::json("/ws"));
    let server = Peer::builder()
        .listen_with("tcp4://127.0.0.1:0", protocol)
        .routes(routes())
        .reactors(1)
        .start()
        .expect("starts");
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/strangers")
        .join(script);
    let url = format!("ws://{}/ws", server.local_addrs()[0]);
    let output = client.arg(script).arg(url).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client:?}\n{said}");
}

#[test]
fn a_python_program_calls_and_is_called_over_websocket() {
    check(python_websockets(), "rpc_websocket.py");
}

#[test]
fn a_node_program_calls_and_is_called_over_websocket() {
    check(node_ws(), "rpc_websocket.js");
}
