//! Before `on_open`: completed and refused handshakes, and clients without TLS.

use std::io::Read;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use epicycle::codec::{self, Lines, Raw};
use epicycle::tls::{TlsServer, TlsVersion};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Listen, Running, Server};

use crate::peer::Peer;
use crate::pki::{Authority, TRUSTED, client_config, client_config_as, local, server_tls};
use crate::util::app::{App, Log, start};
use crate::util::client::Client;
use crate::util::eventually;

/// What a server's handler has seen of TLS, a line for each connection.
type Seen = Arc<Mutex<Vec<String>>>;

fn start_seeing(server: Server) -> (Running<App>, Arc<Log>, Seen) {
    let seen = Seen::default();
    let for_app = seen.clone();
    let (running, log) = start(server, move |app| {
        let seen = for_app.clone();
        app.on_open(move |conn| {
            let tls = conn.tls().expect("it is TLS");
            let alpn = tls.alpn().map(String::from_utf8_lossy);
            seen.lock().expect("no panics").push(format!(
                "{:?} {} {:?} {} {}",
                tls.version(),
                tls.server_name().unwrap_or("-"),
                alpn.as_deref().unwrap_or("-"),
                tls.peer_certificates().len(),
                if tls.resumed() { "resumed" } else { "full" },
            ));
            true
        })
    });
    (running, log, seen)
}

fn failures(running: &Running<App>) -> u64 {
    running.engine().stats().total().handshake_failures
}

#[test]
fn the_handler_sees_what_was_agreed() {
    let tls = server_tls().alpn(&["h2", "http/1.1"]);
    let (running, _, seen) = start_seeing(local(&tls));
    let mut config = client_config();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for _ in 0..2 {
        let addr = &running.local_addrs()[0];
        let peer = Peer::connect(addr, &config, "localhost").expect("shakes hands");
        // The tickets come with the first data.
        peer.round_trip("hello");
    }
    let seen = seen.lock().expect("no panics");
    assert_eq!(
        *seen,
        [
            "V1_3 localhost \"http/1.1\" 0 full",
            "V1_3 localhost \"http/1.1\" 0 resumed"
        ]
    );
    assert!(TlsVersion::V1_2 < TlsVersion::V1_3);
}

codec::one_of! {
    enum Protocol {
        Lines(Lines),
        Raw(Raw),
    }
    enum ProtocolFrame;
    impl Encode<&[u8]> for Lines | Raw;
}

/// Answers lines where the protocol is `lines`, and bytes as they come elsewhere.
struct Agreed;

impl EventHandler for Agreed {
    type Codec = Protocol;
    type Session = ();

    fn codec(&mut self, info: &ConnInfo<'_>) -> Protocol {
        match info.alpn() {
            Some(b"lines") => Lines::new().into(),
            _ => Raw.into(),
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let agreed = conn.tls().and_then(|tls| tls.alpn()) == Some(b"lines");
        assert_eq!(matches!(conn.codec(), Protocol::Lines(_)), agreed);
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        frame: ProtocolFrame<'_>,
    ) -> Action {
        let (ProtocolFrame::Lines(frame) | ProtocolFrame::Raw(frame)) = frame;
        conn.send(frame).into()
    }
}

#[test]
fn the_codec_is_made_for_the_protocol_that_was_agreed() {
    let running = local(&server_tls().alpn(&["lines", "raw"]))
        .start(|_| Agreed)
        .expect("starts");
    for (protocol, sent, received) in [
        ("lines", "one\r\ntwo\n", "one\ntwo\n"),
        ("raw", "one\r\ntwo\n", "one\r\ntwo\n"),
        ("", "one\r\n", "one\r\n"),
    ] {
        let mut config = client_config();
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.into()];
        }
        let addr = &running.local_addrs()[0];
        let peer = Peer::connect(addr, &Arc::new(config), "localhost").expect("shakes hands");
        peer.send(sent);
        assert_eq!(peer.recv(received.len()), received.as_bytes(), "{protocol}");
    }
}

#[test]
fn a_plain_connection_has_no_tls() {
    let server = Server::bind("tcp://127.0.0.1:0")
        .and(Listen::on("tcp://127.0.0.1:0").tls(&server_tls()))
        .reactors(1);
    let (running, _) = start(server, |app| {
        app.react(|conn, _, frame| {
            let sealed = if conn.tls().is_some() {
                "sealed "
            } else {
                "plain "
            };
            conn.write(&[sealed.as_bytes(), frame].concat()).into()
        })
    });
    let plain = Client::connect(&running.local_addrs()[0]);
    plain.send("x");
    assert_eq!(plain.recv(7), b"plain x");
    let config = Arc::new(client_config());
    let sealed = Peer::connect(&running.local_addrs()[1], &config, "localhost");
    let sealed = sealed.expect("shakes hands");
    sealed.send("x");
    assert_eq!(sealed.recv(8), b"sealed x");
}

#[test]
fn a_required_client_certificate_is_required() {
    let tls = server_tls()
        .require_client_certificate(&TRUSTED.roots())
        .expect("is set up");
    let (running, log, seen) = start_seeing(local(&tls));
    let known = TRUSTED.issue(&["client.test"]);
    let peer = Peer::with(&running, client_config_as(&known)).expect("shakes hands");
    peer.round_trip("known");
    assert!(seen.lock().expect("no panics")[0].contains(" 1 full"));

    let stranger = Authority::new("stranger").issue(&["client.test"]);
    for config in [client_config(), client_config_as(&stranger)] {
        let before = failures(&running);
        // With TLS 1.3 the client is done before the server has looked at its certificate.
        let end = Peer::with(&running, config).and_then(|peer| peer.recv_to_end());
        let error = end.expect_err("is refused");
        assert!(
            error.to_string().contains("received fatal alert"),
            "{error}"
        );
        eventually("it is counted", || failures(&running) == before + 1);
    }
    assert_eq!(log.opened(), 1);
}

#[test]
fn a_requested_client_certificate_may_be_missing() {
    let tls = server_tls()
        .request_client_certificate(&TRUSTED.roots())
        .expect("is set up");
    let (running, _, seen) = start_seeing(local(&tls));
    Peer::to(&running).round_trip("anonymous");
    let known = client_config_as(&TRUSTED.issue(&["client.test"]));
    let peer = Peer::with(&running, known).expect("shakes hands");
    peer.round_trip("known");
    let seen = seen.lock().expect("no panics");
    assert!(
        seen[0].contains(" 0 full") && seen[1].contains(" 1 full"),
        "{seen:?}"
    );
}

#[test]
fn plain_bytes_get_an_alert_and_no_callback() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let bystander = Peer::to(&running);
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // It goes on talking, which must not cost it the alert.
    client.send(vec![b'x'; 100_000]);
    let (answer, end) = client.recv_to_any_end();
    end.expect("ends with FIN");
    assert_eq!((answer[0], answer[5]), (21, 2), "a fatal alert: {answer:?}");
    drop(client);
    bystander.round_trip("unharmed");
    eventually("it is closed", || running.engine().connections() == 1);
    assert_eq!((failures(&running), log.opened()), (1, 1));
}

#[test]
fn a_client_that_stalls_in_the_handshake_is_closed_in_time() {
    let tls = server_tls().handshake_timeout(Duration::from_millis(100));
    let (running, log) = start(local(&tls), |app| app);
    let silent = Client::to(&running);
    let slow = Client::to(&running);
    // The beginning of a record that never ends.
    slow.send([22, 3, 1, 1, 0, 1, 0, 0]);
    for client in [silent, slow] {
        let mut byte = [0];
        // Reset or ended, whichever; but not a timeout of this side.
        match (&client.0).read(&mut byte) {
            Ok(n) => assert_eq!(n, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    eventually("both are gone", || running.engine().connections() == 0);
    assert_eq!((failures(&running), log.opened(), log.closed()), (2, 0, 0));
    assert_eq!(running.engine().stats().total().timeouts, 2);
    Peer::to(&running).round_trip("the others are served");
}

#[test]
fn a_client_that_leaves_in_the_handshake_leaves_nothing() {
    let (running, log) = start(local(&server_tls()), |app| app);
    for n in 0..20 {
        let client = Client::to(&running);
        client.send(&[22, 3, 1, 1, 0, 1, 0, 0][..n % 8]);
        if n % 2 == 0 {
            client.reset();
        }
    }
    eventually("all are gone", || {
        running.engine().connections() == 0 && failures(&running) == 20
    });
    assert_eq!((log.opened(), log.closed()), (0, 0));
}

#[test]
fn shutdown_does_not_wait_for_handshakes() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let _silent = Client::to(&running);
    eventually("it is there", || running.engine().connections() == 1);
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (0, 0));
    assert_eq!((log.opened(), log.closed()), (0, 0));
}

#[test]
fn certificates_are_picked_by_name_and_reloaded_without_a_break() {
    let one = TRUSTED.issue(&["one.test", "localhost"]);
    let other = TRUSTED.issue(&["*.other.test"]);
    let tls = TlsServer::new(one.identity())
        .expect("is set up")
        .identity(other.identity());
    let (running, log) = start(local(&tls), |app| app);
    let config = Arc::new(client_config());
    let connect = |name: &str| {
        let mut config = (*config).clone();
        config.resumption = rustls::client::Resumption::disabled();
        Peer::connect(&running.local_addrs()[0], &Arc::new(config), name)
    };
    let shown = |peer: &Peer| {
        peer.inspect(|connection| connection.peer_certificates().map(|chain| chain[0].clone()))
    };
    let old = connect("one.test").expect("shakes hands");
    assert_eq!(shown(&old), Some(one.der()));
    let wild = connect("www.other.test").expect("shakes hands");
    assert_eq!(shown(&wild), Some(other.der()));

    let renewed = TRUSTED.issue(&["one.test"]);
    tls.reload([renewed.identity()]).expect("there is one");
    let new = connect("one.test").expect("shakes hands");
    assert_eq!(shown(&new), Some(renewed.der()));
    connect("www.other.test")
        .map(|_| ())
        .expect_err("is not for that name");
    for peer in [&old, &wild, &new] {
        peer.round_trip("still here");
    }
    assert_eq!(log.closed(), 0);
}

#[test]
fn a_refused_protocol_is_told() {
    let tls = server_tls().alpn(&["h2"]);
    let (running, log) = start(local(&tls), |app| app);
    let mut config = client_config();
    config.alpn_protocols = vec![b"irc".to_vec()];
    let error = Peer::with(&running, config)
        .map(|_| ())
        .expect_err("is refused");
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    eventually("it is counted", || failures(&running) == 1);
    assert_eq!(log.opened(), 0);
}

#[test]
fn a_handler_may_refuse_what_was_agreed() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.on_open(|conn| conn.tls().is_some_and(|tls| tls.alpn() == Some(b"h2")))
    });
    let peer = Peer::to(&running);
    // Refused politely: with close_notify.
    assert_eq!(peer.recv_to_end().expect("ends well"), b"");
    drop(peer);
    eventually("it is gone", || running.engine().connections() == 0);
    assert_eq!((log.opened(), log.closed()), (1, 0));
}
