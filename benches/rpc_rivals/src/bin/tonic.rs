//! gRPC by tonic and prost. Each client has an HTTP/2 connection of its own.

use std::error::Error;
use std::net::SocketAddr;

use rpc_bench::message::BenchmarkMessage;
use rpc_rivals::http2::Grpc;
use rpc_rivals::protobuf::benchmark_client::BenchmarkClient;
use rpc_rivals::protobuf::benchmark_server::{Benchmark, BenchmarkServer};
use rpc_rivals::{Caller, Failure, check, run};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

struct Handler;

#[tonic::async_trait]
impl Benchmark for Handler {
    async fn say(
        &self,
        request: Request<BenchmarkMessage>,
    ) -> Result<Response<BenchmarkMessage>, Status> {
        Ok(Response::new(request.into_inner().answered()))
    }
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(BenchmarkServer::new(Handler))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

fn dialogue() -> Result<Grpc, Failure> {
    Ok(Grpc::new("/benchmark.Benchmark/Say"))
}

struct Client {
    client: BenchmarkClient<Channel>,
    message: BenchmarkMessage,
}

impl Caller for Client {
    async fn call(&mut self) -> Result<(), Failure> {
        let reply = self.client.say(self.message.clone()).await?.into_inner();
        check(&reply.field1, reply.field2)
    }
}

async fn connect(addr: SocketAddr) -> Result<Client, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
    Ok(Client {
        client: BenchmarkClient::new(endpoint.connect().await?),
        message: BenchmarkMessage::request(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
