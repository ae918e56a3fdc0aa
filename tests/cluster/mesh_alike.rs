//! The behaviours of meshes that do not depend on the transporter. The tests of each transporter call them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use epicycle::cluster::mesh::{Mesh, MeshBuilder, MeshClient, MeshClientBuilder, Target};
use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry};
use epicycle::cluster::{Error, Kind, State};
use parking_lot::{Condvar, Mutex};

use crate::util::ports::DeadPort;
use crate::util::{LONG, eventually, expect_panics};

/// A transporter.
pub(crate) trait Speaks {
    const SCHEME: &'static str;

    /// Returns the options of a mesh with the service `who`: `am-i` tells the id, and so does `waits` once the keeper is open.
    fn mesh(registry: &MemoryRegistry, id: &str, keeper: &Arc<Gatekeeper>) -> MeshBuilder;

    /// Returns the options of a client, whose calls go to the instances in turn.
    fn client(registry: &MemoryRegistry) -> MeshClientBuilder;

    /// Returns the options of a client, whose calls go by keys.
    fn client_by_keys(registry: &MemoryRegistry) -> MeshClientBuilder;
}

/// Makes the handlers that wait go on.
#[derive(Default)]
pub(crate) struct Gatekeeper {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gatekeeper {
    pub(crate) fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock();
        self.opened.wait_while(&mut open, |open| !*open);
    }

    pub(crate) fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

fn mesh<S: Speaks>(registry: &MemoryRegistry, id: &str) -> Mesh {
    let mesh = S::mesh(registry, id, &Arc::default());
    mesh.start().expect("starts")
}

fn client<S: Speaks>(registry: &MemoryRegistry) -> MeshClient {
    let client = S::client(registry).call_timeout(LONG);
    client.start().expect("starts")
}

pub(crate) fn who(client: &MeshClient) -> Result<String, Error> {
    client.call("/who/am-i", &()).wait()
}

/// The ids that answer to several calls.
fn answering(client: &MeshClient) -> BTreeSet<String> {
    (0..6).map(|_| who(client).expect("is answered")).collect()
}

fn set<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

pub(crate) fn calls_are_spread_over_the_instances_in_work_and_follow_the_registry<S: Speaks>() {
    let registry = MemoryRegistry::new();
    let one = mesh::<S>(&registry, "mesh-1");
    let two = mesh::<S>(&registry, "mesh-2");
    let client = client::<S>(&registry);
    eventually("both answer", || {
        answering(&client) == set(["mesh-1", "mesh-2"])
    });

    let three = mesh::<S>(&registry, "mesh-3");
    eventually("the new one answers", || {
        answering(&client) == set(["mesh-1", "mesh-2", "mesh-3"])
    });
    two.set_state(State::Busy).expect("is registered");
    eventually("the busy one is spared", || {
        answering(&client) == set(["mesh-1", "mesh-3"])
    });
    one.set_state(State::Hang).expect("is registered");
    three.shutdown();
    eventually("only the busy one is left", || {
        answering(&client) == set(["mesh-2"])
    });
    two.set_state(State::Hang).expect("is registered");
    eventually(
        "none takes calls",
        || matches!(who(&client), Err(Error::NotFoundEndpoint { wanted }) if wanted == "discovery://who"),
    );
}

pub(crate) fn a_call_can_go_to_one_instance_or_one_address<S: Speaks>() {
    let registry = MemoryRegistry::new();
    let meshes = ["mesh-1", "mesh-2"].map(|id| mesh::<S>(&registry, id));
    let client = client::<S>(&registry);
    let at = |target: &str| {
        let service = client.service(target).expect("is a target");
        service.call::<_, String>("/who/am-i", &()).wait()
    };
    for mesh in &meshes {
        for target in [mesh.id().to_owned(), mesh.addr().to_string()] {
            let answer = at(&format!("direct://{target}"));
            assert_eq!(answer.expect("answers"), mesh.id());
        }
    }
    // Whoever names an instance gets it in any state.
    meshes[0].set_state(State::Hang).expect("is registered");
    assert_eq!(at("direct://mesh-1").expect("answers"), "mesh-1");
    meshes[0].set_state(State::Shut).expect("is registered");
    let is_gone =
        |found: Result<String, Error>| matches!(found, Err(Error::NotFoundEndpoint { .. }));
    eventually("but for `shut`", || is_gone(at("direct://mesh-1")));
    assert!(is_gone(at("direct://mesh-9")));
    for wrong in ["who", "http://who", "discovery://", "direct://"] {
        let error = client.service(wrong).expect_err("is wrong");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    let service = client.service("direct://mesh-1").expect("is right");
    assert_eq!(service.target(), &Target::Instance("mesh-1".to_owned()));
}

pub(crate) fn calls_under_way_end_before_a_mesh_does<S: Speaks>() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::<Gatekeeper>::default());
    let mesh = S::mesh(&registry, "mesh-1", &keeper);
    let mesh = mesh.start().expect("starts");
    let client = client::<S>(&registry);
    let (sender, answer) = mpsc::channel();
    client
        .call("/who/waits", &())
        .then(move |result: Result<String, Error>| {
            let _ = sender.send(result);
        });
    eventually("the handler runs", || keeper.waiting() == 1);
    let ends = thread::spawn(move || mesh.shutdown());
    eventually("it hangs", || {
        let records = registry.services("mesh").expect("are known");
        records.iter().any(|record| record.state == State::Hang)
    });
    eventually("it gets no more calls", || {
        matches!(who(&client), Err(Error::NotFoundEndpoint { .. }))
    });
    assert!(!ends.is_finished());
    keeper.open();
    let answer = answer.recv_timeout(LONG).expect("comes");
    assert_eq!(answer.expect("is answered"), "mesh-1");
    ends.join().expect("ends");
    assert!(registry.services("mesh").expect("are known").is_empty());
}

pub(crate) fn an_instance_that_cannot_be_reached_costs_no_call<S: Speaks>() {
    let registry = MemoryRegistry::new();
    let dead = DeadPort::new();
    let register = |id: &str, endpoint: String| {
        let mut record = Instance::new(Kind::Mesh, id, endpoint);
        record.services.push("who".to_owned());
        registry.register(&record).expect("is registered");
    };
    register(
        "dead",
        format!("{}://{}?is_secure=false", S::SCHEME, dead.addr),
    );
    // One of another protocol is not called at all.
    register("foreign", "other://127.0.0.1:1?is_secure=false".to_owned());
    let lives = mesh::<S>(&registry, "lives");
    let client = client::<S>(&registry);
    for _ in 0..20 {
        assert_eq!(who(&client).expect("is answered"), "lives");
    }
    // Nobody else is left.
    lives.shutdown();
    eventually("it says why", || match who(&client) {
        Err(Error::LinkDown { peer }) => peer.contains(&dead.addr.to_string()),
        _ => false,
    });
}

pub(crate) fn a_key_gets_the_same_instance<S: Speaks>() {
    let registry = MemoryRegistry::new();
    let _meshes = ["a", "b", "c"].map(|id| mesh::<S>(&registry, id));
    let client = S::client_by_keys(&registry).call_timeout(LONG).start();
    let client = client.expect("starts");
    let of = |key: u32| -> String {
        let call = client.call("/who/am-i", &()).key(key.to_be_bytes());
        call.idempotent().wait().expect("is answered")
    };
    let first: Vec<_> = (0..40).map(of).collect();
    assert_eq!((0..40).map(of).collect::<Vec<_>>(), first);
    assert_eq!(
        first.into_iter().collect::<BTreeSet<_>>(),
        set(["a", "b", "c"])
    );
}

pub(crate) fn a_callback_can_call_again_but_must_not_wait<S: Speaks>() {
    expect_panics();
    let registry = MemoryRegistry::new();
    let _mesh = mesh::<S>(&registry, "mesh-1");
    let client = client::<S>(&registry);
    let (sender, results) = mpsc::channel();
    let again = client.clone();
    client
        .call("/who/am-i", &())
        .then(move |first: Result<String, Error>| {
            let waits = who(&again);
            again
                .call("/who/am-i", &())
                .then(move |second: Result<String, Error>| {
                    let _ = sender.send((first, waits, second));
                    panic!("its panic ends nothing, on purpose");
                });
        });
    let (first, waits, second) = results.recv_timeout(LONG).expect("come");
    assert_eq!(first.expect("is answered"), "mesh-1");
    assert!(
        matches!(waits, Err(Error::IllegalRequest { .. })),
        "{waits:?}"
    );
    assert_eq!(second.expect("is answered"), "mesh-1");
    assert_eq!(who(&client).expect("it works on"), "mesh-1");
}
