//! Meshes over gRPC, against each other and against gRPC's own client and server.

#[path = "../cluster/mesh_alike.rs"]
mod mesh_alike;
#[path = "../util/mod.rs"]
mod util;

mod calls;
mod ends;
mod hosted;
mod secret;
mod strangers;

use std::sync::Arc;

use epicycle::balance::HashRing;
use epicycle::cluster::mesh::{GrpcTransporter, Mesh, MeshBuilder, MeshClient, MeshClientBuilder};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::rpc::Status;

use mesh_alike::{Gatekeeper, Speaks, who};
use util::LONG;

/// The transporter of gRPC.
struct Grpc;

impl Speaks for Grpc {
    const SCHEME: &'static str = "grpc";

    fn mesh(registry: &MemoryRegistry, id: &str, keeper: &Arc<Gatekeeper>) -> MeshBuilder {
        with(registry, id, services(id, keeper))
    }

    fn client(registry: &MemoryRegistry) -> MeshClientBuilder {
        let client = MeshClient::builder().registry(registry.clone());
        client.transporter(GrpcTransporter::new())
    }

    fn client_by_keys(registry: &MemoryRegistry) -> MeshClientBuilder {
        let client = MeshClient::builder().registry(registry.clone());
        client.transporter(GrpcTransporter::new().balancer(HashRing::new))
    }
}

/// The service `who`, whose methods tell the id.
fn services(id: &str, keeper: &Arc<Gatekeeper>) -> GrpcTransporter {
    let (id, keeper) = (id.to_owned(), keeper.clone());
    GrpcTransporter::new().service("who", move |methods| {
        let (held, given_up) = (id.clone(), keeper.clone());
        methods.call("am-i", move |_call, (): ()| Ok(id.clone()));
        methods.call("waits", move |_call, (): ()| {
            keeper.pass();
            Ok(held.clone())
        });
        methods.call("is-cancelled", move |call, (): ()| {
            while !call.is_cancelled() {
                std::thread::yield_now();
            }
            given_up.pass();
            Ok(())
        });
        methods.call("fails", |_call, code: i32| {
            Err::<(), _>(Status::new(code, "kein Geld €").with_reason("spent"))
        });
        methods.call("fails-at-length", |_call, (): ()| {
            let long = "€".repeat(100_000);
            Err::<(), _>(Status::new(1001, long.clone()).with_reason(long))
        });
        methods.call("panics", |_call, (): ()| {
            if true {
                panic!("on purpose");
            }
            Ok(())
        });
        methods.call("echo", |_call, text: String| Ok(text));
    })
}

/// The options of a mesh with the service `who`.
fn mesh(registry: &MemoryRegistry, id: &str) -> MeshBuilder {
    with(registry, id, services(id, &Arc::default()))
}

fn with(registry: &MemoryRegistry, id: &str, transporter: GrpcTransporter) -> MeshBuilder {
    let mesh = Mesh::builder().id(id).registry(registry.clone());
    mesh.transporter(transporter)
}

fn client(registry: &MemoryRegistry) -> MeshClient {
    client_of(registry, GrpcTransporter::new())
}

fn client_of(registry: &MemoryRegistry, transporter: GrpcTransporter) -> MeshClient {
    let client = MeshClient::builder().registry(registry.clone());
    let client = client.transporter(transporter).call_timeout(LONG);
    client.start().expect("starts")
}
