//! gRPC over HTTP/2 (RFC 9113), as far as a client with one call under way needs it.

use prost::Message;
use rpc_bench::load::Dialogue;
use rpc_bench::message::BenchmarkMessage;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER: usize = 9;

/// A client of one HTTP/2 connection. The first request adds its fields to the dynamic table, later ones refer to them, as h2
/// does.
#[derive(Clone)]
pub struct Grpc {
    stream: u32,
    first_head: Vec<u8>,
    later_head: Vec<u8>,
    body: Vec<u8>,
    reply: Vec<u8>,
    /// The data that has come of the reply.
    come: Vec<u8>,
}

impl Grpc {
    /// Calls the method with this path.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let fields: [(&str, &str); 5] = [
            (":authority", "127.0.0.1"),
            (":path", path),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "rpc-rivals"),
        ];
        // RFC 7541: the static table has `:method: POST` at 3 and `:scheme: http` at 6. Its dynamic one begins at 62 with the
        // newest field.
        let mut first_head = vec![0x83, 0x86];
        let mut later_head = first_head.clone();
        for (n, (name, value)) in fields.iter().enumerate() {
            first_head.push(0x40);
            for text in [name, value] {
                first_head.push(u8::try_from(text.len()).expect("it is short"));
                first_head.extend(text.as_bytes());
            }
            later_head.push(0x80 | (61 + fields.len() - n) as u8);
        }
        Self {
            stream: 1,
            first_head,
            later_head,
            body: framed(&BenchmarkMessage::request()),
            reply: framed(&BenchmarkMessage::request().answered()),
            come: Vec::new(),
        }
    }
}

/// Returns a message behind its prefix: not compressed, and its length.
fn framed(message: &BenchmarkMessage) -> Vec<u8> {
    let mut out = vec![0];
    out.extend((message.encoded_len() as u32).to_be_bytes());
    out.extend(message.encode_to_vec());
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

impl Dialogue for Grpc {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(SETTINGS, 0, 0, b"", out);
        // So that the window of the connection lasts for all replies.
        let more = 0x7fff_ffff_u32 - 65_535;
        frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes(), out);
    }

    fn call(&mut self, out: &mut Vec<u8>) {
        let head = if self.stream == 1 {
            &self.first_head
        } else {
            &self.later_head
        };
        frame(HEADERS, END_HEADERS, self.stream, head, out);
        frame(DATA, END_STREAM, self.stream, &self.body, out);
        self.stream += 2;
    }

    fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), String> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else {
            return Ok((0, false));
        };
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, flags) = (header[3], header[4]);
        let Some(payload) = rest.get(..len) else {
            return Ok((0, false));
        };
        let mut is_complete = false;
        match kind {
            DATA => self.come.extend(payload),
            SETTINGS | PING if flags & ACK == 0 => {
                let answer = if kind == PING { payload } else { b"" };
                frame(kind, ACK, 0, answer, out);
            }
            RST_STREAM | GOAWAY => return Err(format!("the server sends a frame of type {kind}")),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            if self.come != self.reply {
                return Err(format!("the server answers {}", self.come.escape_ascii()));
            }
            self.come.clear();
            is_complete = true;
        }
        Ok((HEADER + len, is_complete))
    }
}
