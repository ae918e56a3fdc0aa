//! The client's side of the SOCKS5 handshake (RFC 1928 and RFC 1929).

use super::{Dialogue, Refused, Target, Via};
use crate::gateway::egress::Host;

const VERSION: u8 = 5;
const NONE: u8 = 0;
const PASSWORD: u8 = 2;

/// A negotiation with a SOCKS5 proxy.
#[derive(Default)]
pub(super) struct Socks5 {
    stage: Stage,
    /// The beginning of a message that is not complete. Messages have at most 262 bytes.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Greeting,
    Method,
    Credentials,
    Reply,
}

impl Socks5 {
    fn greet(&mut self, via: &Via, send: &mut Vec<u8>) {
        match via.user() {
            None => send.extend([VERSION, 1, NONE]),
            Some(_) => send.extend([VERSION, 2, NONE, PASSWORD]),
        }
        self.stage = Stage::Method;
    }

    fn tell_password(&mut self, via: &Via, send: &mut Vec<u8>) -> Result<(), Refused> {
        let (name, password) = via.user().ok_or(Refused::Method)?;
        send.push(1);
        for field in [name, password] {
            // Their lengths were checked.
            send.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
            send.extend(field);
        }
        self.stage = Stage::Credentials;
        Ok(())
    }

    fn ask(&mut self, target: &Target, send: &mut Vec<u8>) {
        send.extend([VERSION, 1, 0]);
        match &target.host {
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
        send.extend(target.port.to_be_bytes());
        self.stage = Stage::Reply;
    }

    /// Takes a message, if it is complete. Returns its length, and true if the negotiation is over.
    fn message(
        &mut self,
        via: &Via,
        target: &Target,
        send: &mut Vec<u8>,
    ) -> Result<Option<(usize, bool)>, Refused> {
        match (self.stage, &*self.held) {
            (Stage::Method, &[version, ..]) if version != VERSION => {
                Err(Refused::malformed("it speaks another protocol than SOCKS5"))
            }
            (Stage::Method, &[_, method, ..]) => {
                match method {
                    NONE => self.ask(target, send),
                    PASSWORD => self.tell_password(via, send)?,
                    _ => return Err(Refused::Method),
                }
                Ok(Some((2, false)))
            }
            (Stage::Credentials, &[_, status, ..]) => match status {
                0 => {
                    self.ask(target, send);
                    Ok(Some((2, false)))
                }
                _ => Err(Refused::Password),
            },
            (Stage::Reply, &[version, ..]) if version != VERSION => {
                Err(Refused::malformed("its reply is none of SOCKS5"))
            }
            (Stage::Reply, &[_, code, ..]) if code != 0 => Err(Refused::Reply(code)),
            (Stage::Reply, &[_, _, _, kind, len, ..]) => {
                let address = match kind {
                    1 => 4,
                    4 => 16,
                    3 => 1 + usize::from(len),
                    _ => {
                        return Err(Refused::malformed(
                            "the address in its reply is of no known kind",
                        ));
                    }
                };
                let end = 4 + address + 2;
                Ok((self.held.len() >= end).then_some((end, true)))
            }
            _ => Ok(None),
        }
    }
}

impl Dialogue for Socks5 {
    fn take(
        &mut self,
        via: &Via,
        target: &Target,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refused> {
        if self.stage == Stage::Greeting {
            self.greet(via, send);
        }
        let mut taken = 0;
        loop {
            let before = self.held.len();
            self.held.extend_from_slice(&received[taken..]);
            let Some((len, is_over)) = self.message(via, target, send)? else {
                return Ok(None);
            };
            taken += len - before;
            self.held.clear();
            if is_over {
                return Ok(Some(taken));
            }
        }
    }
}
