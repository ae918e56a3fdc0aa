//! Backends that are reached by HTTP, over TLS.

use std::time::Duration;

use epicycle::cluster::backends::{Consul, Etcd, Nacos};
use epicycle::cluster::http::{HttpReply, HttpServer};
use epicycle::cluster::registry::{ConsulRegistry, EtcdRegistry, NacosRegistry, Registry};
use epicycle::cluster::{Error, Kind};
use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

use crate::etcd_server::command;
use crate::process::{Server, free_port};
use crate::registries::node;
use crate::util::client::TempPath;
use crate::util::eventually;

const SECOND: Duration = Duration::from_secs(1);

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).expect("is made")
}

fn trusting(made: &CertifiedKey<KeyPair>) -> TlsClient {
    let roots = Roots::from_pem(made.cert.pem().as_bytes()).expect("is right");
    TlsClient::new(&roots).expect("is complete")
}

/// Those who trust the server are answered, and others are told why not.
fn check(open: impl Fn(&TlsClient) -> Box<dyn Registry>, made: &CertifiedKey<KeyPair>) {
    let list = open(&trusting(made)).services(Kind::Node.as_str());
    assert_eq!(list.expect("is answered"), []);
    let stranger = open(&trusting(&certificate()));
    let error = stranger
        .services(Kind::Node.as_str())
        .expect_err("is not trusted");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn etcd_is_reached_over_tls_by_those_who_trust_it() {
    let made = certificate();
    let (data, cert, key) = (TempPath::new(), TempPath::new(), TempPath::new());
    std::fs::write(&cert.0, made.cert.pem()).expect("writes");
    std::fs::write(&key.0, made.signing_key.serialize_pem()).expect("writes");
    let (peer, folder) = (free_port(), data.0.clone());
    let server = Server::start(move |port| {
        let mut command = command(&folder, &format!("https://127.0.0.1:{port}"), peer);
        command.arg("--cert-file").arg(&cert.0);
        command.arg("--key-file").arg(&key.0);
        command
    });
    let Some(server) = server else {
        return;
    };
    let url = format!("https://localhost:{}", server.port);
    let open = |tls: &TlsClient| {
        let etcd = Etcd::builder().url(&url).tls(tls).timeout(SECOND).build();
        EtcdRegistry::new(&etcd.expect("is complete"))
    };
    let registry = open(&trusting(&made));
    eventually("it serves", || registry.services("node").is_ok());
    check(|tls| Box::new(open(tls)), &made);

    let mut watch = registry.watch("node").expect("watches");
    assert_eq!(watch.next(), Some(Vec::new()));
    let ours = node("node-1");
    registry.register(&ours).expect("is written");
    eventually("the watch tells it", || {
        watch.try_next().is_some_and(|list| list == [ours.clone()])
    });
    registry.deregister(&ours).expect("is taken out");
    let plain = Etcd::open(&format!("http://localhost:{}", server.port)).expect("is a URL");
    assert!(EtcdRegistry::new(&plain).services("node").is_err());
    drop((registry, server));
    let _ = std::fs::remove_dir_all(&data.0);
}

/// Answers one path with the same JSON each time.
fn answering(made: &CertifiedKey<KeyPair>, path: &str, json: &'static str) -> HttpServer {
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("is right");
    HttpServer::builder()
        .listen("tcp://127.0.0.1:0")
        .tls(&TlsServer::new(identity).expect("is right"))
        .routes(|routes| {
            routes.get(path, move |_| Ok(HttpReply::text(json)));
        })
        .start()
        .expect("starts")
}

#[test]
fn consul_is_reached_over_tls_by_those_who_trust_it() {
    let made = certificate();
    let agent = answering(&made, "/v1/health/service/node", "[]");
    let url = format!("https://localhost:{}", agent.addr().port());
    let open = |tls: &TlsClient| -> Box<dyn Registry> {
        let consul = Consul::builder().url(&url).tls(tls).timeout(SECOND).build();
        Box::new(ConsulRegistry::new(&consul.expect("is complete")))
    };
    check(open, &made);
}

#[test]
fn nacos_is_reached_over_tls_by_those_who_trust_it() {
    let made = certificate();
    let hosts = r#"{"cacheMillis": 100, "hosts": []}"#;
    let server = answering(&made, "/nacos/v1/ns/instance/list", hosts);
    let url = format!("https://localhost:{}/nacos", server.addr().port());
    let open = |tls: &TlsClient| -> Box<dyn Registry> {
        let nacos = Nacos::builder().url(&url).tls(tls).timeout(SECOND).build();
        Box::new(NacosRegistry::new(&nacos.expect("is complete")))
    };
    check(open, &made);
}
