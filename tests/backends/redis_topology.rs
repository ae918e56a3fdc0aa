//! Clusters, sentinels, TLS and the newer protocol.

use epicycle::cluster::Error;
use epicycle::cluster::backends::Redis;
use epicycle::cluster::locator::{LocationEvent, Locator, RedisLocator};

use crate::process::free_port;
use crate::redis_server::{Sentinel, Server};
use crate::util::client::TempPath;
use crate::util::eventually;

fn serves(redis: &Redis) {
    let locator = RedisLocator::new(redis);
    assert_eq!(locator.locate_gate(1).expect("answers"), None);
    let mut watch = locator.watch().expect("watches");
    assert_eq!(watch.next(), Some(LocationEvent::Interrupted));
    for uid in 1..=50 {
        locator.bind_gate(uid, "gate-1").expect("binds");
        locator.bind_node(uid, "node", "node-1").expect("binds");
    }
    for uid in 1..=50 {
        let gid = "gate-1".to_owned();
        let bound = LocationEvent::GateBound { uid, gid };
        eventually("the change is told", || watch.next() == Some(bound.clone()));
        assert!(locator.unbind_gate(uid, "gate-1").expect("answers"));
        assert_eq!(
            locator
                .locate_node(uid, "node")
                .expect("answers")
                .as_deref(),
            Some("node-1")
        );
    }
}

#[test]
fn the_newer_protocol_serves_too() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let url = format!("{}/?protocol=resp3", server.url());
    serves(&Redis::open(&url).expect("is a URL"));
}

#[test]
fn a_cluster_is_found_by_one_of_its_servers() {
    let config = TempPath::new();
    let file = config.0.to_string_lossy();
    let Some(server) = Server::start(&["--cluster-enabled", "yes", "--cluster-config-file", &file])
    else {
        return;
    };
    let mut stranger = server.stranger();
    let slots: Vec<u32> = (0..16_384).collect();
    let () = redis::cmd("CLUSTER")
        .arg("ADDSLOTS")
        .arg(slots)
        .query(&mut stranger)
        .expect("takes all slots");
    eventually("the cluster is ready", || {
        let info: String = redis::cmd("CLUSTER")
            .arg("INFO")
            .query(&mut stranger)
            .expect("answers");
        info.contains("cluster_state:ok")
    });
    let redis = Redis::builder().url(server.url()).cluster().build();
    serves(&redis.expect("is complete"));
}

#[test]
fn a_master_is_found_by_a_sentinel() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let sentinel = Sentinel::start(&server);
    let url = format!("redis://127.0.0.1:{}", sentinel.port);
    let redis = Redis::builder().url(url).sentinel("games").build();
    let redis = redis.expect("is complete");
    let locator = RedisLocator::new(&redis);
    eventually("the master is found", || locator.locate_gate(7).is_ok());
    serves(&redis);
}

#[test]
fn tls_takes_certificates_of_the_authority_that_was_named() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let certificate = certificate.expect("is made");
    let (cert, key) = (TempPath::new(), TempPath::new());
    std::fs::write(&cert.0, certificate.cert.pem()).expect("writes");
    std::fs::write(&key.0, certificate.signing_key.serialize_pem()).expect("writes");
    let port = free_port();
    let (tls, cert_path, key_path) = (
        port.to_string(),
        cert.0.to_string_lossy(),
        key.0.to_string_lossy(),
    );
    let Some(_server) = Server::start(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &cert_path,
        "--tls-key-file",
        &key_path,
        "--tls-auth-clients",
        "no",
    ]) else {
        return;
    };
    let url = format!("rediss://localhost:{port}");
    let trusting = Redis::builder()
        .url(&url)
        .root_certificates(certificate.cert.pem())
        .build()
        .expect("is complete");
    serves(&trusting);
    let doubting = RedisLocator::new(&Redis::open(&url).expect("is a URL"));
    let error = doubting.locate_gate(7).expect_err("is not trusted");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
}

#[test]
fn urls_that_are_none_are_refused_with_a_remedy() {
    for url in ["", "http://127.0.0.1", "redis://"] {
        let Err(error) = Redis::open(url) else {
            continue;
        };
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains("redis://"), "{error}");
    }
    assert!(Redis::open("http://127.0.0.1").is_err());
    assert!(Redis::builder().build().is_err());
}
