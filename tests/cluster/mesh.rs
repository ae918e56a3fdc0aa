//! Services that are called by name.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use epicycle::balance::{HashRing, Place, RoundRobin};
use epicycle::cluster::codec::{Codec, Pb};
use epicycle::cluster::drpc::Secret;
use epicycle::cluster::mesh::{
    Channel, Done, Mesh, MeshAddress, MeshBuilder, MeshClient, MeshClientBuilder, MeshRequest,
    MeshServer, Transporter,
};
use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry};
use epicycle::cluster::{Error, Kind};
use epicycle::rpc::Status;
use parking_lot::Mutex;

use crate::mesh_alike::{self, Gatekeeper, Speaks, who};
use crate::util::ports::DeadPort;
use crate::util::{LONG, eventually};

/// The transporter of rpc.
struct Rpc;

impl Speaks for Rpc {
    const SCHEME: &'static str = "rpc";

    fn mesh(registry: &MemoryRegistry, id: &str, keeper: &Arc<Gatekeeper>) -> MeshBuilder {
        with_keeper(registry, id, id.to_owned(), keeper.clone())
    }

    fn client(registry: &MemoryRegistry) -> MeshClientBuilder {
        let builder = MeshClient::builder().registry(registry.clone());
        builder.spread(|multi| {
            multi
                .balancer(RoundRobin::new(Place::ALONE))
                .max_wait(Duration::from_secs(1))
        })
    }

    fn client_by_keys(registry: &MemoryRegistry) -> MeshClientBuilder {
        let builder = MeshClient::builder().registry(registry.clone());
        builder.spread(|multi| multi.balancer(HashRing::new()))
    }
}

/// The options of a mesh with the service `who`, whose methods tell its id.
fn mesh(registry: &MemoryRegistry, id: &str) -> MeshBuilder {
    let (name, keeper) = (id.to_owned(), Arc::new(Gatekeeper::default()));
    with_keeper(registry, id, name, keeper)
}

fn with_keeper(
    registry: &MemoryRegistry,
    id: &str,
    name: String,
    keeper: Arc<Gatekeeper>,
) -> MeshBuilder {
    Mesh::builder()
        .id(id)
        .registry(registry.clone())
        .peer(|peer| peer.reactors(1))
        .service("who", move |routes| {
            let held = name.clone();
            routes.call("am-i", move |_ctx, _: ()| Ok(name.clone()));
            routes.call_blocking("waits", move |_ctx, _: ()| {
                keeper.pass();
                Ok(held.clone())
            });
            routes.call("fails", |_ctx, _: ()| {
                Err::<(), _>(Status::new(1001, "no money"))
            });
            routes.call("panics", |_ctx, _: ()| {
                if true {
                    panic!("on purpose");
                }
                Ok(())
            });
        })
}

fn client(registry: &MemoryRegistry) -> MeshClient {
    let client = Rpc::client(registry).call_timeout(LONG);
    client.start().expect("starts")
}

#[test]
fn calls_of_a_service_are_spread_over_the_instances_in_work_and_follow_the_registry() {
    mesh_alike::calls_are_spread_over_the_instances_in_work_and_follow_the_registry::<Rpc>();
}

#[test]
fn a_mesh_is_registered_with_its_services_and_its_address() {
    let registry = MemoryRegistry::new();
    let mesh = mesh(&registry, "mesh-1")
        .name("shop")
        .weight(3)
        .metadata("zone", "a")
        .service("pay", |_| {})
        .start()
        .expect("starts");
    let records = registry.services("mesh").expect("are known");
    let port = mesh.addr().port();
    assert_eq!(
        records[0].to_json().expect("is JSON"),
        r#"{"id":"mesh-1","name":"mesh","kind":"mesh","alias":"shop","state":"work","services":["who","pay"],"#
            .to_owned()
            + &format!(r#""endpoint":"rpc://127.0.0.1:{port}?is_secure=false","weight":3,"metadata":{{"zone":"a"}}}}"#)
    );
    assert_eq!(client(&registry).services(), ["pay", "who"]);
    mesh.shutdown();
    assert!(registry.services("mesh").expect("are known").is_empty());
}

#[test]
fn a_call_can_go_to_one_instance_or_one_address() {
    mesh_alike::a_call_can_go_to_one_instance_or_one_address::<Rpc>();
}

#[test]
fn each_call_is_answered_once_while_instances_come_and_go() {
    let registry = MemoryRegistry::new();
    let _stays = mesh(&registry, "stays").start().expect("starts");
    let client = client(&registry);
    let (sender, answers) = mpsc::channel();
    const CALLS: usize = 600;
    thread::scope(|scope| {
        for _ in 0..3 {
            let (client, sender) = (client.clone(), sender.clone());
            scope.spawn(move || {
                for _ in 0..CALLS / 3 {
                    sender.send(who(&client)).expect("is wanted");
                }
            });
        }
        for round in 0..4 {
            let goes = mesh(&registry, &format!("goes-{round}")).start();
            let goes = goes.expect("starts");
            let before = answers_of(&client, goes.id());
            assert!(before > 0, "it has had calls");
            goes.shutdown();
        }
    });
    drop(sender);
    let answers: Vec<_> = answers.iter().collect();
    assert_eq!(answers.len(), CALLS);
    for answer in answers {
        answer.expect("is answered");
    }
}

/// Calls until this instance has answered.
fn answers_of(client: &MeshClient, id: &str) -> usize {
    let mut answers = 0;
    eventually("it answers", || {
        answers += usize::from(who(client).is_ok_and(|answer| answer == id));
        answers > 0
    });
    answers
}

#[test]
fn calls_under_way_end_before_a_mesh_does() {
    mesh_alike::calls_under_way_end_before_a_mesh_does::<Rpc>();
}

#[test]
fn the_error_tells_who_has_failed() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::new(Gatekeeper::default()));
    let mesh = with_keeper(&registry, "mesh-1", "mesh-1".to_owned(), keeper.clone());
    let mesh = mesh.start().expect("starts");
    let client = client(&registry);
    let failing = |path: &str| -> Error {
        let call = client.call::<_, String>(path, &());
        call.wait().expect_err("fails")
    };
    let code = |error: Error| match error {
        Error::Service(status) => status.code,
        other => panic!("{other}"),
    };
    assert_eq!(code(failing("/who/fails")), 1001);
    assert_eq!(code(failing("/who/panics")), 500);
    let none = failing("/who/nothing");
    assert!(none.to_string().contains("/who/nothing"), "{none}");
    assert_eq!(code(none), 404);
    for path in ["who", "/who", "/who/", "//am-i", ""] {
        let error = failing(path);
        assert!(error.to_string().contains("names no method"), "{error}");
    }
    let short = Duration::from_millis(20);
    let late = client.call::<_, String>("/who/waits", &()).timeout(short);
    let late = late.wait();
    assert!(matches!(late, Err(Error::Timeout { after, .. }) if after == short));
    keeper.open();
    let number = client.call::<_, u8>("/who/am-i", &()).wait();
    assert!(matches!(number, Err(Error::Codec(_))), "{number:?}");
    let odd = client.call::<_, u8>("/who/am-i", &Pb(String::new())).wait();
    assert!(matches!(odd, Err(Error::Codec(_))), "{odd:?}");
    mesh.shutdown();
}

#[test]
fn an_instance_that_cannot_be_reached_costs_no_call() {
    mesh_alike::an_instance_that_cannot_be_reached_costs_no_call::<Rpc>();
}

#[test]
fn a_call_that_no_instance_takes_says_why_before_its_time_is_over() {
    let registry = MemoryRegistry::new();
    let dead = DeadPort::new();
    let endpoint = format!("rpc://{}?is_secure=false", dead.addr);
    let mut record = Instance::new(Kind::Mesh, "dead", endpoint);
    record.services.push("who".to_owned());
    registry.register(&record).expect("is registered");
    let builder = MeshClient::builder().registry(registry.clone());
    let client = builder.call_timeout(Duration::from_secs(2)).start();
    let error = who(&client.expect("starts")).expect_err("is dead");
    assert!(
        matches!(&error, Error::LinkDown { peer } if peer.contains(&dead.addr.to_string())),
        "{error}"
    );
}

#[test]
fn a_key_gets_the_same_instance() {
    mesh_alike::a_key_gets_the_same_instance::<Rpc>();
}

#[test]
fn a_reactor_is_not_blocked_and_can_call_again_from_a_callback() {
    mesh_alike::a_callback_can_call_again_but_must_not_wait::<Rpc>();
}

#[test]
fn services_can_speak_protobuf() {
    let registry = MemoryRegistry::new();
    let mesh = Mesh::builder().registry(registry.clone());
    let mesh = mesh.service("echo", |routes| {
        routes.call("it", |_ctx, text: Pb<String>| Ok(text));
    });
    let _mesh = mesh.start().expect("starts");
    let client = MeshClient::builder()
        .registry(registry)
        .codec(Codec::Protobuf);
    let client = client.call_timeout(LONG).start().expect("starts");
    let text = Pb("频".to_owned());
    let echoed: Pb<String> = client.call("/echo/it", &text).wait().expect("is answered");
    assert_eq!(echoed, text);
}

#[cfg(feature = "codec-msgpack")]
#[test]
fn services_can_speak_messagepack() {
    let registry = MemoryRegistry::new();
    let mesh = Mesh::builder().registry(registry.clone());
    let mesh = mesh.service("sum", |routes| {
        routes.call("of", |_ctx, numbers: Vec<i64>| {
            Ok(numbers.iter().sum::<i64>())
        });
    });
    let _mesh = mesh.start().expect("starts");
    let codec = "msgpack".parse().expect("is built in");
    let client = MeshClient::builder().registry(registry).codec(codec);
    let client = client.call_timeout(LONG).start().expect("starts");
    let sum: i64 = client
        .call("/sum/of", &vec![1, 2, 300])
        .wait()
        .expect("is answered");
    assert_eq!(sum, 303);
}

#[cfg(feature = "tls")]
#[test]
fn instances_with_tls_are_called_by_clients_with_tls() {
    use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};

    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("is right");
    let server = TlsServer::new(identity).expect("is right");
    let roots = Roots::from_pem(cert.as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");

    let registry = MemoryRegistry::new();
    let _secure = mesh(&registry, "secure")
        .tls(&server)
        .start()
        .expect("starts");
    let with = MeshClient::builder().registry(registry.clone()).tls(&tls);
    let with = with.call_timeout(LONG).start().expect("starts");
    assert_eq!(who(&with).expect("is answered"), "secure");
    let without = client(&registry);
    let error = who(&without).expect_err("cannot call it");
    assert!(
        error.to_string().contains("MeshClientBuilder::tls"),
        "{error}"
    );
    // The others are called as ever.
    let _plain = mesh(&registry, "plain").start().expect("starts");
    eventually("the other one is called", || {
        who(&without).is_ok_and(|id| id == "plain")
    });
}

#[cfg(feature = "tls")]
#[test]
fn an_address_that_begins_to_want_tls_is_dialled_anew() {
    use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};

    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("is right");
    let server = TlsServer::new(identity).expect("is right");
    let roots = Roots::from_pem(cert.as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");

    // The records of both are written by the test, one over the other.
    let (registry, own) = (MemoryRegistry::new(), MemoryRegistry::new());
    let plain = mesh(&own, "plain").start().expect("starts");
    let addr = plain.addr();
    let record = |is_secure: bool| {
        let endpoint = format!("rpc://{addr}?is_secure={is_secure}");
        let mut record = Instance::new(Kind::Mesh, "mesh-1", endpoint);
        record.services = vec!["who".to_owned()];
        registry.register(&record).expect("is sound");
    };
    record(false);
    let client = MeshClient::builder().registry(registry.clone()).tls(&tls);
    let client = client.call_timeout(LONG).start().expect("starts");
    assert_eq!(who(&client).expect("is answered"), "plain");
    let direct = |client: &MeshClient, target: String| {
        let service = client.service(&target).expect("is a target");
        let call = service.call::<_, String>("/who/am-i", &());
        call.timeout(Duration::from_secs(1)).wait()
    };
    assert_eq!(
        direct(&client, format!("direct://{addr}")).expect("is answered"),
        "plain"
    );
    plain.shutdown();
    let secure = mesh(&own, "secure")
        .tls(&server)
        .listen(format!("tcp://{addr}"));
    let _secure = secure.start().expect("starts");
    record(true);
    eventually("it is called by TLS", || {
        let call = client.call::<_, String>("/who/am-i", &());
        call.timeout(Duration::from_secs(1))
            .wait()
            .is_ok_and(|id| id == "secure")
    });
    // The same by its address, registered or not.
    eventually("it is called by TLS", || {
        direct(&client, format!("direct://{addr}")).is_ok_and(|id| id == "secure")
    });
    let stranger = MeshClient::builder().tls(&tls).start().expect("starts");
    let target = format!("direct://{addr}?is_secure=true");
    assert_eq!(direct(&stranger, target).expect("is answered"), "secure");
}

#[test]
fn with_a_secret_only_those_who_have_it_call_and_are_called() {
    let secret = |text: &str| Secret::new(text.as_bytes()).expect("is long enough");
    let (ours, theirs) = ("the secret of this cluster", "the secret of another one");
    let registry = MemoryRegistry::new();
    let served = mesh(&registry, "mesh-1").secret(secret(ours));
    let served = served.start().expect("starts");
    let with = |secret: Option<Secret>| {
        let client = MeshClient::builder().registry(registry.clone());
        let client = client.call_timeout(Duration::from_secs(2));
        match secret {
            Some(secret) => client.secret(secret),
            None => client,
        }
        .start()
        .expect("starts")
    };
    let client = with(Some(secret(ours)));
    for _ in 0..3 {
        assert_eq!(who(&client).expect("is answered"), "mesh-1");
    }
    for stranger in [Some(secret(theirs)), None] {
        assert!(who(&with(stranger)).is_err());
    }
    served.shutdown();
    // A mesh that has not proved it is not called.
    for other in [Some(secret(theirs)), None] {
        let mesh = mesh(&registry, "mesh-2");
        let mesh = match other {
            Some(secret) => mesh.secret(secret),
            None => mesh,
        };
        let _mesh = mesh.start().expect("starts");
        assert!(who(&with(Some(secret(ours)))).is_err());
    }
}

/// A transporter whose channels call back, and forget calls.
struct Strange {
    client: Arc<OnceLock<MeshClient>>,
}

/// It keeps the ends of calls and never calls them.
struct Forgetful(Mutex<Vec<Done>>);

impl Transporter for Strange {
    fn scheme(&self) -> &str {
        "rpc"
    }

    fn services(&self) -> Vec<String> {
        Vec::new()
    }

    fn serve(self: Box<Self>) -> Result<Box<dyn MeshServer>, Error> {
        unreachable!("it makes calls only")
    }

    fn channel(&self) -> Result<Arc<dyn Channel>, Error> {
        let client = self.client.get().expect("has started");
        assert_eq!(client.services(), ["who"]);
        Ok(Arc::new(Forgetful(Mutex::default())))
    }
}

impl Channel for Forgetful {
    fn set_addresses(&self, _: &[MeshAddress]) -> Result<(), Error> {
        Ok(())
    }

    fn call(&self, _: MeshRequest, done: Done) {
        self.0.lock().push(done);
    }
}

#[test]
fn a_transporter_may_call_back_and_a_call_that_it_forgets_ends() {
    let registry = MemoryRegistry::new();
    let _mesh = mesh(&registry, "mesh-1").start().expect("starts");
    let client = Arc::new(OnceLock::new());
    let strange = Strange {
        client: client.clone(),
    };
    let started = MeshClient::builder()
        .registry(registry)
        .transporter(strange);
    let started = started.call_timeout(Duration::from_millis(10)).start();
    let started = client.get_or_init(|| started.expect("starts"));
    assert!(matches!(who(started), Err(Error::Timeout { .. })));
}

#[test]
fn wrong_options_are_named() {
    let registry = MemoryRegistry::new();
    let problem = |builder: MeshBuilder| builder.start().expect_err("is wrong").to_string();
    assert!(problem(Mesh::builder()).contains("`service`"));
    assert!(problem(mesh(&registry, "a").service("who", |_| {})).contains("twice"));
    assert!(problem(mesh(&registry, "a").service("a/b", |_| {})).contains("slashes"));
    assert!(problem(mesh(&registry, "a").listen("tcp://0.0.0.0:0")).contains("`expose`"));
    assert!(problem(mesh(&registry, "a").listen("nonsense")).contains("nonsense"));
    assert!(problem(mesh(&registry, "a/b")).contains("slashes"));
    assert!(registry.services("mesh").expect("are known").is_empty());
    let exposed = mesh(&registry, "a")
        .listen("tcp://0.0.0.0:0")
        .expose("game.example");
    let exposed = exposed.start().expect("is right");
    let endpoint = &registry.services("mesh").expect("are known")[0].endpoint;
    let port = exposed.addr().port();
    assert_eq!(
        *endpoint,
        format!("rpc://game.example:{port}?is_secure=false")
    );
}
