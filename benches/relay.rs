//! Relays a request with 12 headers and its response through the HTTP codecs, without sockets: once with each header
//! parsed and added again, once with raw lines. `count_relay.py` counts the instructions.

#![allow(missing_docs)]

use std::env;

use epicycle::codec::{Codec, Decoded, FrameError, encode_to_vec};
use epicycle::http::client::{self, StreamCodec};
use epicycle::http::{
    End, HeaderBlock, Headers, HttpStreamCodec, RequestPart, ServerResponse, Trailers,
};

const REQUEST: &[u8] = b"GET /api/items/12345?sort=name&limit=20 HTTP/1.1\r\nHost: app.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nReferer: https://app.example.org/items\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\
    X-Request-Id: 6f1c2a7e-0001\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: origin/1.0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\
    Cache-Control: private, max-age=60\r\nETag: \"5d41402abc4b2a76b9719d911017c592\"\r\nVary: Accept-Encoding\r\n\
    X-Request-Id: 6f1c2a7e-0001\r\nX-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\n\
    Strict-Transport-Security: max-age=31536000\r\n\r\nhello";

/// The headers that a proxy drops.
const DROPPED: [&str; 12] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "content-length",
];

struct Relay {
    server: HttpStreamCodec,
    client: StreamCodec,
    block: HeaderBlock,
    input: Vec<u8>,
    /// False to pass no headers on, which shows what the rest costs.
    passes_headers: bool,
}

impl Relay {
    fn lines(&mut self) -> Result<usize, FrameError> {
        let mut sent = 0;
        let mut rest = fill(&mut self.input, REQUEST);
        while !rest.is_empty() {
            let Decoded::Frame { frame, consumed } = self.server.decode(rest)? else {
                break;
            };
            sent += match frame {
                RequestPart::Head(request) => {
                    gather(&mut self.block, request.headers(), self.passes_headers)?;
                    encode_to_vec(
                        &mut self.client,
                        client::ClientRequest::relayed(&request).block(&self.block),
                    )?
                    .len()
                }
                _ => encode_to_vec(&mut self.client, End)?.len(),
            };
            rest = &mut rest[consumed..];
        }
        let mut rest = fill(&mut self.input, RESPONSE);
        while !rest.is_empty() {
            let Decoded::Frame { frame, consumed } = self.client.decode(rest)? else {
                break;
            };
            sent += match frame {
                client::ResponsePart::Head(response) => {
                    gather(&mut self.block, response.headers(), self.passes_headers)?;
                    encode_to_vec(
                        &mut self.server,
                        ServerResponse::relayed(&response).block(&self.block),
                    )?
                    .len()
                }
                client::ResponsePart::Body(bytes) => {
                    encode_to_vec(&mut self.server, epicycle::http::Chunk(bytes))?.len()
                }
                _ => encode_to_vec(&mut self.server, Trailers(&HeaderBlock::new()))?.len(),
            };
            rest = &mut rest[consumed..];
        }
        Ok(sent)
    }

    fn headers(&mut self) -> Result<usize, FrameError> {
        let mut sent = 0;
        let mut rest = fill(&mut self.input, REQUEST);
        while !rest.is_empty() {
            let Decoded::Frame { frame, consumed } = self.server.decode(rest)? else {
                break;
            };
            if let RequestPart::Head(request) = frame {
                let host = request.host().unwrap_or_default();
                let mut relayed =
                    client::ClientRequest::new(request.method(), host, request.target());
                for (name, value) in request.headers() {
                    if !is_dropped(name) {
                        relayed = relayed.header(name, value);
                    }
                }
                sent += encode_to_vec(&mut self.client, relayed.header("Via", "1.1 relay"))?.len();
            }
            rest = &mut rest[consumed..];
        }
        let mut rest = fill(&mut self.input, RESPONSE);
        while !rest.is_empty() {
            let Decoded::Frame { frame, consumed } = self.client.decode(rest)? else {
                break;
            };
            sent += match frame {
                client::ResponsePart::Head(response) => {
                    let mut relayed = ServerResponse::new(response.status())
                        .sized(response.content_length().unwrap_or(0));
                    for (name, value) in response.headers() {
                        if !is_dropped(name) {
                            relayed = relayed.header(name, value);
                        }
                    }
                    encode_to_vec(&mut self.server, relayed.header("Via", "1.1 relay"))?.len()
                }
                client::ResponsePart::Body(bytes) => {
                    encode_to_vec(&mut self.server, epicycle::http::Chunk(bytes))?.len()
                }
                _ => 0,
            };
            rest = &mut rest[consumed..];
        }
        Ok(sent)
    }
}

/// Fills the block with the lines that a proxy passes on.
fn gather(block: &mut HeaderBlock, headers: Headers<'_>, passes: bool) -> Result<(), FrameError> {
    if !passes {
        block.clear();
        return Ok(());
    }
    block.fill(headers.end_to_end())?;
    Ok(block.push("Via", "1.1 relay")?)
}

fn is_dropped(name: &str) -> bool {
    DROPPED
        .iter()
        .any(|dropped| dropped.eq_ignore_ascii_case(name))
}

fn fill<'a>(input: &'a mut Vec<u8>, bytes: &[u8]) -> &'a mut [u8] {
    input.clear();
    input.extend_from_slice(bytes);
    input
}

fn main() {
    let mut args = env::args().skip(1);
    let (Some(way), Some(count)) = (
        args.next(),
        args.next().and_then(|count| count.parse().ok()),
    ) else {
        return println!("usage: relay none|lines|headers COUNT; see count_relay.py");
    };
    let mut relay = Relay {
        server: HttpStreamCodec::default(),
        client: StreamCodec::default(),
        block: HeaderBlock::new(),
        input: Vec::new(),
        passes_headers: way != "none",
    };
    for _ in 0..count {
        let sent = match &*way {
            "headers" => relay.headers(),
            _ => relay.lines(),
        };
        assert!(sent.is_ok_and(|sent| sent > 100));
    }
}
