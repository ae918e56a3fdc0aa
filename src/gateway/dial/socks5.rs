//! The client's side of the SOCKS5 handshake (RFC 1928 and RFC 1929).

use std::error::Error as StdError;

use super::error::{Refused, ViaFailure};
use super::{Target, Via};
use crate::engine::connect::negotiation::Negotiation;
use crate::gateway::egress::Host;

const VERSION: u8 = 5;
const NONE: u8 = 0;
const PASSWORD: u8 = 2;

/// A negotiation with a SOCKS5 proxy.
pub(super) struct Socks5 {
    via: Via,
    target: Target,
    stage: Stage,
    /// The beginning of a message that is not complete. Messages have at most 262 bytes.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Method,
    Credentials,
    Reply,
}

impl Socks5 {
    pub(super) fn new(via: Via, target: Target) -> Self {
        Self {
            via,
            target,
            stage: Stage::Greeting,
            held: Vec::new(),
        }
    }

    fn greet(&mut self, send: &mut Vec<u8>) {
        match self.via.user() {
            None => send.extend([VERSION, 1, NONE]),
            Some(_) => send.extend([VERSION, 2, NONE, PASSWORD]),
        }
        self.stage = Stage::Method;
    }

    fn tell_password(&mut self, send: &mut Vec<u8>) -> Result<(), Refused> {
        let (name, password) = self.via.user().ok_or(Refused::Method)?;
        send.push(1);
        for field in [name, password] {
            // Their lengths were checked.
            send.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
            send.extend(field);
        }
        self.stage = Stage::Credentials;
        Ok(())
    }

    fn ask(&mut self, send: &mut Vec<u8>) {
        send.extend([VERSION, 1, 0]);
        match &self.target.host {
            Host::Ip(std::net::IpAddr::V4(ip)) => {
                send.push(1);
                send.extend(ip.octets());
            }
            Host::Ip(std::net::IpAddr::V6(ip)) => {
                send.push(4);
                send.extend(ip.octets());
            }
            Host::Name(name) => {
                // A name has at most 253 bytes.
                send.extend([3, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
                send.extend(name.bytes());
            }
        }
        send.extend(self.target.port.to_be_bytes());
        self.stage = Stage::Reply;
    }

    /// Takes a message, if it is complete. Returns its length, and true if the negotiation is over.
    fn message(&mut self, send: &mut Vec<u8>) -> Result<Option<(usize, bool)>, Refused> {
        match (self.stage, &*self.held) {
            (Stage::Method, &[version, ..]) if version != VERSION => {
                Err(malformed("it speaks another protocol than SOCKS5"))
            }
            (Stage::Method, &[_, method, ..]) => {
                match method {
                    NONE => self.ask(send),
                    PASSWORD => self.tell_password(send)?,
                    _ => return Err(Refused::Method),
                }
                Ok(Some((2, false)))
            }
            (Stage::Credentials, &[_, status, ..]) => match status {
                0 => {
                    self.ask(send);
                    Ok(Some((2, false)))
                }
                _ => Err(Refused::Password),
            },
            (Stage::Reply, &[version, ..]) if version != VERSION => {
                Err(malformed("its reply is none of SOCKS5"))
            }
            (Stage::Reply, &[_, code, ..]) if code != 0 => Err(Refused::Reply(code)),
            (Stage::Reply, &[_, _, _, kind, len, ..]) => {
                let address = match kind {
                    1 => 4,
                    4 => 16,
                    3 => 1 + usize::from(len),
                    _ => return Err(malformed("the address in its reply is of no known kind")),
                };
                let end = 4 + address + 2;
                Ok((self.held.len() >= end).then_some((end, true)))
            }
            _ => Ok(None),
        }
    }

    fn take(&mut self, received: &[u8], send: &mut Vec<u8>) -> Result<Option<usize>, Refused> {
        if self.stage == Stage::Greeting {
            self.greet(send);
        }
        let mut taken = 0;
        loop {
            let before = self.held.len();
            self.held.extend_from_slice(&received[taken..]);
            let Some((len, is_over)) = self.message(send)? else {
                return Ok(None);
            };
            taken += len - before;
            self.held.clear();
            if is_over {
                return Ok(Some(taken));
            }
        }
    }

    fn failure(&self, refused: Refused) -> ViaFailure {
        ViaFailure {
            via: self.via.clone(),
            target: self.target.clone(),
            refused,
        }
    }
}

impl Negotiation for Socks5 {
    fn advance(
        &mut self,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Box<dyn StdError + Send + Sync>> {
        let taken = self.take(received, send);
        taken.map_err(|refused| self.failure(refused).into())
    }

    fn cut(&self) -> Box<dyn StdError + Send + Sync> {
        self.failure(Refused::Cut).into()
    }
}

fn malformed(what: &'static str) -> Refused {
    Refused::Malformed { what }
}
