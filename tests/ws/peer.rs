//! A client that sends any frames, right or wrong.

use epicycle::{EventHandler, Running};

use crate::util::client::Client;

/// A connection with an open WebSocket.
pub(crate) struct Peer(pub(crate) Client);

pub(crate) const HEADERS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A frame's first byte and its payload.
pub(crate) type Got = (u8, Vec<u8>);

impl Peer {
    pub(crate) fn to<H: EventHandler>(server: &Running<H>) -> Self {
        Self::with(server, "")
    }

    /// Opens a WebSocket with further headers.
    pub(crate) fn with<H: EventHandler>(server: &Running<H>, headers: &str) -> Self {
        Self::over(Client::to(server), headers)
    }

    pub(crate) fn over(client: Client, headers: &str) -> Self {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{HEADERS}{headers}\r\n"
        ));
        let head = recv_head(&client);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(client)
    }

    pub(crate) fn send(&self, first: u8, payload: &[u8]) {
        self.0.send(frame(first, payload));
    }

    /// Returns the next frame. Asserts that it is not masked, and that its length has the shortest form.
    pub(crate) fn recv(&self) -> Got {
        let head = self.0.recv(2);
        let len = match head[1] {
            126 => usize::from(u16::from_be_bytes(array(self.0.recv(2)))),
            127 => usize::try_from(u64::from_be_bytes(array(self.0.recv(8)))).expect("fits"),
            len => usize::from(len),
        };
        let shortest = match head[1] {
            126 => len > 125,
            127 => len > 0xFFFF,
            len => len < 0x80,
        };
        assert!(shortest, "{head:?}");
        (head[0], self.0.recv(len))
    }

    /// Expects a Close frame, and then the end of the connection.
    #[track_caller]
    pub(crate) fn expect_end(&self, code: u16) {
        let (first, payload) = self.recv();
        assert_eq!(first, 0x88, "{payload:?}");
        assert_eq!(
            payload.get(..2),
            Some(&code.to_be_bytes()[..]),
            "{}",
            payload.escape_ascii()
        );
        assert_eq!(self.0.recv_to_end(), b"");
    }
}

fn array<const N: usize>(bytes: Vec<u8>) -> [u8; N] {
    bytes.try_into().expect("is of that length")
}

/// Reads an answer up to its empty line.
pub(crate) fn recv_head(client: &Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.recv(1));
    }
    String::from_utf8(head).expect("is text")
}

/// Returns a masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len());
    let key = [0x37, 0xFA, 0x21, 0x3D];
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ key[n % 4]),
    );
    frame
}

/// Returns the header of a masked frame, without its mask.
pub(crate) fn header(first: u8, len: usize) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=0xFFFF => {
            header.push(0x80 | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}
