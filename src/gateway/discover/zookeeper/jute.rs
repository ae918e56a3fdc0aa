//! The messages of ZooKeeper's protocol, as its serialisation "jute" has them. Without sockets.
//!
//! Source: `zookeeper-jute/src/main/resources/zookeeper.jute` of ZooKeeper 3.8. Numbers are big-endian. A text, a buffer and a vector have
//! their length in 4 bytes first, and a length of -1 stands for none. Each message is a frame, whose length comes first as well: the
//! engine's codec [`LengthField`](crate::codec::LengthField) has these.
//!
//! Nothing that a server sends makes this hold more than the frame has: lengths are compared with what is left, and texts borrow from it.

use std::fmt;

/// A message that is no message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server sent {}", self.0)
    }
}

/// The xid of watch events.
pub(super) const EVENT_XID: i32 = -1;
/// The xid of pings and of their replies.
pub(super) const PING_XID: i32 = -2;
/// The xid of authentication and of its reply.
pub(super) const AUTH_XID: i32 = -4;

/// Error codes of replies.
pub(super) const NO_NODE: i32 = -101;
pub(super) const NO_AUTH: i32 = -102;
pub(super) const AUTH_FAILED: i32 = -115;

/// Operations.
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const PING: i32 = 11;
const GET_CHILDREN2: i32 = 12;
const AUTH: i32 = 100;
const CLOSE_SESSION: i32 = -11;

/// The most bytes of a session's password. A server sends 16.
const MAX_PASSWORD: usize = 256;

/// A session, as the server knows it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// 0 asks for a new one.
    pub(super) id: i64,
    pub(super) password: Vec<u8>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            id: 0,
            password: vec![0; 16],
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows the password can take the session over.
        write!(f, "Session({:#x})", self.id)
    }
}

/// The answer to a connect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connected {
    /// The timeout of the session in milliseconds. 0 or less: the session has expired.
    pub(super) timeout: i32,
    pub(super) session: Session,
}

/// The head of a reply or of an event, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) xid: i32,
    /// The last change that the server knows of.
    pub(super) zxid: i64,
    pub(super) error: i32,
    pub(super) body: Input<'a>,
}

/// A watch event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) kind: i32,
    pub(super) path: &'a str,
}

/// Returns the first message of a connection.
pub(super) fn connect(session: &Session, last_zxid: i64, timeout: i32) -> Vec<u8> {
    let mut out = Output::default();
    out.int(0);
    out.long(last_zxid);
    out.int(timeout);
    out.long(session.id);
    out.buffer(&session.password);
    // Not content with a server that cannot write, since its list may be old.
    out.bool(false);
    out.0
}

/// Returns a request for the children of a node, with a watch.
pub(super) fn get_children(xid: i32, path: &str) -> Vec<u8> {
    watching(xid, GET_CHILDREN2, path)
}

/// Returns a request for the data of a node, with a watch.
pub(super) fn get_data(xid: i32, path: &str) -> Vec<u8> {
    watching(xid, GET_DATA, path)
}

/// Returns a request that watches whether a node comes to be.
pub(super) fn exists(xid: i32, path: &str) -> Vec<u8> {
    watching(xid, EXISTS, path)
}

fn watching(xid: i32, operation: i32, path: &str) -> Vec<u8> {
    let mut out = Output::request(xid, operation);
    out.buffer(path.as_bytes());
    out.bool(true);
    out.0
}

/// Returns a ping.
pub(super) fn ping() -> Vec<u8> {
    Output::request(PING_XID, PING).0
}

/// Returns a request that shows who this is: `NAME:PASSWORD`.
pub(super) fn digest_auth(user: &str) -> Vec<u8> {
    let mut out = Output::request(AUTH_XID, AUTH);
    out.int(0);
    out.buffer(b"digest");
    out.buffer(user.as_bytes());
    out.0
}

/// Returns a request to end the session.
pub(super) fn close(xid: i32) -> Vec<u8> {
    Output::request(xid, CLOSE_SESSION).0
}

impl Connected {
    pub(super) fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input(frame);
        let _version = input.int()?;
        let timeout = input.int()?;
        let id = input.long()?;
        let password = input.buffer()?.unwrap_or_default();
        if password.len() > MAX_PASSWORD {
            return Err(Malformed("a password of too many bytes"));
        }
        // New servers then tell if they are read-only; old ones send nothing more.
        Ok(Self {
            timeout,
            session: Session {
                id,
                password: password.to_vec(),
            },
        })
    }
}

impl<'a> Reply<'a> {
    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Input(frame);
        Ok(Self {
            xid: input.int()?,
            zxid: input.long()?,
            error: input.int()?,
            body: input,
        })
    }
}

impl<'a> Event<'a> {
    pub(super) const CREATED: i32 = 1;
    pub(super) const DELETED: i32 = 2;
    pub(super) const DATA_CHANGED: i32 = 3;
    pub(super) const CHILDREN_CHANGED: i32 = 4;

    pub(super) fn parse(mut body: Input<'a>) -> Result<Self, Malformed> {
        let kind = body.int()?;
        let _state = body.int()?;
        let path = body.text()?;
        Ok(Self { kind, path })
    }
}

/// The part of a message that is not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed("a message that ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.take().map(i64::from_be_bytes)
    }

    /// Reads a length. `None` is -1.
    fn length(&mut self) -> Result<Option<usize>, Malformed> {
        match self.int()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => Ok(Some(length)),
                Err(_) => Err(Malformed("a negative length")),
            },
        }
    }

    pub(super) fn buffer(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("a length beyond the end of its message"))?;
        self.0 = rest;
        Ok(Some(taken))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.buffer()?.unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    /// Reads a vector of texts. Returns `None` if it has more than `most`.
    pub(super) fn texts(&mut self, most: usize) -> Result<Result<Vec<&'a str>, usize>, Malformed> {
        let length = self.length()?.unwrap_or(0);
        // Each text has at least its length.
        if length > self.0.len() / 4 {
            return Err(Malformed("a vector beyond the end of its message"));
        }
        if length > most {
            return Ok(Err(length));
        }
        let texts = (0..length).map(|_| self.text());
        texts.collect::<Result<_, _>>().map(Ok)
    }
}

/// A message that is being written.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    fn request(xid: i32, operation: i32) -> Self {
        let mut out = Self::default();
        out.int(xid);
        out.int(operation);
        out
    }

    fn int(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// Writes a buffer or a text. Those of settings are far shorter than 2 GiB.
    fn buffer(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as i32);
        self.0.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_protocol() {
        assert_eq!(
            get_children(7, "/app"),
            b"\0\0\0\x07\0\0\0\x0c\0\0\0\x04/app\x01"
        );
        assert_eq!(ping(), b"\xff\xff\xff\xfe\0\0\0\x0b");
        assert_eq!(close(1), b"\0\0\0\x01\xff\xff\xff\xf5");
        assert_eq!(
            digest_auth("a:b"),
            b"\xff\xff\xff\xfc\0\0\0\x64\0\0\0\0\0\0\0\x06digest\0\0\0\x03a:b"
        );
        assert_eq!(connect(&Session::default(), 0, 1000).len(), 45);
    }

    #[test]
    fn lengths_are_compared_with_what_is_there() {
        let too_long = Malformed("a length beyond the end of its message");
        assert_eq!(Input(b"\0\0\0\x02a").buffer(), Err(too_long));
        assert_eq!(Input(b"\x7f\xff\xff\xffa").text(), Err(too_long));
        assert_eq!(Input(b"\xff\xff\xff\xff").buffer(), Ok(None));
        let negative = Malformed("a negative length");
        assert_eq!(Input(b"\xff\xff\xff\xfe").buffer(), Err(negative));
        assert_eq!(Input(b"\x80\0\0\0").texts(9), Err(negative));
        let vector = Malformed("a vector beyond the end of its message");
        assert_eq!(Input(b"\x7f\xff\xff\xff\0\0\0\0").texts(9), Err(vector));
        assert_eq!(Input(b"\0\0\0\x01\0\0\0\x01a").texts(9), Ok(Ok(vec!["a"])));
        let two = b"\0\0\0\x02\0\0\0\0\0\0\0\0";
        assert_eq!(Input(two).texts(1), Ok(Err(2)));
        let early = Malformed("a message that ends too early");
        assert_eq!(Reply::parse(b"\0\0\0\x01"), Err(early));
        assert_eq!(Connected::parse(b"\0\0\0\0\0\0"), Err(early));
    }
}
