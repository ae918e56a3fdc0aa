//! gRPC by volo-grpc and pilota. Each client has an HTTP/2 connection of its own.

use std::error::Error;
use std::net::SocketAddr;

use pilota::pb::Message as _;
use prost::Message as _;
use rpc_rivals::http2::Grpc;
use rpc_rivals::volo_protobuf::{
    Benchmark, BenchmarkClient, BenchmarkClientBuilder, BenchmarkMessage, BenchmarkServer,
};
use rpc_rivals::{Caller, Failure, check, run};
use tokio::net::TcpListener;
use volo::net::incoming::DefaultIncoming;
use volo_grpc::server::{Server, ServiceBuilder};
use volo_grpc::{Request, Response, Status};

struct Handler;

impl Benchmark for Handler {
    async fn say(
        &self,
        request: Request<BenchmarkMessage>,
    ) -> Result<Response<BenchmarkMessage>, Status> {
        let mut message = request.into_inner();
        message.field1 = "OK".into();
        message.field2 = 100;
        Ok(Response::new(message))
    }
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    Server::new()
        .add_service(ServiceBuilder::new(BenchmarkServer::new(Handler)).build())
        .run(DefaultIncoming::from(listener))
        .await
}

fn dialogue() -> Result<Grpc, Failure> {
    Ok(Grpc::new("/benchmark.Benchmark/Say"))
}

struct Client {
    client: BenchmarkClient,
    message: BenchmarkMessage,
}

impl Caller for Client {
    async fn call(&mut self) -> Result<(), Failure> {
        let reply = self.client.say(self.message.clone()).await?.into_inner();
        check(&reply.field1, reply.field2)
    }
}

async fn connect(addr: SocketAddr) -> Result<Client, Failure> {
    let message = rpc_bench::message::BenchmarkMessage::request().encode_to_vec();
    Ok(Client {
        client: BenchmarkClientBuilder::new("benchmark")
            .address(addr)
            .build(),
        message: BenchmarkMessage::decode(message.into())?,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
