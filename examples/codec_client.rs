//! Sends frames to the example `codec_server` over an ordinary blocking socket, and checks the answers.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use epicycle::Endpoint;
use epicycle::codec::{Codec, Decoded, LengthField, encode_to_vec};
use socket2::Socket;

/// A client for codec_server
#[derive(Parser)]
struct Flags {
    /// The server: tcp://HOST:PORT or unix://PATH
    #[arg(long, default_value = "tcp://127.0.0.1:9000")]
    addr: Endpoint,
    /// The number of frames to send
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,
}

/// A connection that sends and receives frames.
struct Client {
    stream: Socket,
    codec: LengthField,
    /// Received bytes that the codec has not consumed.
    input: Vec<u8>,
}

impl Client {
    fn connect(addr: &Endpoint) -> Result<Self, Box<dyn Error>> {
        let problem = |error| format!("cannot connect to {addr}: {error}");
        let stream: Socket = match addr {
            Endpoint::Tcp { .. } => {
                let addrs = addr.resolve()?;
                let stream = TcpStream::connect(&addrs[..]).map_err(problem)?;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Endpoint::Unix(path) => UnixStream::connect(path).map_err(problem)?.into(),
            _ => return Err(format!("{addr} is not a stream; use tcp:// or unix://").into()),
        };
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            codec: LengthField::default(),
            input: Vec::new(),
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Box<dyn Error>> {
        let frame = encode_to_vec(&mut self.codec, payload)?;
        Ok(self.stream.write_all(&frame)?)
    }

    fn receive(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut chunk = [0; 4096];
        loop {
            // A codec must not be called without input.
            if !self.input.is_empty()
                && let Decoded::Frame { frame, consumed } = self.codec.decode(&mut self.input)?
            {
                let payload = frame.to_vec();
                self.input.drain(..consumed);
                return Ok(payload);
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err("the server has closed the connection".into()),
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

fn run(flags: &Flags) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(&flags.addr)?;
    let start = Instant::now();
    for n in 0..flags.count {
        // Short and long payloads.
        let payload = format!("frame {n} {}", "x".repeat(n as usize % 10_000));
        client.send(payload.as_bytes())?;
        if client.receive()? != payload.to_ascii_uppercase().as_bytes() {
            return Err(format!("the answer to frame {n} is wrong").into());
        }
    }
    println!(
        "codec_client: {} frames, all answers are right, in {:.1?}",
        flags.count,
        start.elapsed()
    );
    Ok(())
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("codec_client: {error}");
            ExitCode::FAILURE
        }
    }
}
