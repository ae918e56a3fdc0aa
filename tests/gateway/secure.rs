//! TLS to the nodes: whose certificates are taken, and what the nodes see.

use epicycle::Server;
use epicycle::gateway::settings::PoolSettings;
use epicycle::gateway::{Gateway, NoHooks, Running};
use epicycle::tls::{Pin, TlsClient, TlsServer};
use ring::digest::{SHA256, digest};

use crate::exchanges::Telling;
use crate::forward;
use crate::peers::{Asker, start};
use crate::pki::{Authority, Issued, TRUSTED};
use crate::rig::Folder;
use crate::util::logs::logs;

/// Starts a node that answers with the name it was asked for, and returns its port.
pub(crate) fn node(tls: &TlsServer) -> (epicycle::Running<Telling>, u16) {
    let server = Server::bind(epicycle::Listen::on("tcp://127.0.0.1:0").tls(tls)).reactors(1);
    let tell: fn(&epicycle::Conn<'_, Telling>) -> String = |conn| {
        let tls = conn.tls().expect("is a connection with TLS");
        tls.server_name().unwrap_or("no name").to_owned()
    };
    let running = server.start(move |_| Telling(tell)).expect("it starts");
    let addr = running.local_addrs()[0].as_socket_addr();
    let port = addr.expect("an address").port();
    (running, port)
}

fn gateway(port: u16, tls: TlsClient) -> Running<NoHooks> {
    let mut pool = PoolSettings::of([format!("https://127.0.0.1:{port}")]);
    pool.tls = Some(tls);
    pool.retries.max = 0;
    start(pool)
}

/// Returns the status of a request to the node, and the text of the answer.
fn ask(port: u16, tls: TlsClient) -> (u16, String) {
    let answer = Asker::to(&gateway(port, tls)).get("/");
    (answer.status(), answer.text().to_owned())
}

fn trusting(authority: &Authority) -> TlsClient {
    TlsClient::new(&authority.roots()).expect("is set up")
}

fn unverified() -> TlsClient {
    TlsClient::without_verification().expect("is set up")
}

/// Returns the text of the pin of a key.
fn key_pin(issued: &Issued) -> String {
    use base64::Engine as _;

    let key = rcgen::KeyPair::from_pem(&issued.key).expect("is a key");
    let der = rcgen::PublicKeyData::subject_public_key_info(&key);
    let hash = digest(&SHA256, &der);
    let text = base64::engine::general_purpose::STANDARD.encode(hash.as_ref());
    format!("sha256//{text}")
}

#[test]
fn a_node_proves_that_it_is_the_one_that_is_named() {
    let issued = TRUSTED.issue(&["inner.test"]);
    let (_node, port) = node(&TlsServer::new(issued.identity()).expect("is set up"));
    let named = |tls: TlsClient, name: &str| tls.server_name(name).expect("is a name");

    // The address is not in the certificate.
    assert_eq!(ask(port, trusting(&TRUSTED)).0, 502);
    assert_eq!(ask(port, named(trusting(&TRUSTED), "other.test")).0, 502);
    // The name is verified, and the node is asked for it.
    assert_eq!(
        ask(port, named(trusting(&TRUSTED), "inner.test")),
        (200, "inner.test".to_owned())
    );
    // Another authority says nothing here.
    let stranger = Authority::new("stranger");
    assert_eq!(ask(port, named(trusting(&stranger), "inner.test")).0, 502);
}

#[test]
fn tls_is_spoken_with_the_node_behind_a_proxy() {
    let issued = TRUSTED.issue(&["localhost"]);
    let (_node, port) = node(&TlsServer::new(issued.identity()).expect("is set up"));
    let proxy = forward::start(forward::listener(&["localhost:*", "127.0.0.0/8:*"]));
    let addr = proxy.local_addrs()[0].as_socket_addr().expect("an address");
    for (authority, status) in [(&*TRUSTED, 200), (&Authority::new("stranger"), 502)] {
        let mut pool = PoolSettings::of([format!("https://localhost:{port}")]);
        pool.tls = Some(trusting(authority));
        pool.retries.max = 0;
        pool.via = Some(format!("http://{addr}").parse().expect("is a proxy"));
        let answer = Asker::to(&start(pool)).get("/");
        assert_eq!(answer.status(), status);
        if status == 200 {
            assert_eq!(answer.text(), "localhost");
        }
    }
}

#[test]
fn a_pinned_node_needs_its_key_or_its_certificate_beside_what_is_verified() {
    let (issued, other) = (TRUSTED.issue(&["127.0.0.1"]), TRUSTED.issue(&["127.0.0.1"]));
    let (_node, port) = node(&TlsServer::new(issued.identity()).expect("is set up"));
    let key = |issued| key_pin(issued).parse::<Pin>().expect("is a pin");
    let certificate =
        |issued: &Issued| Pin::from_pem(&issued.certificate).expect("is a certificate");
    for (pins, status) in [
        (vec![key(&issued)], 200),
        (vec![certificate(&issued)], 200),
        (vec![key(&other), certificate(&issued)], 200),
        (vec![key(&other)], 502),
        (vec![certificate(&other)], 502),
    ] {
        assert_eq!(ask(port, trusting(&TRUSTED).pins(pins.clone())).0, status);
        // A pin is enough if nothing else is verified.
        assert_eq!(ask(port, unverified().pins(pins.clone())).0, status);
        // It is not if an authority must have signed.
        let stranger = Authority::new("stranger");
        assert_eq!(ask(port, trusting(&stranger).pins(pins)).0, 502);
    }
}

#[test]
fn a_node_that_asks_for_a_certificate_gets_the_gateways() {
    let identity = TRUSTED.issue(&["127.0.0.1"]).identity();
    let tls = TlsServer::new(identity).expect("is set up");
    let tls = tls.require_client_certificate(&TRUSTED.roots());
    let (_node, port) = node(&tls.expect("is set up"));
    assert_eq!(ask(port, trusting(&TRUSTED)).0, 502);
    let mine = TRUSTED.issue(&["gateway.test"]).identity();
    assert_eq!(ask(port, trusting(&TRUSTED).identity(mine)).0, 200);
}

#[test]
fn certificates_are_not_verified_only_if_a_file_says_so_and_each_start_warns() {
    let stranger = Authority::new("stranger").issue(&["other.test"]);
    let (_node, port) = node(&TlsServer::new(stranger.identity()).expect("is set up"));
    let folder = Folder::new();
    folder.write("node.pem", &stranger.certificate);
    folder.write("other.pem", &TRUSTED.issue(&["other.test"]).certificate);
    let load = |pool: &str, tls: &str| {
        let nodes = format!("nodes = [\"https://127.0.0.1:{port}\"]\nretries = 0");
        let whole = "reactors = 1\nlisten = [{ on = \"tcp://127.0.0.1:0\" }]";
        folder.write(
            "gateway.toml",
            format!(
                "{whole}\nroute = [{{ pool = \"{pool}\" }}]\n[pool.{pool}]\n{nodes}\ntls = {tls}\n"
            ),
        );
        Gateway::from_file(folder.path("gateway.toml"))
    };
    let start = |pool: &str, tls: &str| {
        let gateway = load(pool, tls).unwrap_or_else(|error| panic!("{error}"));
        gateway.start_plain().expect("it starts")
    };
    let pin = key_pin(&stranger);
    let cases = [
        ("{ verify = false }".to_owned(), 200),
        (format!("{{ verify = false, pins = [\"{pin}\"] }}"), 200),
        ("{ verify = false, pins = [\"node.pem\"] }".to_owned(), 200),
        ("{ verify = false, pins = [\"other.pem\"] }".to_owned(), 502),
        ("{ ca = \"node.pem\" }".to_owned(), 502),
    ];
    let log = logs();
    for (number, (tls, status)) in cases.into_iter().enumerate() {
        let pool = format!("unverified-{number}");
        let gateway = start(&pool, &tls);
        assert_eq!(Asker::to(&gateway).get("/").status(), status, "{tls}");
        let warning = "are not verified (verify = false)";
        let warned = log.have(log::Level::Warn, &[&format!("pool {pool}: "), warning]);
        assert_eq!(warned, tls.contains("verify = false"), "{tls}");
    }
    for (tls, problem) in [
        (
            "{ verify = false, ca = \"node.pem\" }",
            "`ca` has no effect",
        ),
        (
            "{ pins = [\"sha256//short\"] }",
            "is no pin; write sha256//",
        ),
        ("{ pins = [\"none.pem\"] }", "none.pem"),
        ("{ verify = \"no\" }", "use true or false"),
    ] {
        let error = load("a", tls).expect_err("is a fault").to_string();
        assert!(error.contains(problem), "{error}");
    }
}
