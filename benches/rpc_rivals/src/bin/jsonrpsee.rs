//! JSON-RPC by jsonrpsee, over WebSocket, which is its protocol for connections that stay.

use std::error::Error;
use std::net::SocketAddr;

use jsonrpsee::core::{RpcResult, async_trait};
use jsonrpsee::proc_macros::rpc;
use jsonrpsee::server::{Server, ServerConfig};
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use rpc_bench::message::BenchmarkMessage;
use rpc_rivals::canned::{Canned, Number, Numbered, PLACEHOLDER};
use rpc_rivals::{Caller, Failure, check, run};
use tokio::net::TcpListener;

#[rpc(server, client)]
trait Benchmark {
    #[method(name = "say")]
    async fn say(&self, message: BenchmarkMessage) -> RpcResult<BenchmarkMessage>;
}

struct Handler;

#[async_trait]
impl BenchmarkServer for Handler {
    async fn say(&self, message: BenchmarkMessage) -> RpcResult<BenchmarkMessage> {
        Ok(message.answered())
    }
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let config = ServerConfig::builder()
        .max_connections(10_000)
        .set_tcp_no_delay(true)
        .build();
    let server = Server::builder()
        .set_config(config)
        .build_from_tcp(listener.into_std()?)?;
    server.start(Handler.into_rpc()).stopped().await;
    Ok(())
}

/// The opening handshake of RFC 6455. Its key is the RFC's.
const OPENING: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Returns a text frame with a length of two bytes. The masking key is zero, so that the number can be written into it.
fn frame(text: &str, is_masked: bool) -> Numbered {
    let mut frame = vec![0x81, 126 | u8::from(is_masked) << 7];
    frame.extend((text.len() as u16).to_be_bytes());
    if is_masked {
        frame.extend([0; 4]);
    }
    frame.extend(text.as_bytes());
    Numbered::new(frame, Number::Decimal)
}

fn dialogue() -> Result<Canned, Failure> {
    let request = serde_json::to_string(&BenchmarkMessage::request())?;
    let answered = serde_json::to_string(&BenchmarkMessage::request().answered())?;
    let call =
        format!(r#"{{"jsonrpc":"2.0","id":{PLACEHOLDER},"method":"say","params":[{request}]}}"#);
    let reply = format!(r#"{{"jsonrpc":"2.0","id":{PLACEHOLDER},"result":{answered}}}"#);
    Ok(
        Canned::new(frame(&call, true), frame(&reply, false))
            .opened_by(OPENING.into(), b"\r\n\r\n"),
    )
}

struct Client {
    client: WsClient,
    message: BenchmarkMessage,
}

impl Caller for Client {
    async fn call(&mut self) -> Result<(), Failure> {
        let reply = self.client.say(self.message.clone()).await?;
        check(&reply.field1, reply.field2)
    }
}

async fn connect(addr: SocketAddr) -> Result<Client, Failure> {
    Ok(Client {
        client: WsClientBuilder::default()
            .build(format!("ws://{addr}"))
            .await?,
        message: BenchmarkMessage::request(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
