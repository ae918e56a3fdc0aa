//! The secret of a cluster over gRPC.

use std::process::Stdio;

use epicycle::cluster::drpc::Secret;
use epicycle::cluster::mesh::{GrpcTransporter, MeshClient};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::cluster::{Error, Monitor};

use crate::hosted::GreeterServer;
use crate::util::LONG;
use crate::util::strangers::python_grpc;
use crate::{mesh, services, who, with};

const OURS: &str = "the secret of this cluster";

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes()).expect("is long enough")
}

fn client(registry: &MemoryRegistry, secret: Option<Secret>) -> MeshClient {
    let client = MeshClient::builder().registry(registry.clone());
    let client = client
        .transporter(GrpcTransporter::new())
        .call_timeout(LONG);
    let client = match secret {
        Some(secret) => client.secret(secret),
        None => client,
    };
    client.start().expect("starts")
}

#[test]
fn with_a_secret_only_those_who_have_it_call() {
    let (registry, monitor) = (MemoryRegistry::new(), Monitor::new());
    let both = services("mesh-1", &Default::default()).host(GreeterServer);
    let served = with(&registry, "mesh-1", both).secret(secret(OURS));
    let _mesh = served.monitor(&monitor).start().expect("starts");
    let ours = client(&registry, Some(secret(OURS)));
    for _ in 0..3 {
        assert_eq!(who(&ours).expect("is answered"), "mesh-1");
    }
    let paths = ["/who/am-i", "/who/nothing", "/helloworld.Greeter/SayHello"];
    for stranger in [Some(secret("the secret of another one")), None] {
        let client = client(&registry, stranger);
        for path in paths {
            let refused = client.call::<_, String>(path, &()).wait();
            let Err(error @ Error::Unauthorized { .. }) = refused else {
                panic!("{refused:?}");
            };
            // The mesh's own text.
            assert!(error.to_string().contains("epicycle-token"), "{error}");
        }
    }
    assert_eq!(who(&ours).expect("is answered"), "mesh-1");
    let counted = "epicycle_grpc_unauthenticated_total{id=\"mesh-1\"} 6";
    let metrics = monitor.metrics();
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_mesh_without_a_secret_takes_calls_of_those_who_have_one() {
    let registry = MemoryRegistry::new();
    let _mesh = mesh(&registry, "mesh-1").start().expect("starts");
    let ours = client(&registry, Some(secret(OURS)));
    assert_eq!(who(&ours).expect("is answered"), "mesh-1");
}

#[test]
fn handlers_do_not_see_the_token() {
    let registry = MemoryRegistry::new();
    let tells = GrpcTransporter::new().service("who", |methods| {
        methods.call("am-i", |call, (): ()| {
            Ok(call.metadata("epicycle-token").unwrap_or("none").to_owned())
        });
    });
    let served = with(&registry, "mesh-1", tells).secret(secret(OURS));
    let _mesh = served.start().expect("starts");
    let ours = client(&registry, Some(secret(OURS)));
    assert_eq!(who(&ours).expect("is answered"), "none");
}

#[test]
fn the_token_is_the_documented_mac_of_the_secret() {
    // printf '\0epicycle grpc' | openssl dgst -sha256 -hmac 'the secret of this cluster'
    let expected = "a1f3d1b52f0f82bff980d47c50408690751c150ca7eda4087574633a28ad28cb";
    assert_eq!(GrpcTransporter::token(&secret(OURS)), expected);
}

#[test]
fn the_client_of_grpc_shows_the_token_as_metadata() {
    let registry = MemoryRegistry::new();
    let served = mesh(&registry, "mesh-1").secret(secret(OURS));
    let mesh = served.start().expect("starts");
    let Some(mut python) = python_grpc() else {
        return;
    };
    let script = r#"
import grpc, sys
call = grpc.insecure_channel(sys.argv[1]).unary_unary('/who/nothing')
for metadata in [None, [('epicycle-token', '00' * 32)], [('epicycle-token', sys.argv[2])]]:
    try:
        call(b'', timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        print(error.code().name)
"#;
    let (address, token) = (
        mesh.addr().to_string(),
        GrpcTransporter::token(&secret(OURS)),
    );
    let client = python.args(["-c", script, &address, &token]);
    let told = client.stdin(Stdio::null()).output().expect("it runs");
    let told = String::from_utf8(told.stdout).expect("is text");
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines,
        ["UNAUTHENTICATED", "UNAUTHENTICATED", "UNIMPLEMENTED"]
    );
}
