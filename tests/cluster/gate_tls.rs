//! TLS on links.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Request, Secret};
use epicycle::cluster::gate::{ClientListener, Gate};
use epicycle::cluster::link::LinkTls;
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Cluster, Kind};
use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
use rcgen::{CertifiedKey, KeyPair};

use crate::rig::Wire;
use crate::util::eventually;

type Issued = CertifiedKey<KeyPair>;

pub(crate) fn issued() -> Issued {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("signs")
}

/// Returns the settings of a server that shows a certificate and trusts one.
pub(crate) fn settings(own: &Issued, trusted: &Issued) -> LinkTls {
    let identity = || {
        let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
        identity.expect("is sound")
    };
    let roots = Roots::from_pem(trusted.cert.pem()).expect("is sound");
    let server = TlsServer::new(identity()).expect("is sound");
    let server = server.require_client_certificate(&roots).expect("is sound");
    let client = TlsClient::new(&roots).expect("is sound");
    LinkTls::new(&server, &client.identity(identity()))
}

fn gate(cluster: &Cluster, tls: LinkTls) -> Gate {
    let gate = cluster.gate().listen("tcp://127.0.0.1:0").link_tls(tls);
    gate.start().expect("starts")
}

fn client(gate: &Gate) -> Client {
    let client = Client::builder().call_timeout(Duration::from_millis(500));
    let client = client.connect(gate.client_addrs()[0].to_string());
    client.expect("connects")
}

#[test]
fn gates_and_nodes_with_tls_and_a_secret_serve_clients() {
    let (cluster, cert) = (Cluster::embedded(), issued());
    let secret = || Secret::new(b"the secret of this cluster").expect("is long enough");
    let node = cluster.node().link_tls(settings(&cert, &cert));
    let node = node
        .secret(secret())
        .route(1, |_, cx| cx.respond("welcome"));
    let _node = node.start().expect("starts");
    let gate = cluster.gate().link_tls(settings(&cert, &cert));
    let gate = gate.secret(secret()).listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    for name in ["gate", "node"] {
        let registered = cluster.registry().services(name).expect("is in memory");
        assert!(registered[0].endpoint.ends_with("?is_secure=true"));
    }
    let client = client(&gate);
    eventually("it is answered", || {
        client
            .request(1, "")
            .is_ok_and(|data| data == r#""welcome""#)
    });
}

#[test]
fn a_node_whose_certificate_is_not_trusted_gets_nothing() {
    let (cluster, cert, other) = (Cluster::embedded(), issued(), issued());
    // It trusts the gate.
    let node = cluster.node().link_tls(settings(&other, &cert));
    let node = node.route(1, |_, cx| cx.respond("stolen"));
    let node = node.start().expect("starts");
    let gate = gate(&cluster, settings(&cert, &cert));
    let client = client(&gate);
    assert!(client.request(1, "").is_err());
    eventually("it is given up", || gate.stats().given_up > 0);
    assert_eq!(node.stats().packets_in, 0);
    assert_eq!(gate.stats().requests, 0);
}

#[test]
fn servers_without_tls_do_not_reach_a_gate_with_it() {
    let (cluster, cert) = (Cluster::embedded(), issued());
    let node = cluster.node().route(1, |_, cx| cx.respond("plain"));
    let node = node.start().expect("starts");
    let gate = gate(&cluster, settings(&cert, &cert));
    let client = client(&gate);
    // The gate dials addresses without TLS as ever.
    client.push(1, "").expect("is sent");
    eventually("it has the packet", || node.stats().packets_in == 1);
    let mut wire = Wire::connect(gate.link_addr());
    let (kind, id) = (Kind::Node.code(), "node-9");
    let mut frame = Vec::new();
    let handshake = Request::Handshake { kind, id };
    handshake.encode_into(1, &mut frame).expect("is sound");
    wire.send(frame);
    assert!(wire.is_over());
    assert_eq!((gate.stats().links, gate.stats().requests), (0, 0));
}

/// Returns true if a connection is not closed while it says nothing.
fn is_kept(mut stream: &TcpStream) -> bool {
    let short = Some(Duration::from_millis(100));
    stream.set_read_timeout(short).expect("can be set");
    let read = stream.read(&mut [0]);
    read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn handshakes_count_as_clients_and_as_links() {
    let (cluster, cert) = (Cluster::embedded(), issued());
    let identity = Identity::from_pem(cert.cert.pem(), cert.signing_key.serialize_pem());
    let tls = TlsServer::new(identity.expect("is sound")).expect("is sound");
    let gate = cluster.gate().max_connections(2).max_links(2);
    let gate = gate.listen(ClientListener::at("tcp://127.0.0.1:0").tls(&tls));
    let gate = gate.link_tls(settings(&cert, &cert)).start();
    let gate = gate.expect("starts");
    for (addr, is_link) in [(&gate.client_addrs()[0], false), (gate.link_addr(), true)] {
        let addr = addr.as_socket_addr().expect("is TCP");
        let connect = || TcpStream::connect(addr).expect("connects");
        // They begin no handshake.
        let stalled = [connect(), connect()];
        assert!(Wire::over(connect()).is_over());
        let stats = gate.stats();
        let refused = [stats.clients_refused, stats.links_refused];
        assert_eq!(refused[usize::from(is_link)], 1);
        assert!(stalled.iter().all(is_kept));
        // They leave their places.
        drop(stalled);
        eventually("there is room", || is_kept(&connect()));
    }
    assert_eq!((gate.stats().connections, gate.stats().links), (0, 0));
}
