//! Bytes that form no valid message.

use fastrand::Rng;

use super::kind::Kind;
use super::services::MAX_PAYLOAD;

/// Returns bytes that a server of that kind cannot accept as a message, whatever follows them.
pub(crate) fn of(kind: Kind, rng: &mut Rng) -> Vec<u8> {
    match kind {
        Kind::Echo => noise(rng),
        Kind::Frames => {
            let length = rng.u32(MAX_PAYLOAD as u32 + 1..=u32::MAX);
            [length.to_be_bytes().to_vec(), noise(rng)].concat()
        }
        Kind::Http => http(rng),
        // A size that is too long, or one that is too short for a packet.
        #[cfg(feature = "cluster")]
        Kind::Packets => match rng.bool() {
            true => rng
                .u32(MAX_PAYLOAD as u32 + 6..=u32::MAX)
                .to_be_bytes()
                .to_vec(),
            false => vec![0, 0, 0, 3, 0, 0, 1],
        },
        Kind::Tls => match rng.u32(..3) {
            0 => http(rng),
            // A handshake record without a valid handshake message.
            1 => [&[22, 3, 1, 1, 0][..], &[0xff; 256]].concat(),
            // Not the beginning of a record.
            _ => [b"\x80".to_vec(), noise(rng), vec![0; 8]].concat(),
        },
    }
}

fn http(rng: &mut Rng) -> Vec<u8> {
    let malformed: [&[u8]; 16] = [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\nHost: bare line feeds\n\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: yes\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n",
    ];
    match rng.usize(..malformed.len() + 3) {
        0 => [b"\x80".to_vec(), noise(rng), b"\r\n\r\n".to_vec()].concat(),
        1 => [b"GET /", &[b'a'; 10_000][..]].concat(),
        2 => [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &[b'a'; 20_000][..]].concat(),
        n => malformed[n - 3].to_vec(),
    }
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.usize(1..4000)];
    rng.fill(&mut bytes);
    bytes
}
