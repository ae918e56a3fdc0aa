use super::session::{RECORD_MAX, RECORD_OVERHEAD, Session};
use super::{Identity, Roots, TlsClient, TlsError, TlsInfo, TlsServer, TlsVersion};

/// Returns a self-signed certificate for these names.
fn certificate(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("makes a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn identity(names: &[&str]) -> (Identity, Roots) {
    let (certificate, key) = certificate(names);
    let roots = Roots::from_pem(&certificate).expect("is a certificate");
    (Identity::from_pem(certificate, key).expect("match"), roots)
}

fn configs() -> (TlsServer, TlsClient) {
    let (identity, roots) = identity(&["localhost"]);
    let server = TlsServer::new(identity).expect("is set up");
    (server, TlsClient::new(&roots).expect("is set up"))
}

fn server(tls: &TlsServer) -> Session {
    tls.session().expect("is made")
}

fn client(tls: &TlsClient, name: &str) -> Session {
    tls.session(name).expect("is made")
}

/// Returns everything in the tail, as if the kernel had accepted it.
fn take_tail(session: &mut Session) -> Vec<u8> {
    let records = session.tail.unsent().to_vec();
    session.tail.on_sent(records.len());
    records
}

/// Passes `records` to `to` in pieces of `step` bytes. Returns the plaintext.
fn feed(to: &mut Session, records: &[u8], step: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    // Smaller than a record, so that leftovers occur.
    let mut into = [0; 1000];
    for piece in records.chunks(step) {
        let mut input = to.partial().to_vec();
        input.extend_from_slice(piece);
        let n = to.decrypt(&mut input, &mut into);
        plain.extend_from_slice(&into[..n]);
        while to.has_plaintext() {
            let n = to.take_plaintext(&mut into);
            plain.extend_from_slice(&into[..n]);
        }
    }
    plain
}

fn encrypt(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    for piece in plain.chunks(RECORD_MAX) {
        let mut out = vec![0; piece.len() + RECORD_OVERHEAD];
        let n = session.encrypt(piece, &mut out).expect("encrypts");
        records.extend_from_slice(&out[..n]);
    }
    records
}

/// Lets both sides talk until neither has output, in pieces of `step` bytes.
fn converse(one: &mut Session, other: &mut Session, step: usize) {
    one.start();
    other.start();
    while !one.tail.is_empty() || !other.tail.is_empty() {
        let records = take_tail(one);
        assert!(feed(other, &records, step).is_empty());
        let records = take_tail(other);
        assert!(feed(one, &records, step).is_empty());
    }
}

fn connected(step: usize) -> (Session, Session) {
    let (server_config, client_config) = configs();
    let (mut server, mut client) = (server(&server_config), client(&client_config, "localhost"));
    converse(&mut server, &mut client, step);
    assert!(!server.is_handshaking() && !client.is_handshaking());
    (server, client)
}

fn holds_nothing(session: &Session) -> bool {
    session.partial().is_empty() && session.tail.is_empty() && !session.is_readable()
}

#[test]
fn a_handshake_in_pieces_of_any_size_succeeds() {
    for step in [1, 2, 3, 7, 64, 1000, usize::MAX] {
        let (server, client) = connected(step);
        assert!(holds_nothing(&server) && holds_nothing(&client), "{step}");
        let info = TlsInfo::new(&server);
        assert_eq!(info.version(), TlsVersion::V1_3);
        assert_eq!(info.server_name(), Some("localhost"));
        assert!(!info.resumed());
        let info = TlsInfo::new(&client);
        assert_eq!(info.peer_certificates().len(), 1);
        assert!(info.cipher_suite().starts_with("TLS13_"), "{info:?}");
    }
}

#[test]
fn data_split_at_every_byte_arrives() {
    let (mut server, mut client) = connected(usize::MAX);
    let mut split = 0;
    loop {
        let (one, other) = (encrypt(&mut client, b"one"), encrypt(&mut client, &[2; 60]));
        let records = [one, other].concat();
        if split > records.len() {
            break;
        }
        let mut plain = feed(&mut server, &records[..split], usize::MAX);
        plain.extend(feed(&mut server, &records[split..], usize::MAX));
        assert_eq!(plain, [&b"one"[..], &[2; 60]].concat(), "{split}");
        assert!(holds_nothing(&server));
        split += 1;
    }
}

#[test]
fn much_data_arrives_both_ways() {
    let (mut server, mut client) = connected(usize::MAX);
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let records = encrypt(&mut client, &data);
    assert!(feed(&mut server, &records, 10_007) == data);
    let records = encrypt(&mut server, &data);
    assert!(feed(&mut client, &records, 65_536) == data);
    assert!(holds_nothing(&server) && holds_nothing(&client));
}

#[test]
fn early_data_behind_the_handshake_is_not_lost() {
    let (server_config, client_config) = configs();
    let (mut server, mut client) = (server(&server_config), client(&client_config, "localhost"));
    client.start();
    let records = take_tail(&mut client);
    feed(&mut server, &records, usize::MAX);
    let records = take_tail(&mut server);
    feed(&mut client, &records, usize::MAX);
    let mut records = take_tail(&mut client);
    records.extend(encrypt(&mut client, b"at once"));
    server.decrypt(&mut records, &mut []);
    assert!(!server.is_handshaking());
    let mut into = [0; 20];
    assert_eq!(server.take_plaintext(&mut into), 7);
    assert_eq!(&into[..7], b"at once");
}

#[test]
fn close_notify_ends_one_direction() {
    let (mut server, mut client) = connected(usize::MAX);
    let mut records = encrypt(&mut client, b"last");
    client.queue_close_notify();
    client.queue_close_notify();
    records.extend(take_tail(&mut client));
    assert_eq!(feed(&mut server, &records, usize::MAX), b"last");
    assert!(server.has_ended() && !server.has_failed());
    assert!(client.encrypt(b"more", &mut [0; 100]).is_err());
    // The other direction is still open.
    let records = encrypt(&mut server, b"answer");
    assert_eq!(feed(&mut client, &records, 3), b"answer");
    server.queue_close_notify();
    let records = take_tail(&mut server);
    feed(&mut client, &records, 1);
    assert!(client.has_ended());
}

#[test]
fn what_follows_close_notify_is_ignored() {
    let (mut server, mut client) = connected(usize::MAX);
    client.queue_close_notify();
    let mut records = take_tail(&mut client);
    records.extend(b"this is no record");
    assert!(feed(&mut server, &records, usize::MAX).is_empty());
    assert!(server.has_ended() && server.partial().is_empty());
}

#[test]
fn garbage_is_answered_with_an_alert() {
    let (server_config, _) = configs();
    let mut server = server(&server_config);
    feed(&mut server, b"GET / HTTP/1.1\r\n\r\n", usize::MAX);
    // An alert, in a record of at most TLS 1.2: two bytes, of which the first means "fatal".
    let alert = take_tail(&mut server);
    assert_eq!((alert[0], alert[4], alert[5]), (21, 2, 2), "{alert:?}");
    assert!(server.take_failure().is_some());
    assert!(server.take_failure().is_none() && server.has_failed());
}

#[test]
fn a_failed_session_is_asked_for_nothing_more() {
    let (mut server, mut client) = connected(usize::MAX);
    // A plain handshake record where only encrypted ones are allowed.
    let records = [22, 3, 3, 0, 8, 4, 0, 0, 0, 4, 0, 0, 0];
    for session in [&mut server, &mut client] {
        feed(session, &records, usize::MAX);
        assert!(session.take_failure().is_some());
        assert_eq!(take_tail(session).first(), Some(&23), "an encrypted alert");
        session.queue_close_notify();
        assert!(session.tail.is_empty());
        assert!(session.encrypt(b"more", &mut [0; 100]).is_err());
    }
}

#[test]
fn a_record_that_was_changed_is_answered_with_an_alert() {
    let (mut server, mut client) = connected(usize::MAX);
    let mut records = encrypt(&mut client, b"good");
    let good = records.len();
    records.extend(encrypt(&mut client, b"bad"));
    records[good + 6] ^= 1;
    // Data before the failure is still delivered.
    assert_eq!(feed(&mut server, &records, usize::MAX), b"good");
    assert!(server.take_failure().is_some());
    assert!(server.encrypt(b"more", &mut [0; 100]).is_err());
    let alert = take_tail(&mut server);
    feed(&mut client, &alert, usize::MAX);
    let told = client.take_failure().expect("the alert says so");
    assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told:?}");
}

#[test]
fn the_tail_counts_the_applications_bytes() {
    let (mut server, _) = connected(usize::MAX);
    let records = encrypt(&mut server, &[7; 1000]);
    server.tail.push_data(&records[100..], 1000);
    assert_eq!(server.tail.unsent_plain(), records.len() - 100);
    server.queue_close_notify();
    server.tail.on_sent(records.len() - 101);
    assert_eq!(server.tail.unsent_plain(), 1);
    server.tail.on_sent(1);
    assert_eq!(server.tail.unsent_plain(), 0);
    assert!(!server.tail.is_empty());
    take_tail(&mut server);
    assert!(holds_nothing(&server));
}

/// Returns the certificate that a client gets that asks for `name`.
fn shown_for(tls: &TlsServer, roots: &Roots, name: &str) -> Option<Vec<u8>> {
    let client_config = TlsClient::new(roots).expect("is set up");
    let (mut server, mut client) = (server(tls), client(&client_config, name));
    converse(&mut server, &mut client, usize::MAX);
    let info = TlsInfo::new(&client);
    (!client.is_handshaking()).then(|| info.peer_certificates().next().map(<[u8]>::to_vec))?
}

#[test]
fn the_certificate_is_picked_by_name() {
    let parts = [
        certificate(&["first.test"]),
        certificate(&["Exact.wild.test", "second.test"]),
        certificate(&["*.wild.test"]),
    ];
    let all: String = parts.iter().map(|(pem, _)| pem.as_str()).collect();
    let roots = Roots::from_pem(all).expect("are certificates");
    let [first, second, third] =
        parts.map(|(pem, key)| Identity::from_pem(pem, key).expect("match"));
    let der = |identity: &Identity| Some(identity.key.cert[0].to_vec());
    let tls = TlsServer::new(first.clone())
        .expect("is set up")
        .identity(second.clone())
        .identity(third.clone());
    let shown = |name: &str| shown_for(&tls, &roots, name);
    assert_eq!(shown("first.test"), der(&first));
    assert_eq!(shown("second.test"), der(&second));
    assert_eq!(shown("exact.wild.test"), der(&second));
    assert_eq!(shown("other.wild.test"), der(&third));
    // The first certificate is presented, which is not for that name.
    assert_eq!(shown("a.b.wild.test"), None);
    tls.clone().reload([third.clone()]).expect("there is one");
    assert_eq!(shown("any.wild.test"), der(&third));
    assert_eq!(shown("first.test"), None);
    assert!(matches!(tls.reload([]), Err(TlsError::NoIdentity)));
}

#[test]
fn sessions_are_resumed() {
    let (server_config, client_config) = configs();
    for resumed in [false, true, true] {
        let (mut server, mut client) =
            (server(&server_config), client(&client_config, "localhost"));
        converse(&mut server, &mut client, usize::MAX);
        assert_eq!(TlsInfo::new(&server).resumed(), resumed);
        assert_eq!(TlsInfo::new(&client).resumed(), resumed);
        assert_eq!(TlsInfo::new(&server).server_name(), Some("localhost"));
    }
}

#[test]
fn protocols_are_agreed_upon() {
    let (server_config, client_config) = configs();
    let server_config = server_config.alpn(&["h2", "http/1.1"]);
    let agreed = |offer: &[&str]| {
        let client_config = client_config.clone().alpn(offer);
        let (mut server, mut client) =
            (server(&server_config), client(&client_config, "localhost"));
        converse(&mut server, &mut client, usize::MAX);
        let alpn = TlsInfo::new(&server).alpn().map(<[u8]>::to_vec);
        (!server.is_handshaking()).then_some(alpn)
    };
    assert_eq!(agreed(&["http/1.1", "h2"]), Some(Some(b"h2".to_vec())));
    assert_eq!(agreed(&["http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(agreed(&[]), Some(None));
    assert_eq!(agreed(&["irc"]), None);
}

#[test]
fn bad_material_is_named() {
    let (certificate_pem, key) = certificate(&["one.test"]);
    let (_, other_key) = certificate(&["other.test"]);
    let told = |certificate: &str, key: &str| {
        Identity::from_pem(certificate, key)
            .expect_err("is refused")
            .to_string()
    };
    assert!(told("", &key).contains("no certificate"));
    assert!(told(&certificate_pem, "").contains("no private key"));
    assert!(told(&certificate_pem, &other_key).contains("not that of the first certificate"));
    assert!(told("-----BEGIN CERTIFICATE-----\n", &key).contains("not PEM"));
    let error = Identity::from_pem_files("/nonexistent.pem", "/nonexistent.pem");
    assert!(
        error
            .expect_err("is refused")
            .to_string()
            .contains("/nonexistent.pem")
    );
    assert!(
        Roots::from_pem("no text")
            .expect_err("is refused")
            .to_string()
            .contains("no certificate")
    );
    let (_, client) = configs();
    let error = client.server_name("not a name").expect_err("is refused");
    assert!(error.to_string().contains("not a name"));
}
