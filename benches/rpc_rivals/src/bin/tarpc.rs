//! tarpc with bincode, as its documentation shows it: each request is a task.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;

use futures_util::StreamExt;
use rpc_bench::message::BenchmarkMessage;
use rpc_rivals::canned::{Canned, Number, Numbered, PLACEHOLDER};
use rpc_rivals::{Caller, Failure, check, run};
use tarpc::serde_transport::{self, Transport};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::Serializer;
use tarpc::tokio_serde::formats::{Bincode, SymmetricalBincode};
use tarpc::{ClientMessage, Request, Response, client, context};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::LengthDelimitedCodec;

#[tarpc::service]
trait Benchmark {
    async fn say(message: BenchmarkMessage) -> BenchmarkMessage;
}

#[derive(Clone)]
struct Handler;

impl Benchmark for Handler {
    async fn say(self, _: context::Context, message: BenchmarkMessage) -> BenchmarkMessage {
        message.answered()
    }
}

fn transport<In, Out>(
    stream: TcpStream,
) -> Result<Transport<TcpStream, In, Out, Bincode<In, Out>>, Failure>
where
    In: for<'de> tarpc::serde::Deserialize<'de>,
    Out: tarpc::serde::Serialize,
{
    stream.set_nodelay(true)?;
    let framed = LengthDelimitedCodec::builder().new_framed(stream);
    Ok(serde_transport::new(framed, Bincode::default()))
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        let channel = BaseChannel::with_defaults(transport(stream)?);
        tokio::spawn(channel.execute(Handler.serve()).for_each(|response| async {
            tokio::spawn(response);
        }));
    }
}

/// Returns a frame with a length.
fn frame<T: tarpc::serde::Serialize>(item: &T) -> Result<Numbered, Failure> {
    let bytes = pin!(SymmetricalBincode::<T>::default()).serialize(item)?;
    let frame = [&(bytes.len() as u32).to_be_bytes(), &bytes[..]].concat();
    Ok(Numbered::new(frame, Number::LittleEndian))
}

fn dialogue() -> Result<Canned, Failure> {
    let call = ClientMessage::Request(Request {
        context: context::current(),
        id: PLACEHOLDER.into(),
        message: BenchmarkRequest::Say {
            message: BenchmarkMessage::request(),
        },
    });
    let reply = Response {
        request_id: PLACEHOLDER.into(),
        message: Ok(BenchmarkResponse::Say(
            BenchmarkMessage::request().answered(),
        )),
    };
    Ok(Canned::new(frame(&call)?, frame(&reply)?))
}

struct Client {
    client: BenchmarkClient,
    message: BenchmarkMessage,
}

impl Caller for Client {
    async fn call(&mut self) -> Result<(), Failure> {
        let reply = self
            .client
            .say(context::current(), self.message.clone())
            .await?;
        check(&reply.field1, reply.field2)
    }
}

async fn connect(addr: SocketAddr) -> Result<Client, Failure> {
    let transport = transport(TcpStream::connect(addr).await?)?;
    Ok(Client {
        client: BenchmarkClient::new(client::Config::default(), transport).spawn(),
        message: BenchmarkMessage::request(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
