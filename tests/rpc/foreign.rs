//! Peers that meet what they do not expect over sockets: other protocols, sizes without messages, compression bombs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use epicycle::rpc::wire::{FilterPipe, Filters};
use epicycle::rpc::{Peer, ProtocolChoice, Router, code};
use log::Level;

use crate::ends::{dial, listening, start};
use crate::util::logs::logs;
use crate::util::process::{alone, resident};
use crate::util::{LONG, eventually};

fn echo() -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u64| Ok(n));
    routes
}

/// Sends bytes to a peer.
fn send_to(peer: &Peer, bytes: &[u8]) -> TcpStream {
    let addr = peer.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    socket.write_all(bytes).expect("is sent");
    socket
}

/// Sends bytes that make a peer close the connection, and waits until it has.
fn is_closed_for(peer: &Peer, bytes: &[u8]) -> SocketAddr {
    let mut socket = send_to(peer, bytes);
    let own = socket.local_addr().expect("has one");
    // The other side may reset it, since it does not read the rest.
    let _ = socket.read_to_end(&mut Vec::new());
    own
}

const RAW_CALL: &[u8] = b"\0\0\0\x14r\0\0\x010\x01\0\x02/a\0\0jhey";
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn the_log_names_the_protocol_that_a_client_speaks_instead() {
    let logs = logs();
    let says = |peer: &Peer, bytes: &[u8], reason: &str| {
        let client = is_closed_for(peer, bytes).to_string();
        let is_logged = || logs.have(Level::Debug, &[&client, reason]);
        eventually("the reason is logged", is_logged);
    };
    let raw = start(listening().routes(echo()));
    says(&raw, GET, "seems to speak http, where this side takes raw");
    says(&raw, CLIENT_HELLO, "seems to speak TLS, where this side");
    let json = start(listening().protocol(ProtocolChoice::json()).routes(echo()));
    says(&json, RAW_CALL, "seems to speak raw, where this side takes");
    #[cfg(feature = "http")]
    {
        let http = start(crate::ends::serving(epicycle::rpc::Http::new(), echo()));
        says(
            &http,
            RAW_CALL,
            "seems to speak raw, where this side takes http",
        );
        says(&http, CLIENT_HELLO, "seems to speak TLS, where this side");
    }
    #[cfg(feature = "tls")]
    {
        use epicycle::tls::{Identity, TlsServer};
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
        let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
        let identity = Identity::from_pem(&certificate, &key).expect("is right");
        let tls = TlsServer::new(identity).expect("is right");
        let listen = epicycle::Listen::on("tcp4://127.0.0.1:0").tls(&tls);
        let peer = start(Peer::builder().listen(listen).routes(echo()));
        says(&peer, RAW_CALL, "seems not to speak TLS");
        says(&peer, GET, "seems not to speak TLS");
    }
}

#[test]
fn a_call_to_a_server_of_another_protocol_fails_and_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accepts");
        assert!(socket.read(&mut [0; 64]).expect("reads") > 0);
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        socket.write_all(answer).expect("is sent");
        socket
    });
    let client = start(Peer::builder());
    let session = client.dial(&*addr).expect("connects");
    let status = session.call::<_, ()>("/a", &()).wait().expect_err("fails");
    assert_eq!(status.code, code::CONNECTION_CLOSED);
    assert!(status.reason.contains("seems to speak http"), "{status}");
    drop(server.join().expect("answers"));
}

#[test]
fn a_6_byte_header_and_a_gzip_bomb_cost_nothing() {
    let name = "foreign::a_6_byte_header_and_a_gzip_bomb_cost_nothing";
    alone(name, || {
        let server = start(listening().routes(echo()));
        let client = start(Peer::builder());
        let session = dial(&client, &server);
        let others_are_served = || {
            for n in 0..20u64 {
                assert_eq!(session.call("/echo", &n).wait(), Ok(n));
            }
        };
        // 64 MiB in 64 KiB.
        let pipe = FilterPipe::from_ids(b"g");
        let packed = pipe.pack(vec![0; 64 << 20].into(), &Filters::standard());
        let packed = packed.expect("can be packed").into_owned();
        let size = (7 + packed.len()) as u32;
        let bomb = [&size.to_be_bytes(), &b"r\x01g"[..], &packed].concat();
        assert!(bomb.len() < 128 << 10);
        others_are_served();
        let before = resident();
        let grown = || {
            let now = resident().zip(before);
            now.map_or(0, |(now, before)| now.saturating_sub(before))
        };

        // Sizes of 16 MiB, which are allowed, of which nothing else arrives: 3 GiB in all.
        let waiting: Vec<_> = (0..200)
            .map(|_| send_to(&server, b"\0\xff\xff\xffr\0"))
            .collect();
        eventually("all are accepted", || server.session_count() == 201);
        others_are_served();
        assert!(grown() < 8 << 20, "{} bytes for headers", grown());

        // A size that is not allowed, and bombs.
        for bytes in [&b"\x7f\xff\xff\xffr\0"[..], &bomb] {
            for _ in 0..20 {
                is_closed_for(&server, bytes);
                others_are_served();
                assert!(grown() < 64 << 20, "{} bytes for bombs", grown());
            }
        }
        let stats = server.engine_stats().expect("runs").total();
        assert_eq!(stats.frame_errors, 40);
        assert_eq!(server.session_count(), 201);
        drop(waiting);
        eventually("they have left", || server.session_count() == 1);
        others_are_served();
    });
}
