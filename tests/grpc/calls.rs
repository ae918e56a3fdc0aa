//! Calls and what they end with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::codec::{Codec, Pb};
use epicycle::cluster::config::Config;
use epicycle::cluster::mesh::{GrpcTransporter, Mesh, MeshClient};
use epicycle::cluster::registry::{MemoryRegistry, Registry};
use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};

use crate::mesh_alike;
use crate::util::{LONG, eventually, expect_panics};
use crate::{Grpc, client, client_of, mesh, services, who, with};

#[test]
fn calls_are_spread_by_weight() {
    let registry = MemoryRegistry::new();
    let one = mesh(&registry, "mesh-1").weight(3).start().expect("starts");
    let _two = mesh(&registry, "mesh-2").weight(1).start().expect("starts");
    let client = client(&registry);
    let mut shares = BTreeMap::<String, u32>::new();
    for _ in 0..40 {
        *shares
            .entry(who(&client).expect("is answered"))
            .or_default() += 1;
    }
    assert_eq!(
        shares,
        [("mesh-1".to_owned(), 30), ("mesh-2".to_owned(), 10)].into()
    );

    let record = &registry.services("mesh").expect("are known")[0];
    assert_eq!(record.services, ["who"]);
    assert_eq!(
        record.endpoint,
        format!("grpc://{}?is_secure=false", one.addr())
    );
    assert_eq!(client.services(), ["who"]);
}

#[test]
fn calls_are_spread_over_the_instances_in_work_and_follow_the_registry() {
    mesh_alike::calls_are_spread_over_the_instances_in_work_and_follow_the_registry::<Grpc>();
}

#[test]
fn a_call_can_go_to_one_instance_or_one_address() {
    mesh_alike::a_call_can_go_to_one_instance_or_one_address::<Grpc>();
}

#[test]
fn the_error_tells_who_has_failed_and_how() {
    expect_panics();
    let registry = MemoryRegistry::new();
    let _mesh = mesh(&registry, "mesh-1").start().expect("starts");
    let client = client(&registry);
    for code in [1001, 404, 7, -1] {
        let failed = client.call::<_, ()>("/who/fails", &code).wait();
        let Err(Error::Service(status)) = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(
            (status.code, &*status.message, &*status.reason),
            (code, "kein Geld €", "spent")
        );
    }
    let failing = |path: &str| client.call::<_, String>(path, &()).wait();
    let code = |path: &str| match failing(path) {
        Err(Error::Service(status)) => status.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code("/who/panics"), 500);
    assert_eq!(code("/who/nothing"), 404);
    // The argument is no text.
    assert_eq!(code("/who/echo"), 400);
    let busy = client.call::<_, ()>("/who/fails", &503).wait();
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    // A text that no header holds.
    let long = client.call::<_, ()>("/who/fails-at-length", &()).wait();
    let Err(Error::Service(status)) = long else {
        panic!("{long:?}");
    };
    assert_eq!(status.code, 1001);
    assert!(status.message.starts_with("€€€") && status.reason.starts_with("€€€"));
    let number = client.call::<_, u8>("/who/am-i", &()).wait();
    assert!(matches!(number, Err(Error::Codec(_))), "{number:?}");
    let odd = client.call::<_, String>("/who/a b", &()).wait();
    assert!(
        matches!(odd, Err(Error::InvalidArgument { name: "path", .. })),
        "{odd:?}"
    );
    assert_eq!(who(&client).expect("it works on"), "mesh-1");
}

#[test]
fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::default());
    let _mesh = with(&registry, "mesh-1", services("mesh-1", &keeper));
    let _mesh = _mesh.start().expect("starts");
    let client = client(&registry);
    let short = Duration::from_millis(200);
    let late = client
        .call::<_, ()>("/who/is-cancelled", &())
        .timeout(short);
    let late = late.wait();
    assert!(
        matches!(late, Err(Error::Timeout { after, .. }) if after == short),
        "{late:?}"
    );
    eventually("the handler sees it", || keeper.waiting() == 1);
    keeper.open();
    assert_eq!(who(&client).expect("the connection works on"), "mesh-1");
}

#[test]
fn an_instance_that_cannot_be_reached_costs_no_call() {
    mesh_alike::an_instance_that_cannot_be_reached_costs_no_call::<Grpc>();
}

#[test]
fn an_instance_that_comes_back_is_called_again() {
    let registry = MemoryRegistry::new();
    let first = mesh(&registry, "mesh-1").start().expect("starts");
    let addr = first.addr();
    let client = client(&registry);
    let target = client
        .service(&format!("direct://{addr}"))
        .expect("is a target");
    let ask = || target.call::<_, String>("/who/am-i", &()).wait();
    assert_eq!(ask().expect("is answered"), "mesh-1");
    first.shutdown();
    let gone = ask();
    assert!(matches!(gone, Err(Error::LinkDown { .. })), "{gone:?}");
    let again = services("again", &Arc::default()).listen(format!("tcp://{addr}"));
    let _again = with(&registry, "again", again).start().expect("starts");
    eventually("it answers", || ask().is_ok_and(|id| id == "again"));
}

#[test]
fn a_key_gets_the_same_instance() {
    mesh_alike::a_key_gets_the_same_instance::<Grpc>();
}

#[test]
fn bodies_have_the_codec_of_the_client() {
    let registry = MemoryRegistry::new();
    let pb = GrpcTransporter::new().service("text", |methods| {
        methods.call("double", |call, Pb(text): Pb<String>| {
            let type_of = call.metadata("content-type").map(str::to_owned);
            Ok(Pb(format!("{text}{text} {type_of:?} {:?}", call.codec())))
        });
    });
    let _mesh = with(&registry, "mesh-1", pb).start().expect("starts");
    let client = MeshClient::builder().registry(registry.clone());
    let client = client.transporter(GrpcTransporter::new());
    let client = client.codec(Codec::Protobuf).call_timeout(LONG).start();
    let client = client.expect("starts");
    let text = Pb("ab".to_owned());
    let call = client.call::<_, Pb<String>>("/text/double", &text);
    let Pb(text) = call.wait().expect("is answered");
    assert!(
        text.starts_with("abab ") && text.ends_with("proto"),
        "{text}"
    );

    // The method has no JSON.
    let json = crate::client(&registry);
    let refused = json.call::<_, String>("/text/double", "ab").wait();
    assert!(
        matches!(&refused, Err(Error::Service(status)) if status.code == 400),
        "{refused:?}"
    );
}

#[test]
fn instances_with_tls_are_called_by_clients_with_tls() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("is right");
    let server = TlsServer::new(identity).expect("is right");
    let roots = Roots::from_pem(cert.as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");

    let registry = MemoryRegistry::new();
    let secure = services("secure", &Arc::default()).tls(&server);
    let secure = with(&registry, "secure", secure).start().expect("starts");
    let record = &registry.services("mesh").expect("are known")[0];
    assert!(
        record.endpoint.ends_with("is_secure=true"),
        "{}",
        record.endpoint
    );
    let knowing = client_of(&registry, GrpcTransporter::new().tls_client(&tls));
    assert_eq!(who(&knowing).expect("is answered"), "secure");

    let without = client(&registry);
    let error = who(&without).expect_err("cannot call it").to_string();
    assert!(error.contains("GrpcTransporter::tls_client"), "{error}");
    // One that trusts others is told so.
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let roots = Roots::from_pem(stranger.cert.pem().as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");
    let doubtful = client_of(&registry, GrpcTransporter::new().tls_client(&tls));
    let error = who(&doubtful).expect_err("it is not trusted");
    assert!(
        matches!(&error, Error::LinkDown { peer } if peer.contains("certificate")),
        "{error}"
    );

    // The others are called as ever.
    let _plain = mesh(&registry, "plain").start().expect("starts");
    eventually("the other one is called", || {
        who(&without).is_ok_and(|id| id == "plain")
    });
    drop(secure);
}

#[test]
fn a_callback_can_call_again_but_must_not_wait() {
    mesh_alike::a_callback_can_call_again_but_must_not_wait::<Grpc>();
}

#[test]
fn wrong_options_are_named() {
    let registry = MemoryRegistry::new();
    let problem = |transporter: GrpcTransporter| {
        let started = with(&registry, "a", transporter).start();
        started.expect_err("is wrong").to_string()
    };
    let services = || services("a", &Arc::default());
    assert!(problem(GrpcTransporter::new()).contains("`service`"));
    assert!(problem(services().service("who", |_| {})).contains("twice"));
    assert!(problem(services().listen("nonsense")).contains("nonsense"));
    assert!(problem(services().listen("unix:///tmp/x")).contains("tcp://"));
    assert!(problem(services().listen("tcp://0.0.0.0:0")).contains("`expose`"));
    assert!(problem(services().max_connections(0)).contains("`max_connections`"));
    assert!(problem(services().threads(0)).contains("threads"));
    let taken = Mesh::builder()
        .transporter(services())
        .start()
        .expect("starts");
    let address = format!("tcp://{}", taken.addr());
    assert!(problem(services().listen(&*address)).contains(&address));
    assert!(registry.services("mesh").expect("are known").is_empty());
}

#[test]
fn both_sides_take_the_configuration_of_due() {
    let made = rcgen::generate_simple_self_signed(["game.example".to_owned()]).expect("is made");
    let dir = tempfile::tempdir().expect("is made");
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("is written");
        path.display().to_string()
    };
    let cert = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let text = format!(
        "[transport.grpc.server]\naddr = \"127.0.0.1:0\"\ncertFile = \"{cert}\"\nkeyFile = \"{key}\"\n\
         [transport.grpc.client]\ncaFile = \"{cert}\"\nserverName = \"game.example\"\n"
    );
    let etc = file("etc.toml", text);
    let config = Config::read([], [format!("--etc={etc}")]).expect("is sound");
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    let registry = MemoryRegistry::new();
    let server = services("mesh-1", &Arc::default()).config(&config);
    let server = with(&registry, "mesh-1", server.expect("is right"));
    let _server = server.start().expect("starts");
    let record = &registry.services("mesh").expect("are known")[0];
    assert!(
        record.endpoint.ends_with("is_secure=true"),
        "{}",
        record.endpoint
    );
    let client = GrpcTransporter::new().config(&config).expect("is right");
    let answer = who(&client_of(&registry, client));
    assert_eq!(answer.expect("is answered"), "mesh-1");
}

#[test]
fn a_client_of_another_protocol_is_told_which_one_the_instances_speak() {
    let registry = MemoryRegistry::new();
    let mesh = mesh(&registry, "mesh-1").start().expect("starts");
    let rpc = MeshClient::builder().registry(registry).start();
    let rpc = rpc.expect("starts");
    let targets = [
        "discovery://who".to_owned(),
        "direct://mesh-1".to_owned(),
        format!("direct://{}", mesh.addr()),
    ];
    for target in targets {
        let service = rpc.service(&target).expect("is a target");
        let error = service.call::<_, String>("/who/am-i", &()).wait();
        let error = error.expect_err("is no rpc").to_string();
        assert!(error.contains("grpc://"), "{target}: {error}");
        assert!(error.contains("this client rpc://"), "{target}: {error}");
    }
}
