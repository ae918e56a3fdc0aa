//! Meshes over gRPC, against each other and against gRPC's own client and server.

#[path = "../util/mod.rs"]
mod util;

mod calls;
mod ends;
mod hosted;
mod secret;
mod strangers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use epicycle::cluster::Error;
use epicycle::cluster::mesh::{GrpcTransporter, Mesh, MeshBuilder, MeshClient};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::rpc::Status;
use parking_lot::{Condvar, Mutex};
use util::LONG;

/// Makes the handlers that wait go on.
#[derive(Default)]
struct Gatekeeper {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gatekeeper {
    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock();
        self.opened.wait_while(&mut open, |open| !*open);
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
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

fn who(client: &MeshClient) -> Result<String, Error> {
    client.call("/who/am-i", &()).wait()
}
