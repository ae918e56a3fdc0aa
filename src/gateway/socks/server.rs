use std::net::SocketAddr;

use super::wire::{
    self, Address, Command, Method, NO_METHOD, Parsed, ReplyCode, VERSION, malformed,
};
use crate::buf::outbox::Outbox;
use crate::codec::{Codec, Decoded, Encode, FrameError};
use crate::gateway::egress::{Host, Target, TargetError};

/// The server's side of the SOCKS5 handshake (RFC 1928 and RFC 1929).
///
/// The frames come in the order of [`SocksFrame`]'s variants. The handler answers each of them with the item that its
/// documentation names. After the [request](SocksFrame::Request) there are no further frames: what the client sends from
/// then on belongs to the target, and [`Conn::pipe`](crate::Conn::pipe) passes it on.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, encode_to_vec};
/// use epicycle::gateway::socks::{SocksAnswer, SocksFrame, SocksServer};
///
/// let mut socks = SocksServer::new(false);
/// let mut greeting = *b"\x05\x01\x00";
/// let Decoded::Frame { frame: SocksFrame::Greeting(method), .. } = socks.decode(&mut greeting)? else {
///     panic!("it is complete");
/// };
/// assert_eq!(encode_to_vec(&mut socks, SocksAnswer::Method(method))?, b"\x05\x00");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SocksServer {
    stage: Stage,
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Credentials,
    Request,
    Done,
}

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocksFrame<'a> {
    /// The client tells how it can prove who it is. Answer with [`SocksAnswer::Method`].
    Greeting(Choice),
    /// A user name and a password. Answer with [`SocksAnswer::Credentials`].
    Credentials {
        /// The user name, of 1 to 255 bytes.
        user: &'a [u8],
        /// The password, of 1 to 255 bytes.
        password: &'a [u8],
    },
    /// The request. Answer with [`SocksAnswer::Reply`].
    Request(Asked),
}

/// The choice among the methods that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(u8);

impl Choice {
    /// Returns false if the client offers no method that is accepted here. It must be told so, and then closed.
    pub fn is_acceptable(self) -> bool {
        self.0 != NO_METHOD
    }
}

/// The request of a client, as far as it makes sense.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// A command for a target. It is no `BIND`.
    Command(Command, Target),
    /// A connection from this host. If the port is not 0, it must come from that. The unspecified address stands for any host.
    Bind(Host, u16),
    /// A command whose address has port 0, as `UDP ASSOCIATE` has it if the client does not know its own yet. The host of a
    /// `UDP ASSOCIATE` may also be none at all.
    Portless(Command),
    /// A command that does not exist. The reply is [`ReplyCode::CommandNotSupported`].
    UnknownCommand,
    /// An address of a kind that does not exist. The reply is [`ReplyCode::AddressNotSupported`].
    UnknownAddress,
    /// A host that is no host. The reply is [`ReplyCode::HostUnreachable`].
    BadHost(TargetError),
}

/// An answer to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocksAnswer {
    /// The method that was chosen.
    Method(Choice),
    /// True if the credentials are right. After `false` the connection must be closed (RFC 1929, section 2).
    Credentials(bool),
    /// The result of the request, and the address that the server has towards the target.
    Reply(ReplyCode, SocketAddr),
}

impl SocksServer {
    /// Returns the codec of a new connection. With `wants_password` a client must offer a user name and a password; otherwise
    /// it must offer to do without.
    pub fn new(wants_password: bool) -> Self {
        Self {
            stage: Stage::Greeting,
            method: match wants_password {
                true => Method::Password,
                false => Method::None,
            },
        }
    }

    fn greeting(&mut self, src: &[u8]) -> Result<Decoded<SocksFrame<'static>>, FrameError> {
        let [version, rest @ ..] = src else {
            return Ok(Decoded::NeedMore { at_least: 2 });
        };
        if *version != VERSION {
            return malformed("another version than SOCKS5");
        }
        let Some((&count, methods)) = rest.split_first() else {
            return Ok(Decoded::NeedMore { at_least: 2 });
        };
        let end = 2 + usize::from(count);
        let Some(methods) = methods.get(..usize::from(count)) else {
            return Ok(Decoded::NeedMore { at_least: end });
        };
        let choice = match methods.contains(&self.method.code()) {
            true => Choice(self.method.code()),
            false => Choice(NO_METHOD),
        };
        self.stage = match (choice.is_acceptable(), self.method) {
            (false, _) => Stage::Done,
            (true, Method::None) => Stage::Request,
            (true, Method::Password) => Stage::Credentials,
        };
        Ok(Decoded::Frame {
            frame: SocksFrame::Greeting(choice),
            consumed: end,
        })
    }

    fn credentials<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<SocksFrame<'a>>, FrameError> {
        if src[0] != 1 {
            return malformed("another version of the password negotiation than 1");
        }
        let field = |at: usize| -> Result<Option<&'a [u8]>, usize> {
            let len = usize::from(*src.get(at).ok_or(at + 1)?);
            src.get(at + 1..at + 1 + len).map(Some).ok_or(at + 1 + len)
        };
        let read = field(1).and_then(|user| {
            let user = user.unwrap_or_default();
            let password = field(2 + user.len())?.unwrap_or_default();
            Ok((user, password))
        });
        let (user, password) = match read {
            Ok(both) => both,
            Err(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        if user.is_empty() || password.is_empty() {
            return malformed("an empty user name or password");
        }
        self.stage = Stage::Request;
        Ok(Decoded::Frame {
            frame: SocksFrame::Credentials { user, password },
            consumed: 3 + user.len() + password.len(),
        })
    }

    fn request(&mut self, src: &[u8]) -> Result<Decoded<SocksFrame<'static>>, FrameError> {
        if src[0] != VERSION {
            return malformed("another version than SOCKS5 in the request");
        }
        if src.get(2).is_some_and(|reserved| *reserved != 0) {
            return malformed("a reserved byte that is not 0");
        }
        let (address, consumed) = match wire::address(src, 3) {
            Parsed::Part(address, end) => (address, end),
            Parsed::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        self.stage = Stage::Done;
        let asked = match (Command::of(src[1]), address) {
            (_, Address::UnknownKind) => Asked::UnknownAddress,
            (None, _) => Asked::UnknownCommand,
            // The address from which a client sends datagrams counts only if it is one.
            (Some(Command::UdpAssociate), Address::Bad(_)) => {
                Asked::Portless(Command::UdpAssociate)
            }
            (_, Address::Bad(error)) => Asked::BadHost(error),
            (Some(Command::Bind), Address::Host(host, port)) => Asked::Bind(host, port),
            (Some(command), Address::Host(_, 0)) => Asked::Portless(command),
            (Some(command), Address::Host(host, port)) => {
                Asked::Command(command, Target { host, port })
            }
        };
        Ok(Decoded::Frame {
            frame: SocksFrame::Request(asked),
            consumed,
        })
    }
}

impl Codec for SocksServer {
    type Frame<'a> = SocksFrame<'a>;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<SocksFrame<'a>>, FrameError> {
        match self.stage {
            Stage::Greeting => self.greeting(src),
            Stage::Credentials => self.credentials(src),
            Stage::Request => self.request(src),
            Stage::Done => Ok(Decoded::NeedMore {
                at_least: src.len() + 1,
            }),
        }
    }
}

impl Encode<SocksAnswer> for SocksServer {
    fn encode(&mut self, answer: SocksAnswer, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        match answer {
            SocksAnswer::Method(Choice(code)) => dst.put(&[VERSION, code]),
            SocksAnswer::Credentials(are_right) => dst.put(&[1, u8::from(!are_right)]),
            SocksAnswer::Reply(code, addr) => {
                dst.put(&[VERSION, code.code(), 0]);
                wire::put_addr(addr, dst);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encode_to_vec;

    /// Decodes all frames, given the input in pieces that end at these places. Returns them as text, and what is left.
    fn frames(wants_password: bool, input: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
        let mut socks = SocksServer::new(wants_password);
        let (mut shown, mut held) = (Vec::new(), Vec::new());
        let mut at = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            held.extend_from_slice(&input[at..cut]);
            at = cut;
            while !held.is_empty() {
                let consumed = match socks.decode(&mut held) {
                    Ok(Decoded::Frame { frame, consumed }) => {
                        shown.push(format!("{frame:?}"));
                        consumed
                    }
                    Ok(Decoded::NeedMore { at_least }) => {
                        assert!(at_least > held.len());
                        break;
                    }
                    Ok(_) => panic!("neither holds nor skips"),
                    Err(error) => {
                        shown.push(error.to_string());
                        return (shown, held);
                    }
                };
                held.drain(..consumed);
            }
        }
        (shown, held)
    }

    const CONNECT: &[u8] = b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.org\x01\xbbpayload";

    #[test]
    fn a_handshake_is_the_same_at_every_cut_and_leaves_the_payload() {
        let whole = frames(false, CONNECT, &[]);
        assert_eq!(whole.0.len(), 2);
        assert!(
            whole.0[1].contains("Name(\"example.org\"), port: 443"),
            "{}",
            whole.0[1]
        );
        assert_eq!(whole.1, b"payload");
        for cut in 1..CONNECT.len() {
            assert_eq!(frames(false, CONNECT, &[cut]), whole, "{cut}");
        }
        let all: Vec<usize> = (1..CONNECT.len()).collect();
        assert_eq!(frames(false, CONNECT, &all), whole);
    }

    #[test]
    fn a_password_is_wanted_or_not_and_nothing_in_between() {
        let offered =
            b"\x05\x02\x00\x02\x01\x04user\x04pass\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50";
        let (shown, _) = frames(true, offered, &[]);
        assert_eq!(shown.len(), 3, "{shown:?}");
        let (shown, _) = frames(true, CONNECT, &[]);
        assert_eq!(
            shown,
            [format!("{:?}", SocksFrame::Greeting(Choice(NO_METHOD)))]
        );
        let (shown, _) = frames(false, b"\x05\x01\x02", &[]);
        assert_eq!(
            shown,
            [format!("{:?}", SocksFrame::Greeting(Choice(NO_METHOD)))]
        );
        let (shown, _) = frames(false, b"\x05\x00", &[]);
        assert_eq!(
            shown,
            [format!("{:?}", SocksFrame::Greeting(Choice(NO_METHOD)))]
        );
    }

    #[test]
    fn bad_input_ends_the_handshake_or_gets_a_reply() {
        for (input, expected) in [
            (&b"\x04\x01\x00\x50"[..], "another version than SOCKS5"),
            (b"GET / HTTP/1.1\r\n", "another version than SOCKS5"),
            (
                b"\x05\x01\x00\x04\x01\x00\x01",
                "another version than SOCKS5 in the request",
            ),
            (
                b"\x05\x01\x00\x05\x01\x01\x01",
                "a reserved byte that is not 0",
            ),
            (b"\x05\x01\x00\x05\x01\x00\x05", "UnknownAddress"),
            (
                b"\x05\x01\x00\x05\x09\x00\x01\x01\x01\x01\x01\x00\x50",
                "UnknownCommand",
            ),
            (
                b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
                "Portless(UdpAssociate)",
            ),
            (
                b"\x05\x01\x00\x05\x03\x00\x03\x010\x12\x34",
                "Portless(UdpAssociate)",
            ),
            (
                b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x00",
                "Bind(Ip(127.0.0.1), 0)",
            ),
            (b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", "BadHost"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x05127.1\x00\x50", "BadHost"),
            (
                b"\x05\x01\x00\x05\x01\x00\x03\x0a127.0.0.1\x00\x00\x50",
                "BadHost",
            ),
        ] {
            let (shown, _) = frames(false, input, &[]);
            let last = shown.last().expect("there is one");
            assert!(last.contains(expected), "{last} for {input:x?}");
        }
        let (shown, _) = frames(true, b"\x05\x01\x02\x01\x00\x00", &[]);
        assert!(shown[1].contains("empty user name"));
        let (shown, _) = frames(true, b"\x05\x01\x02\x05\x01", &[]);
        assert!(shown[1].contains("password negotiation"));
    }

    #[test]
    fn answers_are_what_the_documents_say() {
        let mut socks = SocksServer::new(true);
        let mut encoded = |answer| encode_to_vec(&mut socks, answer).expect("always fits");
        assert_eq!(encoded(SocksAnswer::Method(Choice(2))), b"\x05\x02");
        assert_eq!(encoded(SocksAnswer::Credentials(true)), b"\x01\x00");
        assert_eq!(encoded(SocksAnswer::Credentials(false)), b"\x01\x01");
        let addr = "[::1]:258".parse().expect("is an address");
        assert_eq!(
            encoded(SocksAnswer::Reply(ReplyCode::Refused, addr)),
            b"\x05\x05\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_alike(
            input in prop::collection::vec(prop_oneof![0..6_u8, any::<u8>()], 0..64),
            cuts in prop::collection::vec(0..64_usize, 0..4),
            wants_password: bool,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= input.len()).collect();
            cuts.sort_unstable();
            prop_assert_eq!(frames(wants_password, &input, &cuts).0, frames(wants_password, &input, &[]).0);
        }
    }
}
