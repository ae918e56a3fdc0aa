//! The engine as a TLS client.

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use epicycle::codec::Raw;
use epicycle::tls::TlsClient;
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, ConnectError, EventHandler,
    FailedConnect, Reactor,
};

use crate::pki::{Authority, TRUSTED, client_tls, local, server_tls};
use crate::util::app::{start, start_client};
use crate::util::{LONG, eventually, noise};

/// What has become of a connection.
#[derive(Debug)]
pub(crate) enum News {
    Open(String),
    Echoed(usize),
    Closed(CloseReason),
    Failed(ConnectError),
}

/// Sends a payload, and closes once it is back.
struct Caller {
    payload: Arc<Vec<u8>>,
    news: mpsc::Sender<News>,
}

impl EventHandler for Caller {
    type Codec = Raw;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        let tls = conn.tls().map(|tls| format!("{tls:?}"));
        self.tell(News::Open(tls.expect("it is TLS")));
        conn.write(&self.payload).expect("taken");
        Some(0)
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, got: &mut usize, bytes: &[u8]) -> Action {
        assert!(self.payload[*got..].starts_with(bytes), "the echo differs");
        *got += bytes.len();
        if *got < self.payload.len() {
            return Action::Continue;
        }
        self.tell(News::Echoed(*got));
        Action::Close
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: usize, reason: CloseReason) {
        self.tell(News::Closed(reason));
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.tell(News::Failed(failed.error));
    }
}

impl Caller {
    fn tell(&self, news: News) {
        // Nobody listens any more at the end of the test.
        let _ = self.news.send(news);
    }
}

/// Makes one connection and tells what becomes of it.
pub(crate) fn call(connect: Connect, payload: Vec<u8>) -> Vec<News> {
    let (news, told) = mpsc::channel();
    let payload = Arc::new(payload);
    let news = Mutex::new(news);
    let running = Client::new()
        .start(move |_| Caller {
            payload: payload.clone(),
            news: news.lock().expect("no panics").clone(),
        })
        .expect("starts");
    running.engine().connect(connect).expect("the engine runs");
    let mut all = Vec::new();
    loop {
        let next = told.recv().expect("the engine runs");
        let last = matches!(next, News::Closed(_) | News::Failed(_));
        all.push(next);
        if last {
            return all;
        }
    }
}

/// That a connect fails in the handshake; gives the reason.
fn refusal(connect: Connect) -> String {
    let news = call(connect, b"never sent".to_vec());
    match &news[..] {
        [News::Failed(ConnectError::Tls(error))] => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_size_is_echoed() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let tls = client_tls();
    let sizes = [1, 1000, 16 << 10, 100_000, 3 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        let connect = Connect::to(running.local_addrs()[0].to_string()).tls(&tls);
        let news = call(connect, noise(n as u64, size));
        let [News::Open(info), News::Echoed(echoed), News::Closed(reason)] = &news[..] else {
            panic!("{news:?}");
        };
        assert_eq!(*echoed, size);
        assert!(matches!(reason, CloseReason::Local), "{reason}");
        assert!(info.contains(&format!("resumed: {}", n > 0)), "{info}");
        assert!(matches!(*log.await_close(n).1, CloseReason::Peer));
    }
}

#[test]
fn many_connects_at_once_succeed() {
    let (server, _) = start(local(&server_tls()), |app| app);
    let (news, told) = mpsc::channel();
    let (news, payload) = (Mutex::new(news), Arc::new(noise(1, 20_000)));
    let running = Client::new()
        .reactors(2)
        .start(move |_| Caller {
            payload: payload.clone(),
            news: news.lock().expect("no panics").clone(),
        })
        .expect("starts");
    let tls = client_tls();
    for _ in 0..100 {
        let connect = Connect::to(server.local_addrs()[0].to_string()).tls(&tls);
        running.engine().connect(connect).expect("the engine runs");
    }
    let mut closed = 0;
    while closed < 100 {
        match told.recv().expect("the engine runs") {
            News::Closed(reason) => {
                assert!(matches!(reason, CloseReason::Local), "{reason}");
                closed += 1;
            }
            News::Failed(error) => panic!("{error}"),
            News::Open(_) | News::Echoed(_) => {}
        }
    }
    assert_eq!(running.engine().stats().total().handshakes, 100);
}

#[test]
fn bad_certificates_are_refused() {
    let connect_to = |issued: crate::pki::Issued, tls: &TlsClient| {
        let server = epicycle::tls::TlsServer::new(issued.identity()).expect("is set up");
        let (running, log) = start(local(&server), |app| app);
        let addr = running.local_addrs()[0].to_string();
        let reason = refusal(Connect::to(addr).tls(tls));
        crate::util::eventually("the server counts it too", || {
            running.engine().stats().total().handshake_failures == 1
        });
        assert_eq!(log.opened(), 0);
        reason
    };
    let tls = client_tls();
    let expired = connect_to(TRUSTED.issue_expired(&["127.0.0.1"]), &tls);
    assert!(expired.contains("expired"), "{expired}");
    let wrong = connect_to(TRUSTED.issue(&["other.test"]), &tls);
    assert!(wrong.contains("not valid for name"), "{wrong}");
    let stranger = Authority::new("stranger").issue(&["127.0.0.1"]);
    let unknown = connect_to(stranger, &tls);
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    assert!(unknown.contains("leads to no root"), "{unknown}");
    // As `openssl req -x509` makes them.
    let authority = TRUSTED.issue_with(&["127.0.0.1"], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let authority = connect_to(authority, &tls);
    assert!(authority.contains("CA:FALSE"), "{authority}");
    let named = tls.server_name("named.test").expect("is a name");
    let wrong = connect_to(TRUSTED.issue(&["127.0.0.1"]), &named);
    assert!(wrong.contains("not valid for name"), "{wrong}");
}

#[test]
fn a_name_and_a_certificate_of_its_own_are_used() {
    let issued = TRUSTED.issue(&["named.test"]);
    let server = epicycle::tls::TlsServer::new(issued.identity())
        .and_then(|tls| tls.require_client_certificate(&TRUSTED.roots()))
        .expect("is set up")
        .alpn(&["echo"]);
    let (running, _) = start(local(&server), |app| app);
    let addr = running.local_addrs()[0].to_string();
    let tls = client_tls()
        .server_name("named.test")
        .expect("is a name")
        .identity(TRUSTED.issue(&["client.test"]).identity())
        .alpn(&["echo", "other"]);
    let news = call(Connect::to(addr).tls(&tls), b"hello".to_vec());
    let [News::Open(info), News::Echoed(5), News::Closed(_)] = &news[..] else {
        panic!("{news:?}");
    };
    assert!(
        info.contains("named.test") && info.contains("\"echo\""),
        "{info}"
    );
}

#[test]
fn a_server_without_tls_is_no_success() {
    let (running, _) = start(
        epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1),
        |app| app,
    );
    // It echoes the greeting, which is none of a server's.
    let addr = running.local_addrs()[0].to_string();
    let reason = refusal(Connect::to(addr).tls(&client_tls()));
    assert!(!reason.is_empty());
}

#[test]
fn what_no_attempt_could_make_is_refused_at_once() {
    let (running, _) = start(local(&server_tls()), |app| app);
    let refused = |addr: &str| {
        let connect = Connect::to(addr).tls(&client_tls());
        running.engine().connect(connect).expect_err("is refused")
    };
    let datagrams = refused("udp://127.0.0.1:9");
    assert!(matches!(datagrams, ConnectError::Address(_)));
    assert!(datagrams.to_string().contains("use a tcp:// address"));
    for nameless in ["unix:///run/nobody.sock", "tcp://-:9"] {
        let error = refused(nameless);
        assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    }
}

#[test]
fn a_server_that_ends_the_connection_during_the_handshake_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("is bound");
    let (running, log) = start_client(Client::new(), |app| app);
    let connect = Connect::to(format!("tcp://{addr}")).tls(&client_tls());
    running.engine().connect(connect).expect("the engine runs");
    let (peer, _) = listener.accept().expect("accepts");
    peer.shutdown(std::net::Shutdown::Write)
        .expect("is connected");
    let failed = log.await_failure(0);
    assert_eq!(
        failed.error.to_string(),
        "the TLS handshake failed: the peer ended the connection during the handshake"
    );
    assert!(matches!(failed.error, ConnectError::Tls(_)));
}

#[test]
fn a_client_hears_at_once_of_a_server_that_speaks_no_tls_though_that_does_not_hang_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("is bound");
    // Longer than anybody waits here.
    let client = Client::new().fin_timeout(100 * LONG);
    let (running, log) = start_client(client, |app| app);
    let connect = Connect::to(format!("tcp://{addr}")).tls(&client_tls());
    running.engine().connect(connect).expect("the engine runs");
    let (mut peer, _) = listener.accept().expect("accepts");
    peer.write_all(b"220 mail.example ESMTP\r\n")
        .expect("is taken");
    let failed = log.await_failure(0);
    assert!(
        matches!(failed.error, ConnectError::Tls(_)),
        "{}",
        failed.error
    );
    let stats = || running.engine().stats().total();
    assert_eq!((stats().handshake_failures, stats().connections), (1, 1));
    drop(peer);
    eventually("its socket is closed", || stats().connections == 0);
    assert_eq!((log.failures().len(), stats().handshake_failures), (1, 1));
}
