use std::net::Ipv4Addr;

use super::wire::{Parts, Reader, text};
use super::{Code, Frame, Hello, MAC, Op, Taken};
use crate::cluster::Error;
use crate::rpc::wire::Sink;

/// The answer to a request.
///
/// A value that an operation leaves out on the wire is its default here: a total of 0, no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The number of the request's operation, known or not.
    pub op: u8,
    /// The result.
    pub code: Code,
    /// The value of the operation.
    pub value: Value<'a>,
}

/// The value that an operation answers with. The [module](super) has the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Nothing but the code.
    None,
    /// GetIp: the address of a client that has an IPv4 address.
    Ip(Option<Ipv4Addr>),
    /// Stat, Multicast, Broadcast and Publish: the number of clients.
    Total(u64),
    /// IsOnline: true if the client is connected.
    Online(bool),
    /// GetState: the number of the [`State`](crate::cluster::State).
    State(u8),
    /// Hello: what the listener tells of itself, with its proof if it has a secret.
    Hello(Hello, Option<[u8; MAC]>),
    /// GetAddr: the address of a client as text. Empty if there is none.
    Addr(&'a str),
    /// GetToken: the token. Empty if there is none.
    Token(&'a str),
    /// Take: the user that was taken over.
    Taken(Taken<'a>),
}

impl<'a> Answer<'a> {
    /// Returns an answer without a value, or with the default of an operation that always has one.
    pub fn new(op: u8, code: Code) -> Self {
        let value = match Op::from_code(op) {
            Some(Op::GetIp) => Value::Ip(None),
            Some(Op::Stat | Op::Multicast | Op::Broadcast | Op::Publish) => Value::Total(0),
            Some(Op::IsOnline) => Value::Online(false),
            Some(Op::GetState) => Value::State(0),
            Some(Op::GetAddr) => Value::Addr(""),
            Some(Op::GetToken) => Value::Token(""),
            _ => Value::None,
        };
        Self { op, code, value }
    }

    /// Reads the body of a frame that a listener sent.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidMessage`] if the body is too short or too long for its operation. The link is sound.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, Error> {
        let mut body = Reader::new(frame.body);
        let code = Code::from_code(body.u16()?);
        let mut answer = Self::new(frame.op, code);
        let left_out = body.is_empty();
        answer.value = match (Op::from_code(frame.op), answer.value) {
            (_, Value::Ip(_)) if !left_out => Value::Ip(Some(body.u32()?.into())),
            (_, Value::Total(_)) if !left_out => Value::Total(body.u64()?),
            (_, Value::Online(_)) => Value::Online(body.u8()? != 0),
            (_, Value::State(_)) => Value::State(body.u8()?),
            (_, Value::Addr(_)) => Value::Addr(text(body.rest())?),
            (_, Value::Token(_)) => Value::Token(text(body.rest())?),
            (Some(Op::Take), _) if !left_out => Value::Taken(Taken::read(body.rest())?),
            (Some(Op::Hello), _) if !left_out => {
                let hello = Hello::read(&mut body)?;
                let has_mac = !body.is_empty();
                let mac = has_mac.then(|| body.array()).transpose()?;
                Value::Hello(hello, mac)
            }
            (_, value) => value,
        };
        body.end()?;
        Ok(answer)
    }

    /// Appends the answer's frame to `dst`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the value is not one of the operation, and [`Error::TooLarge`] if the frame is
    /// longer than [`MAX_FRAME`](super::MAX_FRAME). Then nothing has been appended.
    pub fn encode_into(&self, seq: u64, dst: &mut impl Sink) -> Result<(), Error> {
        let mut parts = Parts::new(0, self.op, seq);
        parts.put(&self.code.code().to_be_bytes());
        let (op, done) = (Op::from_code(self.op), self.code == Code::Done);
        match (op, self.value) {
            (Some(Op::GetIp), Value::Ip(ip)) => {
                if let Some(ip) = ip.filter(|_| done) {
                    parts.put(&ip.octets());
                }
            }
            (Some(Op::Publish), Value::Total(total)) => {
                if done {
                    parts.put(&total.to_be_bytes());
                }
            }
            (Some(Op::Stat | Op::Multicast | Op::Broadcast), Value::Total(total)) => {
                if done && total > 0 {
                    parts.put(&total.to_be_bytes());
                }
            }
            (Some(Op::IsOnline), Value::Online(online)) => parts.put(&[online.into()]),
            (Some(Op::GetState), Value::State(state)) => parts.put(&[state]),
            (Some(Op::Hello), Value::Hello(hello, mac)) => {
                hello.put(&mut parts);
                if let Some(mac) = mac {
                    parts.put(&mac);
                }
            }
            (Some(Op::GetAddr), Value::Addr(text)) | (Some(Op::GetToken), Value::Token(text)) => {
                parts.text = text.as_bytes();
            }
            (Some(Op::Take), Value::Taken(taken)) => parts.packet = taken.as_bytes(),
            (op, Value::None) if Self::may_lack_value(op) => {}
            (_, value) => {
                let problem = format!("{value:?} is not the value of operation {}", self.op);
                return Err(Error::argument("value", problem));
            }
        }
        parts.write(dst)
    }

    /// Returns true if an answer may consist of the code alone.
    fn may_lack_value(op: Option<Op>) -> bool {
        !matches!(op, Some(Op::IsOnline | Op::GetState | Op::Publish))
    }
}
