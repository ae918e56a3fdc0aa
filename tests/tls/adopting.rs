//! TLS on sockets that the engine adopts, on either side.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use epicycle::tls::{Identity, TlsClient, TlsServer};
use epicycle::{Action, Addr, Adopt, Client, ConnectError, Endpoint, Origin};

use crate::pki::TRUSTED;
use crate::util::app::{App, start_client};
use crate::util::eventually;

const SERVER: u64 = 1;
const CLIENT: u64 = 2;

fn server() -> TlsServer {
    let issued = TRUSTED.issue(&["adopted.test"]);
    let identity = Identity::from_pem(issued.certificate, issued.key).expect("they match");
    TlsServer::new(identity).expect("is set up")
}

fn trusting() -> TlsClient {
    TlsClient::new(&TRUSTED.roots()).expect("is set up")
}

/// The server echoes. The client says hello, and closes when that has come back.
fn hello(app: App) -> App {
    app.on_open(|conn| {
        let is_client = conn.origin() == Origin::Adopted { token: CLIENT };
        conn.tls().is_some() && (!is_client || conn.write(b"hello").is_ok())
    })
    .react(|conn, _, bytes| match conn.origin() {
        Origin::Adopted { token: CLIENT } => Action::Close,
        _ => conn.write(bytes).into(),
    })
}

#[test]
fn both_ends_of_an_adopted_pair_use_tls() {
    let (running, log) = start_client(Client::new().reactors(2), hello);
    let (near, far) = UnixStream::pair().expect("two ends");
    let client = Adopt::new(near).token(CLIENT).reactor(0);
    let client = client.tls_client(&trusting(), "adopted.test");
    running.engine().adopt_with(client).expect("is adopted");
    let server = Adopt::new(far)
        .token(SERVER)
        .reactor(1)
        .tls_server(&server());
    running.engine().adopt_with(server).expect("is adopted");
    for n in 0..2 {
        assert_eq!(log.await_close(n).0.bytes_in, 5);
    }
    let total = running.shutdown().stats.total();
    assert_eq!((total.handshakes, total.handshake_failures), (2, 0));
    assert!(log.failures().is_empty());
}

#[test]
fn a_handshake_that_fails_on_an_adopted_socket_is_told_once() {
    let (running, log) = start_client(Client::new(), hello);
    // The certificate is for another host, so both sides fail.
    let (near, far) = UnixStream::pair().expect("two ends");
    let client = Adopt::new(near).token(CLIENT);
    let client = client.tls_client(&trusting(), "other.test");
    running.engine().adopt_with(client).expect("is adopted");
    let adopt = Adopt::new(far).token(SERVER).tls_server(&server());
    running.engine().adopt_with(adopt).expect("is adopted");
    // A peer that is no TLS client, and one that leaves.
    let (near, mut garbage) = UnixStream::pair().expect("two ends");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sends");
    let adopt = Adopt::new(near).token(3).tls_server(&server());
    running.engine().adopt_with(adopt).expect("is adopted");
    let (near, gone) = UnixStream::pair().expect("two ends");
    drop(gone);
    let adopt = Adopt::new(near).token(4).tls_server(&server());
    running.engine().adopt_with(adopt).expect("is adopted");

    // The alert reaches the peer before the end.
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).expect("ends");
    assert!(!answer.is_empty());
    drop(garbage);
    eventually("all are told", || log.failures().len() == 4);
    eventually("nothing is left", || running.engine().connections() == 0);
    let failures = log.failures();
    let mut tokens: Vec<u64> = failures.iter().map(|failed| failed.token).collect();
    tokens.sort();
    assert_eq!(tokens, [SERVER, CLIENT, 3, 4]);
    for failed in &failures {
        assert_eq!((failed.attempt, failed.retry_in), (1, None));
        assert!(matches!(failed.to, Endpoint::Unix(_)));
        let error = &failed.error;
        assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    }
    let total = running.shutdown().stats.total();
    assert_eq!((total.connect_failures, total.handshakes), (4, 0));
    assert_eq!((log.opened(), log.closed()), (0, 0));
}

#[test]
fn an_adoption_that_cannot_work_is_refused_at_once() {
    let (running, log) = start_client(Client::new(), hello);
    let adopt = || Adopt::new(UnixStream::pair().expect("two ends").0);
    let nameless = adopt().tls_client(&trusting(), "");
    let refused = running.engine().adopt_with(nameless);
    assert!(matches!(refused, Err(ConnectError::Tls(_))));
    let both = adopt()
        .tls_client(&trusting(), "adopted.test")
        .tls_server(&server());
    let refused = running.engine().adopt_with(both);
    assert!(matches!(refused, Err(ConnectError::Option(_))));
    assert_eq!(running.engine().connections(), 0);
    assert_eq!(running.local_addrs(), [] as [Addr; 0]);
    assert!(log.failures().is_empty());
}
