//! A WebSocket echo with fastwebsockets on tokio and hyper: its own `echo_server` example. The TCP stream is taken out of
//! hyper's wrapper, which would cost a dynamic call for each read and write.

use std::error::Error;

use clap::Parser;
use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rivals::Flags;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Box<dyn Error>> {
    rivals::listen(Flags::parse().addr(), |stream| async {
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(upgraded))
            .with_upgrades();
        let _ = connection.await;
    })
}

async fn upgraded(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, BoxError> {
    let (response, socket) = upgrade::upgrade(&mut request)?;
    tokio::task::spawn_local(unconstrained(async {
        // The load ends without a closing handshake.
        let _ = echo(socket).await;
    }));
    Ok(response)
}

async fn echo(socket: upgrade::UpgradeFut) -> Result<(), BoxError> {
    let stream = socket.await?.into_inner().into_inner();
    let parts = stream
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| "another stream than it was given")?;
    if !parts.read_buf.is_empty() {
        return Err("the client did not wait for the answer".into());
    }
    let socket = WebSocket::after_handshake(parts.io.into_inner(), Role::Server);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
