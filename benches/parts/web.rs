//! The speed of decoding requests and of unmasking WebSocket messages, without a socket.

use std::hint::black_box;
use std::mem::MaybeUninit;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epicycle::codec::{Codec, Decoded, encode_to_vec};
use epicycle::http::HttpCodec;
use epicycle::ws::{self, Incoming, ServerCodec};

const SMALL: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n";
const BROWSER: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n";

criterion_group!(benches, http, websocket);
criterion_main!(benches);

/// Decodes requests whose heads differ, and compares with `httparse` alone.
fn http(c: &mut Criterion) {
    for (name, head) in [("small", SMALL), ("browser", BROWSER)] {
        let mut requests: Vec<_> = (0..64)
            .map(|n| format!("{head}X-Request-Id: {n:08}\r\n\r\n").into_bytes())
            .collect();
        let mut group = c.benchmark_group(format!("http/{name}"));
        let mut n = 0;
        group.bench_function("codec", |b| {
            b.iter(|| {
                n = (n + 1) % requests.len();
                read(&mut requests[n])
            });
        });
        group.bench_function("httparse", |b| {
            b.iter(|| {
                let mut headers = [const { MaybeUninit::uninit() }; 64];
                let mut request = httparse::Request::new(&mut []);
                let parsed =
                    request.parse_with_uninit_headers(black_box(&requests[0]), &mut headers);
                black_box(parsed.is_ok())
            });
        });
        group.finish();
    }
}

fn read(input: &mut [u8]) -> usize {
    // A codec that has returned a request waits for its answer, so each request needs a new codec.
    let mut codec = HttpCodec::default();
    match codec.decode(black_box(input)) {
        Ok(Decoded::Frame { frame, consumed }) => {
            black_box(frame.path());
            consumed
        }
        other => panic!("a whole request: {other:?}"),
    }
}

/// Decodes a message as a server does.
fn websocket(c: &mut Criterion) {
    let mut codec = opened();
    for size in [125, 16 << 10] {
        let frame = masked(size);
        let mut group = c.benchmark_group("websocket");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("decode", size), |b| {
            b.iter_batched_ref(
                || frame.clone(),
                |frame| match codec.decode(frame) {
                    Ok(Decoded::Frame {
                        frame: Incoming::Message(message),
                        ..
                    }) => {
                        black_box(&message);
                    }
                    other => panic!("a whole message: {other:?}"),
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// A server's codec after the handshake.
fn opened() -> ServerCodec {
    let mut codec = ServerCodec::default();
    let mut request =
        *b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let Ok(Decoded::Frame {
        frame: Incoming::Request(request),
        ..
    }) = codec.decode(&mut request)
    else {
        panic!("a whole request");
    };
    let accept = ws::accept(&request).map(ws::Accept::into_owned);
    encode_to_vec(&mut codec, accept).expect("it may open");
    codec
}

/// A client's binary message in one frame.
fn masked(size: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u16::try_from(size) {
        Ok(len @ 126..) => {
            frame.push(0xFE);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        _ => frame.push(0x80 | size as u8),
    }
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame.resize(frame.len() + size, b'x');
    frame
}
