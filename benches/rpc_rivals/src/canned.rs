//! Calls and replies that are encoded beforehand, but for the number of the call.

use rpc_bench::load::Dialogue;

/// The number that a template is encoded with. It takes the same room as all numbers up to 4,294,967,295 in each encoding
/// that is used here.
pub const PLACEHOLDER: u32 = 1_122_334_455;

/// The encoding of a number.
#[derive(Clone, Copy)]
pub enum Number {
    LittleEndian,
    BigEndian,
    Decimal,
}

impl Number {
    fn len(self) -> usize {
        match self {
            Self::LittleEndian | Self::BigEndian => 4,
            Self::Decimal => 10,
        }
    }

    fn write(self, mut number: u32, out: &mut [u8]) {
        match self {
            Self::LittleEndian => out.copy_from_slice(&number.to_le_bytes()),
            Self::BigEndian => out.copy_from_slice(&number.to_be_bytes()),
            Self::Decimal => {
                for digit in out.iter_mut().rev() {
                    *digit = b'0' + (number % 10) as u8;
                    number /= 10;
                }
            }
        }
    }
}

/// A message with the number of a call in it.
#[derive(Clone)]
pub struct Numbered {
    bytes: Vec<u8>,
    at: usize,
    encoding: Number,
}

impl Numbered {
    /// Takes a message that is encoded with the number `PLACEHOLDER`.
    ///
    /// # Panics
    ///
    /// If it is not in there.
    #[must_use]
    pub fn new(bytes: Vec<u8>, encoding: Number) -> Self {
        let mut wanted = vec![0; encoding.len()];
        encoding.write(PLACEHOLDER, &mut wanted);
        let at = bytes
            .windows(wanted.len())
            .position(|part| part == wanted)
            .expect("the message has the number");
        Self {
            bytes,
            at,
            encoding,
        }
    }

    fn set(&mut self, number: u32) -> &[u8] {
        let end = self.at + self.encoding.len();
        self.encoding.write(number, &mut self.bytes[self.at..end]);
        &self.bytes
    }
}

/// A client that sends a call, and compares the reply with the expected one.
#[derive(Clone)]
pub struct Canned {
    call: Numbered,
    reply: Numbered,
    number: u32,
    opening: Vec<u8>,
    /// The bytes at which the answer to the opening ends. They are consumed with it.
    opened_at: &'static [u8],
}

impl Canned {
    #[must_use]
    pub fn new(call: Numbered, reply: Numbered) -> Self {
        Self {
            call,
            reply,
            number: 1_000_000_000,
            opening: Vec::new(),
            opened_at: b"",
        }
    }

    /// Sends something in front of the first call.
    #[must_use]
    pub fn opened_by(mut self, opening: Vec<u8>, opened_at: &'static [u8]) -> Self {
        self.opening = opening;
        self.opened_at = opened_at;
        self
    }
}

impl Dialogue for Canned {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.opening);
    }

    fn call(&mut self, out: &mut Vec<u8>) {
        self.number += 1;
        out.extend_from_slice(self.call.set(self.number));
    }

    fn receive(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<(usize, bool), String> {
        if !self.opened_at.is_empty() {
            let len = self.opened_at.len();
            let Some(at) = input.windows(len).position(|part| part == self.opened_at) else {
                return Ok((0, false));
            };
            self.opened_at = b"";
            return Ok((at + len, false));
        }
        let reply = self.reply.set(self.number);
        let Some(come) = input.get(..reply.len()) else {
            return Ok((0, false));
        };
        if come != reply {
            return Err(format!("the server answers {}", come.escape_ascii()));
        }
        Ok((come.len(), true))
    }
}
