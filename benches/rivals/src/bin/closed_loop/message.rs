//! The messages and their expected answers.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::SILENCE;

/// The messages and their answer. A connection sends the messages in turn; all have the same answer.
pub(crate) struct Exchange {
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) answer: Answer,
    /// The handshake of a connection, and a text that its answer must contain. The answer ends with an empty line.
    pub(crate) opening: Option<(Vec<u8>, &'static str)>,
}

pub(crate) struct Answer {
    /// The length of the answer in bytes.
    pub(crate) len: usize,
    /// The beginning of the answer; all of it, unless it depends on the server or the time.
    pub(crate) begin: Vec<u8>,
}

impl Exchange {
    pub(crate) fn echo(size: usize) -> Self {
        Self::answered(payload(size), payload(size))
    }

    pub(crate) fn ping() -> Self {
        Self::answered(b"*1\r\n$4\r\nPING\r\n".to_vec(), b"+PONG\r\n".to_vec())
    }

    /// Returns requests that are all the same.
    pub(crate) fn http(addr: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let message = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        Self::requests(addr, vec![message.into_bytes()])
    }

    /// Returns requests with different heads.
    pub(crate) fn heads(addr: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let heads = include_str!("../../../../heads.txt").trim_end();
        let heads = heads.split("\n\n").map(|head| {
            let lines = head.replace('\n', "\r\n");
            format!("{lines}\r\n\r\n").into_bytes()
        });
        Self::requests(addr, heads.collect())
    }

    /// Sends the first request to the server, to find the length of its answer.
    fn requests(addr: SocketAddr, messages: Vec<Vec<u8>>) -> Result<Self, Box<dyn Error>> {
        let mut stream = connected(addr)?;
        stream.write_all(&messages[0])?;
        let head = head(&mut stream)?;
        let begin = "HTTP/1.1 200 ";
        if !head.starts_with(begin) {
            return Err(format!("the server answers {head:?}").into());
        }
        let len = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .ok_or("the server does not tell the length")?;
        Ok(Self {
            messages,
            answer: Answer {
                len: head.len() + len.1.trim().parse::<usize>()?,
                begin: begin.into(),
            },
            opening: None,
        })
    }

    /// Returns the opening handshake (RFC 6455, section 4.1) and a binary message of one frame.
    pub(crate) fn websocket(size: usize) -> Self {
        let opening = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = [frame_header(size, 0), payload(size)].concat();
        Self {
            opening: Some((opening.into(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            ..Self::answered(masked(&payload(size)), answer)
        }
    }

    fn answered(message: Vec<u8>, answer: Vec<u8>) -> Self {
        Self {
            messages: vec![message],
            answer: Answer {
                len: answer.len(),
                begin: answer,
            },
            opening: None,
        }
    }

    /// Connects, and performs the handshake, if there is one.
    pub(crate) fn connect(&self, addr: SocketAddr) -> Result<mio::net::TcpStream, Box<dyn Error>> {
        let mut stream = connected(addr)?;
        if let Some((opening, wanted)) = &self.opening {
            stream.write_all(opening)?;
            let answer = head(&mut stream)?;
            if !answer.contains(wanted) {
                return Err(format!("the server answers {answer:?}").into());
            }
        }
        stream.set_nonblocking(true)?;
        Ok(mio::net::TcpStream::from_std(stream))
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n * 7 + n / 64) as u8).collect()
}

fn connected(addr: SocketAddr) -> Result<TcpStream, Box<dyn Error>> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Reads up to the first empty line.
fn head(stream: &mut TcpStream) -> Result<String, Box<dyn Error>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

/// Returns a binary message of one frame, masked as a client's must be (RFC 6455, section 5.3).
fn masked(payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = frame_header(payload.len(), 0x80);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// Returns the header of a final binary frame of `len` bytes, with the shortest form of its length.
fn frame_header(len: usize, mask_bit: u8) -> Vec<u8> {
    let mut header = vec![0x82];
    match len {
        0..126 => header.push(mask_bit | len as u8),
        126..0x1_0000 => {
            header.push(mask_bit | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}
