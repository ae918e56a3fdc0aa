//! The output of a handler: always valid messages, at the pace of the client, and never ambiguous.

use std::sync::{Arc, Mutex, mpsc};

use epicycle::codec::{Codec, FrameError, encode_to_vec};
use epicycle::http::{
    Chunk, End, HeaderBlock, HttpCodec, Prepared, SendError, ServerResponse, StatusCode,
};
use epicycle::{Action, Conn, WriteError};

use crate::site::{Session, Site, start};
use crate::util::app::local;
use crate::util::client::{Client, shrink};
use crate::util::noise;
use crate::wire::answers;

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the codec says to something that it does not send.
fn refusal(sent: Result<(), WriteError>) -> SendError {
    match sent {
        Err(WriteError::Frame(FrameError::Other(error))) => {
            error.downcast_ref().cloned().expect("is the codec's")
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Starts a server that does that with each request, then answers by its name; asks it twice.
fn ask_twice(send: impl Fn(&mut Conn<'_, Site>) + Send + Sync + 'static) {
    let send = Arc::new(send);
    let (running, log) = start(local(), move || {
        let send = send.clone();
        Site::of(move |conn, _, _| {
            send(conn);
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send([ASK, ASK].concat());
    let mut answers = answers(&client);
    for _ in 0..2 {
        let answer = answers.get();
        assert_eq!((answer.status, answer.text()), (200, "well"));
    }
    assert_eq!((log.frames(), log.ended()), (2, 0));
}

#[test]
fn headers_that_could_end_a_line_are_refused_and_the_connection_goes_on() {
    ask_twice(|conn| {
        let bad: [(&str, &[u8]); 12] = [
            ("X", b"a\r\nSet-Cookie: b"),
            ("X", b"a\nb"),
            ("X", b"a\rb"),
            ("X", b"a\0b"),
            ("X", b"a\x7fb"),
            ("X", b"\x1b[2J"),
            ("X\r\nY", b"a"),
            ("X:", b"a"),
            ("X Y", b"a"),
            ("", b"a"),
            ("X\u{e9}", b"a"),
            ("X\0", b"a"),
        ];
        for (name, value) in bad {
            let answer = ServerResponse::ok()
                .header("Fine", "yes")
                .header(name, value)
                .body("never");
            let error = refusal(conn.send(answer));
            assert_eq!(
                error,
                SendError::Header {
                    name: name.to_owned()
                }
            );
        }
        conn.send(ServerResponse::ok().header("X", b"\ta \xff").body("well"))
            .expect("is taken");
    });
}

#[test]
fn headers_that_are_the_codecs_are_refused() {
    ask_twice(|conn| {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "CONNECTION",
            "Connection",
        ] {
            let error = refusal(conn.send(ServerResponse::ok().header(name, "5").body("hello")));
            assert_eq!(
                error,
                SendError::FramingHeader {
                    name: name.to_owned()
                }
            );
        }
        conn.send(ServerResponse::ok().body("well"))
            .expect("is taken");
    });
}

#[test]
fn statuses_that_are_no_answer_or_have_no_body_are_refused() {
    ask_twice(|conn| {
        let status = StatusCode::SWITCHING_PROTOCOLS;
        let error = refusal(conn.send(ServerResponse::new(status)));
        assert_eq!(error, SendError::Status { status });
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            for answer in [
                ServerResponse::new(status).body("x"),
                ServerResponse::new(status).sized(1),
                ServerResponse::new(status).streamed(),
                ServerResponse::new(status).shared_body("x"),
            ] {
                assert_eq!(refusal(conn.send(answer)), SendError::Bodiless { status });
            }
        }
        for protocol in ["", "a b", "a\r\nb", "a/", "a,b"] {
            let error = refusal(conn.send(ServerResponse::upgrade(protocol)));
            assert_eq!(
                error,
                SendError::Header {
                    name: "Upgrade".to_owned()
                }
            );
        }
        conn.send(ServerResponse::ok().body("well"))
            .expect("is taken");
    });
}

#[test]
fn parts_are_taken_only_where_they_belong() {
    ask_twice(|conn| {
        assert_eq!(refusal(conn.send(Chunk(b"x"))), SendError::NotBegun);
        assert_eq!(refusal(conn.send(End)), SendError::NotBegun);
        conn.send(ServerResponse::ok().streamed())
            .expect("is taken");
        assert_eq!(refusal(conn.send(ServerResponse::ok())), SendError::Begun);
        // An empty chunk would be the end.
        for part in ["we", "", "ll"] {
            conn.send(Chunk(part.as_bytes())).expect("is taken");
        }
        assert_eq!(refusal(conn.send(ServerResponse::ok())), SendError::Begun);
        conn.send(End).expect("is taken");
        assert_eq!(refusal(conn.send(Chunk(b"x"))), SendError::NotBegun);
        assert_eq!(refusal(conn.send(End)), SendError::NotBegun);
        assert_eq!(
            refusal(conn.send(ServerResponse::ok())),
            SendError::NotAsked
        );
    });
}

#[test]
fn a_sized_body_has_its_size() {
    ask_twice(|conn| {
        conn.send(ServerResponse::ok().sized(4)).expect("is taken");
        let (left, given) = (4, 5);
        assert_eq!(
            refusal(conn.send(Chunk(b"wells"))),
            SendError::Length { left, given }
        );
        conn.send(Chunk(b"wel")).expect("is taken");
        let (left, given) = (1, 0);
        assert_eq!(refusal(conn.send(End)), SendError::Length { left, given });
        let (left, given) = (1, 2);
        assert_eq!(
            refusal(conn.send(Chunk(b"ls"))),
            SendError::Length { left, given }
        );
        conn.send(Chunk(b"l")).expect("is taken");
        assert_eq!(refusal(conn.send(Chunk(b"s"))), SendError::NotBegun);
        assert_eq!(
            refusal(conn.send(ServerResponse::ok())),
            SendError::NotAsked
        );
    });
}

#[test]
fn a_body_written_past_the_codec_is_whole_also_before_a_close() {
    const LEN: usize = 300_000;
    let (running, _) = start(local(), || {
        Site::of(|conn, _, request| {
            conn.send(ServerResponse::ok().file(LEN as u64))
                .expect("is owed");
            if request.method() != "HEAD" {
                assert_eq!(refusal(conn.send(ServerResponse::ok())), SendError::Begun);
                assert_eq!(refusal(conn.send(Chunk(b"x"))), SendError::NotBegun);
                conn.write_shared(noise(1, LEN)).expect("is taken");
            }
            conn.send(End).into()
        })
    });
    for last in ["Connection: close\r\n", "Connection: keep-alive\r\n"] {
        let client = Client::to(&running);
        let head = ASK.replace("GET", "HEAD");
        client.send(
            [
                &head,
                ASK,
                &ASK.replace("\r\n\r\n", &format!("\r\n{last}\r\n")),
            ]
            .concat(),
        );
        client.end_writes();
        let mut answers = answers(&client);
        let answer = answers.next("HEAD").expect("an answer");
        assert_eq!(answer.header("content-length"), Some("300000"));
        for _ in 0..2 {
            assert!(answers.get().body == noise(1, LEN));
        }
        answers.expect_end();
    }
}

#[test]
fn a_body_written_past_the_codec_has_its_size() {
    let (tell, told) = mpsc::channel();
    let (running, _) = start(local(), move || {
        let tell = tell.clone();
        Site::of(move |conn, _, request| {
            conn.send(ServerResponse::ok().file(5)).expect("is owed");
            if request.path() == "/late" {
                conn.write(b"abcde").expect("is taken");
                // By then the kernel has taken the body.
                let end = |_: &mut _, conn: &mut Conn<'_, _>, _: &mut _| {
                    conn.send(End).expect("is whole");
                };
                conn.handle().run(end).expect("is taken");
                return Action::Continue;
            }
            let body: &[u8] = match request.path() {
                "/short" => b"abcd",
                "/long" => b"abcdefg",
                _ => b"abcde",
            };
            conn.write(body).expect("is taken");
            let ended = conn.send(End);
            if let Err(error) = &ended {
                tell.send(error.to_string()).expect("is awaited");
            }
            ended.into()
        })
    });
    for (method, path, why) in [
        (
            "GET",
            "/short",
            "0 bytes of body were given, but 1 of the announced bytes remain",
        ),
        (
            "GET",
            "/long",
            "2 bytes of body were given, but 0 of the announced bytes remain",
        ),
        (
            "HEAD",
            "/",
            "5 bytes of body were written in answer to HEAD",
        ),
    ] {
        let client = Client::to(&running);
        let late = ASK.replace(" / ", " /late ");
        let wrong = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send([&late, &wrong, ASK].concat());
        let mut answers = answers(&client);
        assert_eq!(answers.get().text(), "abcde");
        // It closes, and nothing is taken for the answer to the last request.
        let rest = String::from_utf8(answers.rest()).expect("is text");
        assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
        let error = told.recv().expect("is told");
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_refused() {
    let (running, _) = start(local(), || {
        let site = Site::of(|conn, _, _| conn.send(ServerResponse::ok().body("well")).into());
        site.on_open(|conn| {
            assert_eq!(
                refusal(conn.send(ServerResponse::ok())),
                SendError::NotAsked
            );
            assert_eq!(refusal(conn.send(Chunk(b"x"))), SendError::NotBegun);
            assert_eq!(refusal(conn.send(End)), SendError::NotBegun);
        })
    });
    let client = Client::to(&running);
    client.send(ASK);
    assert_eq!(answers(&client).get().text(), "well");
}

#[test]
fn an_answer_says_when_it_was_made_and_what_else_it_was_given() {
    let (running, _) = start(local(), || {
        Site::of(|conn, _, _| {
            let answer = ServerResponse::text(StatusCode::IM_A_TEAPOT, "short and stout")
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=2");
            conn.send(answer).into()
        })
    });
    let client = Client::to(&running);
    client.send(ASK);
    let answer = answers(&client).get();
    assert_eq!(
        (answer.status, answer.minor, answer.text()),
        (418, 1, "short and stout")
    );
    let date = answer.header("date").expect("is there");
    let date = httpdate::parse_http_date(date).expect("is a date");
    let age = date.elapsed().unwrap_or_default();
    assert!(age.as_secs() < 60, "{age:?}");
    let cookies = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "Set-Cookie");
    let cookies: Vec<_> = cookies.map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[test]
fn bodies_of_every_size_arrive_whole() {
    let sizes = [0, 1, 100, 4095, 4096, 4097, 65_535, 65_536, 1_000_000];
    let (running, _) = start(local(), move || {
        Site::of(|conn, session, request| {
            session.count += 1;
            let len: usize = request
                .query()
                .and_then(|len| len.parse().ok())
                .expect("a size");
            let body = noise(len as u64, len);
            let sent = match request.path() {
                "/copied" => conn.send(ServerResponse::ok().body(&body)),
                "/shared" => conn.send(ServerResponse::ok().shared_body(body)),
                "/sized" => conn
                    .send(ServerResponse::ok().sized(len as u64))
                    .and_then(|()| {
                        body.chunks(5000)
                            .try_for_each(|part| conn.send(Chunk(part)))
                    }),
                _ => conn
                    .send(ServerResponse::ok().streamed())
                    .and_then(|()| {
                        body.chunks(5000)
                            .try_for_each(|part| conn.send(Chunk(part)))
                    })
                    .and_then(|()| conn.send(End)),
            };
            sent.into()
        })
    });
    let client = Client::to(&running);
    let mut answers = answers(&client);
    for path in ["/copied", "/shared", "/sized", "/streamed"] {
        for size in sizes {
            client.send(format!("GET {path}?{size} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let body = answers.get().body;
            assert!(body == noise(size as u64, size), "{path} of {size} bytes");
        }
    }
}

/// How large the body is that does not fit anywhere at once.
const LARGE: usize = 16 << 20;
const PART: usize = 10_000;

/// Sends the body from where it has come to, as long as there is room.
fn go_on(
    body: &[u8],
    most: &Mutex<usize>,
    conn: &mut Conn<'_, Site>,
    session: &mut Session,
) -> Action {
    while session.count < body.len() && conn.has_room() {
        let part = &body[session.count..body.len().min(session.count + PART)];
        session.count += part.len();
        conn.send(Chunk(part)).expect("is taken");
        if session.count == body.len() {
            conn.send(End).expect("is taken");
        }
    }
    let mut most = most.lock().expect("is sound");
    *most = conn.buffered_out().max(*most);
    Action::Continue
}

#[test]
fn a_streamed_body_is_made_as_it_is_read() {
    let body = Arc::new(noise(7, LARGE));
    let most = Arc::new(Mutex::new(0));
    let (for_site, its_most) = (body.clone(), most.clone());
    let server = local().high_water(128 << 10).low_water(64 << 10);
    let (running, log) = start(server, move || {
        let (body, drained) = (for_site.clone(), for_site.clone());
        let (most, drained_most) = (its_most.clone(), its_most.clone());
        Site::of(move |conn, session, _| {
            shrink(conn);
            session.count = 0;
            conn.send(ServerResponse::ok().streamed())
                .expect("is taken");
            go_on(&body, &most, conn, session)
        })
        .on_drain(move |conn, session| go_on(&drained, &drained_most, conn, session))
    });
    let client = Client::with_small_window(&running);
    client.send([ASK, ASK].concat());
    let mut answers = answers(&client);
    for _ in 0..2 {
        assert!(answers.get().body == *body);
    }
    let most = *most.lock().expect("is sound");
    assert!(most <= (128 << 10) + 2 * PART, "{most} bytes waited");
    assert_eq!(log.ended(), 0);
}

#[test]
fn who_names_a_protocol_says_that_it_is_about_the_connection() {
    let answer = |request: &str, response: ServerResponse<'_>| {
        let mut codec = HttpCodec::default();
        codec
            .decode(&mut request.as_bytes().to_vec())
            .expect("is a request");
        String::from_utf8(encode_to_vec(&mut codec, response).expect("is taken")).expect("is text")
    };
    let lines = |answer: &str| answer.matches("Connection: Upgrade\r\n").count();
    let required = || ServerResponse::new(StatusCode::UPGRADE_REQUIRED);
    let block = HeaderBlock::new()
        .with("upgrade", "websocket")
        .expect("is a header");
    let closing = ASK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for response in [
        required().header("Upgrade", "websocket"),
        required().block(&block),
        required().block(&block).header("Upgrade", "h2c"),
        ServerResponse::upgrade("websocket"),
    ] {
        assert_eq!(lines(&answer(ASK, response)), 1);
    }
    let said = answer(&closing, required().block(&block));
    assert_eq!(lines(&said), 1);
    assert!(said.contains("Connection: close\r\n"), "{said}");
    let prepared = Prepared::new(ServerResponse::ok().block(&block)).expect("is valid");
    let mut codec = HttpCodec::default();
    codec
        .decode(&mut ASK.as_bytes().to_vec())
        .expect("is a request");
    let said = encode_to_vec(&mut codec, &prepared).expect("is taken");
    assert_eq!(lines(&String::from_utf8_lossy(&said)), 1);
    assert_eq!(lines(&answer(ASK, required())), 0);
}
