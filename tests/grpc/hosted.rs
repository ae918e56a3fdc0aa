//! Services in the form in which tonic generates them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use epicycle::cluster::Error;
use epicycle::cluster::codec::{Codec, Pb};
use epicycle::cluster::mesh::MeshClient;
use epicycle::cluster::registry::{MemoryRegistry, Registry};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tower_service::Service;

use crate::util::LONG;
use crate::{client, services, who, with};

#[derive(Clone, PartialEq, Message)]
struct HelloRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct HelloReply {
    #[prost(string, tag = "1")]
    message: String,
}

/// A codec as `tonic_prost::ProstCodec` is one.
struct Prost<E, D>(PhantomData<(E, D)>);

impl<E: Message + 'static, D: Message + Default + 'static> tonic::codec::Codec for Prost<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<E: Message, D> Encoder for Prost<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message
            .encode(out)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: Message + Default> Decoder for Prost<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let message = D::decode(from);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

#[derive(Clone)]
pub(crate) struct GreeterServer;

impl NamedService for GreeterServer {
    const NAME: &'static str = "helloworld.Greeter";
}

impl Service<http::Request<Body>> for GreeterServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/helloworld.Greeter/SayHello" => {
                    Grpc::new(Prost(PhantomData)).unary(SayHello, request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

struct SayHello;

impl UnaryService<HelloRequest> for SayHello {
    type Response = HelloReply;
    type Future = Ready<Result<Response<HelloReply>, Status>>;

    fn call(&mut self, request: Request<HelloRequest>) -> Self::Future {
        ready(match &*request.into_inner().name {
            "" => Err(Status::failed_precondition("who is there?")),
            name => Ok(Response::new(HelloReply {
                message: format!("hello, {name}"),
            })),
        })
    }
}

#[test]
fn generated_services_are_hosted_beside_others() {
    let registry = MemoryRegistry::new();
    let both = services("mesh-1", &Arc::default()).host(GreeterServer);
    let _mesh = with(&registry, "mesh-1", both).start().expect("starts");
    let record = &registry.services("mesh").expect("are known")[0];
    assert_eq!(record.services, ["who", "helloworld.Greeter"]);
    assert_eq!(who(&client(&registry)).expect("is answered"), "mesh-1");

    let client = MeshClient::builder().registry(registry);
    let client = client.transporter(epicycle::cluster::mesh::GrpcTransporter::new());
    let client = client.codec(Codec::Protobuf).call_timeout(LONG).start();
    let client = client.expect("starts");
    let greet = |path: &str, name: &str| -> Result<HelloReply, Error> {
        let request = Pb(HelloRequest {
            name: name.to_owned(),
        });
        let reply = client.call::<_, Pb<HelloReply>>(path, &request).wait();
        reply.map(|Pb(reply)| reply)
    };
    let path = "/helloworld.Greeter/SayHello";
    assert_eq!(
        greet(path, "Ada").expect("is answered").message,
        "hello, Ada"
    );
    let code = |result: Result<HelloReply, Error>| match result {
        Err(Error::Service(status)) => (status.code, status.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(greet(path, "")), (9, "who is there?".into()));
    assert_eq!(code(greet("/helloworld.Greeter/SayBye", "Ada")).0, 404);
}

#[test]
fn hosted_services_refuse_bodies_of_other_codecs() {
    let registry = MemoryRegistry::new();
    let hosted = epicycle::cluster::mesh::GrpcTransporter::new().host(GreeterServer);
    let _mesh = with(&registry, "mesh-1", hosted).start().expect("starts");
    let json = client(&registry);
    let refused = json.call::<_, String>("/helloworld.Greeter/SayHello", &());
    let Err(Error::Service(status)) = refused.wait() else {
        panic!("it was carried out");
    };
    assert_eq!(status.code, 400);
    assert!(status.message.contains("Codec::Protobuf"), "{status}");
}
