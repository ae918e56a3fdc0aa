//! Calls with the message of 581 bytes, without the engine: in Teleport's raw protocol, or as frames with a length field.

use std::error::Error;

use clap::{Parser, ValueEnum};
use prost::Message;
use rpc_bench::load::{Dialogue, Flags, run_with};
use rpc_bench::message::BenchmarkMessage;

/// Loads a server with calls, and measures the cost to the server
#[derive(Parser)]
struct Arguments {
    /// The protocol
    protocol: Wire,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wire {
    /// Teleport's raw protocol of v4.1: CALLs to /bench
    Raw,
    /// `u32 length | message`, which the server sends back
    LengthField,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let body = BenchmarkMessage::request().encode_to_vec();
    let answered = BenchmarkMessage::request().answered().encode_to_vec();
    match arguments.protocol {
        Wire::Raw => run_with(&arguments.flags, |_| Raw {
            body: body.clone(),
            answered: answered.clone(),
            seq: 0,
        }),
        Wire::LengthField => run_with(&arguments.flags, |_| LengthField {
            frame: [&(body.len() as u32).to_be_bytes(), &body[..]].concat(),
        }),
    }
}

/// `u32 size | 'r' | 0 | u16 seqlen, seq | type | u16 urilen, uri | u16 metalen | codec | body`
struct Raw {
    body: Vec<u8>,
    answered: Vec<u8>,
    seq: u64,
}

impl Raw {
    fn message(&self, kind: u8, uri: &[u8], body: &[u8]) -> Vec<u8> {
        let seq = self.seq.to_string();
        let size = 4 + 2 + 2 + seq.len() + 1 + 2 + uri.len() + 2 + 1 + body.len();
        let parts: [&[u8]; 8] = [
            &(size as u32).to_be_bytes(),
            b"r\0",
            &(seq.len() as u16).to_be_bytes(),
            seq.as_bytes(),
            &[kind],
            &(uri.len() as u16).to_be_bytes(),
            uri,
            b"\0\0p",
        ];
        [&parts.concat(), body].concat()
    }
}

impl Dialogue for Raw {
    fn call(&mut self, out: &mut Vec<u8>) {
        self.seq += 1;
        out.extend(self.message(1, b"/bench", &self.body));
    }

    fn receive(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<(usize, bool), String> {
        let Some((size, _)) = input.split_first_chunk() else {
            return Ok((0, false));
        };
        let size = u32::from_be_bytes(*size) as usize;
        let Some(reply) = input.get(..size) else {
            return Ok((0, false));
        };
        // A handler on encoded bodies echoes.
        let due = [&self.answered, &self.body].map(|body| self.message(2, b"", body));
        if !due.iter().any(|due| due == reply) {
            return Err(format!("the server answers {}", reply.escape_ascii()));
        }
        Ok((size, true))
    }
}

struct LengthField {
    frame: Vec<u8>,
}

impl Dialogue for LengthField {
    fn call(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.frame);
    }

    fn receive(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<(usize, bool), String> {
        let len = self.frame.len();
        match input.get(..len) {
            None => Ok((0, false)),
            Some(frame) if frame == self.frame => Ok((len, true)),
            Some(frame) => Err(format!("the server answers {}", frame.escape_ascii())),
        }
    }
}
