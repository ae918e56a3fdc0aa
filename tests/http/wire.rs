//! Parses answers from the wire with a simple reader of the tests' own.

use std::io::Read;
use std::str;

use crate::util::client::Client;

/// An answer, or the head of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) minor: u8,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Answer {
    /// Returns the value of a header, and asserts that it occurs only once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice in {self:?}");
        value
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("is text")
    }
}

/// The answers of a server, one after another.
#[derive(Debug)]
pub(crate) struct Answers<R> {
    from: R,
    kept: Vec<u8>,
    /// The number of bytes read so far.
    read: usize,
    ended: bool,
}

/// The answers a client receives.
pub(crate) fn answers(client: &Client) -> Answers<&socket2::Socket> {
    Answers::new(&client.0)
}

impl<R: Read> Answers<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            kept: Vec::new(),
            read: 0,
            ended: false,
        }
    }

    /// Returns the next answer to a request with that method, or `None` at the end of the stream.
    pub(crate) fn next(&mut self, method: &str) -> Option<Answer> {
        let (mut answer, framing) = self.head(method)?;
        match framing {
            Framing::None => {}
            Framing::Length(len) => answer.body = self.take(len),
            Framing::Chunked => loop {
                let size = self.line();
                let size =
                    usize::from_str_radix(&size, 16).expect("a chunk size without extensions");
                if size == 0 {
                    answer.trailers = self.fields();
                    break;
                }
                answer.body.extend(self.take(size));
                assert_eq!(self.take(2), b"\r\n", "behind a chunk");
            },
            Framing::Eof => {
                while self.more() {}
                answer.body = self.kept.split_off(self.read);
            }
        }
        Some(answer)
    }

    /// Returns the next answer to a GET, and asserts that there is one.
    pub(crate) fn get(&mut self) -> Answer {
        self.next("GET").expect("an answer")
    }

    /// Asserts that the stream ends without another byte.
    pub(crate) fn expect_end(&mut self) {
        while self.more() {}
        let rest = &self.kept[self.read..];
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(rest));
    }

    /// Returns the rest of the stream.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        while self.more() {}
        self.kept.split_off(self.read)
    }

    fn head(&mut self, method: &str) -> Option<(Answer, Framing)> {
        while self.kept.len() == self.read {
            if !self.more() {
                return None;
            }
        }
        let line = self.line();
        let (version, rest) = line.split_at_checked(9).expect("a status line");
        let minor = match version {
            "HTTP/1.0 " => 0,
            "HTTP/1.1 " => 1,
            other => panic!("the version {other:?}"),
        };
        let (status, reason) = rest.split_at_checked(4).expect("a status and a space");
        let status: u16 = status.trim_end().parse().expect("a status");
        assert!((100..600).contains(&status), "{line}");
        assert!(
            reason
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        );
        let answer = Answer {
            status,
            minor,
            headers: self.fields(),
            body: Vec::new(),
            trailers: Vec::new(),
        };
        let framing = framing(&answer, method);
        Some((answer, framing))
    }

    fn fields(&mut self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return fields;
            }
            let (name, value) = line.split_once(':').expect("a colon");
            let is_token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert!(!name.is_empty() && name.bytes().all(is_token), "{line:?}");
            let is_text = |char: char| char == '\t' || !char.is_ascii_control();
            assert!(value.chars().all(is_text), "{line:?}");
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// Returns a line without its CR LF.
    fn line(&mut self) -> String {
        let mut looked = 0;
        loop {
            let unread = &self.kept[self.read..];
            if let Some(at) = unread[looked..].iter().position(|byte| *byte == b'\n') {
                let end = looked + at;
                let line = unread[..end].strip_suffix(b"\r").expect("CR before LF");
                assert!(!line.contains(&b'\r'), "a bare CR");
                let line = line.iter().copied().map(char::from).collect();
                self.read += end + 1;
                return line;
            }
            looked = unread.len();
            assert!(self.more(), "the stream ends within a line");
        }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        while self.kept.len() - self.read < len {
            assert!(self.more(), "the stream ends within a body");
        }
        let bytes = self.kept[self.read..self.read + len].to_vec();
        self.read += len;
        bytes
    }

    /// Reads more bytes. Returns false at the end of the stream.
    fn more(&mut self) -> bool {
        if self.ended {
            return false;
        }
        if self.read > 1 << 20 {
            self.kept.drain(..self.read);
            self.read = 0;
        }
        let mut chunk = [0; 16 << 10];
        let n = self.from.read(&mut chunk).expect("receives");
        self.kept.extend_from_slice(&chunk[..n]);
        self.ended = n == 0;
        n > 0
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
    Eof,
}

/// Returns the length of an answer's body by RFC 9112, section 6.3. Asserts that the headers do not contradict it.
fn framing(answer: &Answer, method: &str) -> Framing {
    let length = answer.header("content-length");
    let coding = answer.header("transfer-encoding");
    assert!(length.is_none() || coding.is_none(), "{answer:?}");
    let bodiless = matches!(answer.status, 100..=199 | 204 | 304);
    let tunnel = method == "CONNECT" && (200..300).contains(&answer.status);
    if bodiless || tunnel {
        assert!(coding.is_none() && length.is_none(), "{answer:?}");
        return Framing::None;
    }
    if method == "HEAD" {
        return Framing::None;
    }
    match (length, coding) {
        (Some(length), _) => Framing::Length(length.parse().expect("a length")),
        (None, Some("chunked")) => Framing::Chunked,
        (None, Some(coding)) => panic!("the coding {coding:?}"),
        (None, None) => Framing::Eof,
    }
}
