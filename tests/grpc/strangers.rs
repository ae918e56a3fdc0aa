//! gRPC's own client and server, of the package `grpcio` for Python.

use std::process::{Child, Stdio};

use epicycle::cluster::Error;
use epicycle::cluster::codec::{Codec, Pb};
use epicycle::cluster::mesh::{GrpcTransporter, MeshClient};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::rpc::Status;
use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};

use crate::util::LONG;
use crate::util::strangers::{python_grpc, spawn_serving};
use crate::with;

/// Calls a method with bytes as they are, and tells what comes back.
const CLIENT: &str = r#"
import grpc, sys
address, certificate = sys.argv[1], sys.argv[2]
if certificate:
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(open(certificate, 'rb').read()))
else:
    channel = grpc.insecure_channel(address)
def call(path, body, timeout=60, metadata=None):
    try:
        return channel.unary_unary(path)(body, timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        return f'{error.code().name}: {error.details()}'
# google.protobuf.StringValue: field 1, three bytes.
print(call('/text/double', b'\x0a\x03abc', metadata=[('who', 'python')]))
print(call('/text/double', b'\xff'))
print(call('/text/double', b'\x0a\x02no'))
print(call('/text/nothing', b''))
print(call('/text/sleeps', b'', timeout=0.2))
print(len(call('/text/double', b'\x0a\xc0\x84\x3d' + b'x' * 1000000)))
"#;

/// A server whose methods answer bytes, errors, and nothing.
const SERVER: &str = r#"
import grpc, threading
from concurrent import futures
class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == '/text/echo':
            return grpc.unary_unary_rpc_method_handler(lambda body, context: body)
        if call.method == '/text/fails':
            return grpc.unary_unary_rpc_method_handler(lambda body, context: context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'no ü'))
        if call.method == '/text/sleeps':
            return grpc.unary_unary_rpc_method_handler(lambda body, context: threading.Event().wait(30) and b'')
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port('127.0.0.1:0')
server.start()
print('port', port, flush=True)
input()
"#;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text() -> GrpcTransporter {
    GrpcTransporter::new().service("text", |methods| {
        methods.call("double", |call, Pb(text): Pb<String>| match &*text {
            "no" => Err(Status::new(9, "no Grüße")),
            _ => {
                let who = call.metadata("who").unwrap_or_default();
                Ok(Pb(format!("{text}{text}{who}")))
            }
        });
        methods.call("sleeps", |call, Pb(()): Pb<()>| {
            while !call.is_cancelled() {
                std::thread::yield_now();
            }
            Ok(Pb(()))
        });
    })
}

fn asked(address: &str, certificate: &str) -> Option<String> {
    let client = python_grpc()?
        .args(["-c", CLIENT, address, certificate])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{errors}");
    Some(String::from_utf8(client.stdout).expect("is text"))
}

const TOLD: [&str; 5] = [
    r"b'\n\x0cabcabcpython'",
    "INVALID_ARGUMENT: ",
    "FAILED_PRECONDITION: no Grüße",
    "UNIMPLEMENTED: the method /text/nothing is not here",
    "DEADLINE_EXCEEDED: ",
];

fn check(told: &str) {
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 6, "{told}");
    for (line, wanted) in lines.iter().zip(TOLD) {
        assert!(line.starts_with(wanted), "{told}");
    }
    // The number of the field takes a byte, and its length three.
    assert_eq!(lines[5], (2_000_000 + 4).to_string());
}

#[test]
fn the_client_of_grpc_calls_methods() {
    let registry = MemoryRegistry::new();
    let mesh = with(&registry, "mesh-1", text()).start().expect("starts");
    if let Some(told) = asked(&mesh.addr().to_string(), "") {
        check(&told);
    }
}

#[test]
fn the_client_of_grpc_calls_methods_over_tls() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("is right");
    let server = text().tls(&TlsServer::new(identity).expect("is right"));
    let registry = MemoryRegistry::new();
    let mesh = with(&registry, "mesh-1", server).start().expect("starts");
    let dir = tempfile::tempdir().expect("is made");
    let file = dir.path().join("cert.pem");
    std::fs::write(&file, &cert).expect("is written");
    let address = format!("localhost:{}", mesh.addr().port());
    if let Some(told) = asked(&address, file.to_str().expect("is text")) {
        check(&told);
    }
    // The name in the certificate is not the address.
    let roots = Roots::from_pem(cert.as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");
    let by = |tls: &TlsClient| {
        let client = MeshClient::builder().registry(registry.clone());
        let client = client.transporter(GrpcTransporter::new().tls_client(tls));
        let client = client.codec(Codec::Protobuf).call_timeout(LONG).start();
        let client = client.expect("starts");
        client
            .call::<_, Pb<String>>("/text/double", &Pb("a".to_owned()))
            .wait()
    };
    assert!(matches!(by(&tls), Err(Error::LinkDown { .. })));
    let named = tls.server_name("localhost").expect("is a name");
    let Pb(text) = by(&named).expect("is answered");
    assert_eq!(text, "aa");
}

#[test]
fn the_server_of_grpc_is_called() {
    let Some(mut python) = python_grpc() else {
        return;
    };
    python.args(["-c", SERVER]).stdin(Stdio::piped());
    let (server, port) = spawn_serving(&mut python);
    let _server = Killed(server);
    let client = MeshClient::builder().transporter(GrpcTransporter::new());
    let client = client.codec(Codec::Protobuf).call_timeout(LONG).start();
    let client = client.expect("starts");
    let service = client.service(&format!("direct://127.0.0.1:{port}"));
    let service = service.expect("is a target");
    let ask = |path: &str| {
        let text = Pb("some text".to_owned());
        let call = service.call::<_, Pb<String>>(path, &text);
        call.wait().map(|Pb(text)| text)
    };
    for _ in 0..3 {
        assert_eq!(ask("/text/echo").expect("is answered"), "some text");
    }
    let code = |result: Result<String, Error>| match result {
        Err(Error::Service(status)) => (status.code, status.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(ask("/text/fails")), (9, "no ü".into()));
    assert_eq!(code(ask("/text/nothing")).0, 404);
    let short = std::time::Duration::from_millis(200);
    let text = Pb(String::new());
    let late = service.call::<_, Pb<String>>("/text/sleeps", &text);
    let late = late.timeout(short).wait();
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
}
