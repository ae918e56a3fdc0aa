//! The same handlers over https: only the listener differs.
#![cfg(feature = "tls")]

use std::io;
use std::thread;

use epicycle::http::{Chunk, End, HttpStreamCodec, RequestPart, ServerResponse};

use crate::peer::Peer;
use crate::pki;
use crate::site::{Site, reflection, start};
use crate::util::noise;
use crate::wire::Answers;

/// What a peer receives, as a stream.
struct Received<'a>(&'a Peer);

impl io::Read for Received<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.recv_some(into)
    }
}

#[test]
fn requests_are_answered_in_order_over_tls() {
    let (running, _) = start(pki::local(&pki::server_tls()), || {
        Site::of(|conn, session, request| {
            session.count += 1;
            let answer = reflection(&request);
            if session.count.is_multiple_of(3) {
                let handle = conn.handle();
                thread::spawn(move || handle.send(answer));
                return epicycle::Action::Continue;
            }
            conn.send(answer).into()
        })
    });
    let peer = Peer::to(&running);
    let requests = (0..1000).map(|n| {
        format!("POST /{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
    });
    peer.send(requests.collect::<String>());
    let mut answers = Answers::new(Received(&peer));
    for n in 0..1000 {
        assert_eq!(answers.get().text(), format!("POST /{n}\nhello"));
    }
}

#[test]
fn bodies_are_streamed_both_ways_over_tls() {
    const LEN: usize = 8 << 20;
    let (running, _) = start(pki::local(&pki::server_tls()), || {
        Site::new(HttpStreamCodec::default, |conn, _, part| {
            let sent = match part {
                RequestPart::Head(_) => conn.send(ServerResponse::ok().streamed()),
                RequestPart::Body(bytes) => conn.send(Chunk(bytes)),
                RequestPart::End(_) => conn.send(End),
                _ => Ok(()),
            };
            sent.into()
        })
    });
    let peer = Peer::to(&running);
    let body = noise(9, LEN);
    thread::scope(|scope| {
        scope.spawn(|| {
            peer.send(format!(
                "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n"
            ));
            peer.send(&body);
        });
        let answer = Answers::new(Received(&peer)).get();
        assert!(answer.body == body);
    });
}

#[test]
fn a_last_answer_over_tls_ends_with_a_goodbye() {
    let (running, _) = start(pki::local(&pki::server_tls()), Site::mirror);
    for (request, status) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            200,
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 200),
    ] {
        let peer = Peer::to(&running);
        peer.send(request);
        let mut answers = Answers::new(Received(&peer));
        assert_eq!(answers.get().status, status);
        // Without close_notify this would be an error.
        answers.expect_end();
    }
}
