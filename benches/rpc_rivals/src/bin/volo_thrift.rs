//! Thrift by volo-thrift: the framed binary protocol, one request at a time on each connection.

use std::error::Error;
use std::net::SocketAddr;

use rpc_rivals::canned::{Canned, Number, Numbered};
use rpc_rivals::thrift;
use rpc_rivals::volo_thrift::{
    Benchmark, BenchmarkClient, BenchmarkClientBuilder, BenchmarkMessage, BenchmarkServer,
};
use rpc_rivals::{Caller, Failure, check, run};
use tokio::net::TcpListener;
use volo::net::incoming::DefaultIncoming;
use volo_thrift::ServerError;

struct Handler;

impl Benchmark for Handler {
    async fn say(&self, mut message: BenchmarkMessage) -> Result<BenchmarkMessage, ServerError> {
        message.field1 = "OK".into();
        message.field2 = 100;
        Ok(message)
    }
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    BenchmarkServer::new(Handler)
        .run(DefaultIncoming::from(listener))
        .await
}

fn dialogue() -> Result<Canned, Failure> {
    let request = rpc_bench::message::BenchmarkMessage::request();
    let numbered = |bytes| Numbered::new(bytes, Number::BigEndian);
    Ok(Canned::new(
        numbered(thrift::message(1, 1, &request)),
        numbered(thrift::message(2, 0, &request.answered())),
    ))
}

macro_rules! message {
    (strings $($string:ident)*, numbers $($number:ident)*, bools $($bool:ident)*) => {{
        let request = rpc_bench::message::BenchmarkMessage::request();
        BenchmarkMessage {
            field5: Vec::new(),
            $($string: request.$string.into(),)*
            $($number: request.$number,)*
            $($bool: request.$bool,)*
        }
    }};
}

fn message() -> BenchmarkMessage {
    message!(
        strings field1 field4 field7 field9 field18 field102 field103 field129,
        numbers field2 field3 field6 field16 field22 field23 field25 field29 field60 field67 field68 field100 field101
            field104 field128 field130 field131 field150 field271 field272 field280,
        bools field12 field13 field14 field17 field24 field30 field59 field78 field80 field81)
}

struct Client {
    client: BenchmarkClient,
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
        client: BenchmarkClientBuilder::new("benchmark")
            .address(addr)
            .build(),
        message: message(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
