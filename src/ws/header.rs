//! The header of a frame (RFC 6455, section 5.2).

use super::failure::Failure;
use super::mask::Mask;

/// The maximum length of a header, in bytes.
pub(super) const MAX_HEADER: usize = 14;

/// The maximum length of a control frame's payload, in bytes.
pub(super) const MAX_CONTROL: usize = 125;

/// The side of the connection: a client masks its frames, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        self as u8 >= Opcode::Close as u8
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// True for the last frame of a message.
    pub(super) fin: bool,
    /// True for the first frame of a compressed message (RFC 7692, section 6).
    pub(super) rsv1: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<Mask>,
    /// The length of the payload in bytes.
    pub(super) len: u64,
}

/// The result of parsing the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A header of `size` bytes.
    Whole { header: Header, size: usize },
    /// The header has at least this many bytes.
    Partial { at_least: usize },
}

impl Header {
    /// Parses the header at the start of `src`, which the peer of `role` has sent. Each fault is found as soon as its
    /// byte has arrived.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1002 if it is not a header that this peer may send.
    pub(super) fn parse(src: &[u8], role: Role) -> Result<Parsed, Failure> {
        let Some(&first) = src.first() else {
            return Ok(Parsed::Partial { at_least: 2 });
        };
        if first & 0x30 != 0 {
            return Err(Failure::protocol("a reserved bit is set"));
        }
        let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
            return Err(Failure::protocol("an unknown opcode"));
        };
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        if opcode.is_control() && !fin {
            return Err(Failure::protocol("a control frame is fragmented"));
        }
        let Some(&second) = src.get(1) else {
            return Ok(Parsed::Partial { at_least: 2 });
        };
        let masked = second & 0x80 != 0;
        match role {
            Role::Server if !masked => {
                return Err(Failure::protocol("a client's frame without a mask"));
            }
            Role::Client if masked => {
                return Err(Failure::protocol("a server's frame with a mask"));
            }
            _ => {}
        }
        let short = second & 0x7F;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL {
            return Err(Failure::protocol("a control frame of more than 125 bytes"));
        }
        let width = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let size = 2 + width + if masked { 4 } else { 0 };
        let Some(field) = src.get(2..2 + width) else {
            return Ok(Parsed::Partial { at_least: size });
        };
        let len = match *field {
            [a, b] => u16::from_be_bytes([a, b]).into(),
            [a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => short.into(),
        };
        if len >> 63 != 0 {
            return Err(Failure::protocol("a length with its highest bit set"));
        }
        if (width == 2 && len < 126) || (width == 8 && len < 1 << 16) {
            return Err(Failure::protocol("a length not in its shortest form"));
        }
        let mask = match src.get(2 + width..size) {
            Some(&[a, b, c, d]) => Some(Mask([a, b, c, d])),
            Some(_) => None,
            None => return Ok(Parsed::Partial { at_least: size }),
        };
        let header = Header {
            fin,
            rsv1,
            opcode,
            mask,
            len,
        };
        Ok(Parsed::Whole { header, size })
    }

    /// Writes the header in its shortest form to the start of `dst`, which must be large enough. Returns the length.
    #[inline]
    pub(super) fn write(&self, dst: &mut [u8]) -> usize {
        dst[0] = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let end = match self.len {
            len @ ..=125 => {
                dst[1] = masked | len as u8;
                2
            }
            len @ ..=0xFFFF => {
                dst[1] = masked | 126;
                dst[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                dst[1] = masked | 127;
                dst[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        match self.mask {
            Some(Mask(key)) => {
                dst[end..end + 4].copy_from_slice(&key);
                end + 4
            }
            None => end,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opcodes() -> impl Strategy<Value = Opcode> {
        use Opcode::*;
        prop::sample::select(vec![Continuation, Text, Binary, Close, Ping, Pong])
    }

    fn lengths() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..200u64,
            65_000..66_000u64,
            0..1u64 << 63,
            Just((1 << 63) - 1)
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            opcode in opcodes(), fin: bool, rsv1: bool, len in lengths(), key: [u8; 4], server: bool,
        ) {
            let control = opcode.is_control();
            let header = Header {
                fin: fin || control,
                rsv1,
                opcode,
                mask: server.then_some(Mask(key)),
                len: if control { len % 126 } else { len },
            };
            let role = if server { Role::Server } else { Role::Client };
            let mut bytes = [0xAA; MAX_HEADER + 3];
            let size = header.write(&mut bytes);
            for end in 0..size {
                let parsed = Header::parse(&bytes[..end], role).expect("is the beginning of a header");
                let Parsed::Partial { at_least } = parsed else { panic!("{parsed:?}") };
                prop_assert!(end < at_least && at_least <= size);
            }
            for end in size..bytes.len() {
                let parsed = Header::parse(&bytes[..end], role).expect("is a header");
                prop_assert_eq!(parsed, Parsed::Whole { header, size });
            }
            let other = if server { Role::Client } else { Role::Server };
            prop_assert!(Header::parse(&bytes, other).is_err());
        }

        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>, server: bool) {
            let role = if server { Role::Server } else { Role::Client };
            if let Ok(Parsed::Whole { header, size }) = Header::parse(&bytes, role) {
                // Only the shortest form is accepted, so writing the header must result in the same bytes.
                let mut written = [0; MAX_HEADER];
                prop_assert_eq!(header.write(&mut written), size);
                prop_assert_eq!(&written[..size], &bytes[..size]);
            }
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], what: &str) {
        let failure = Header::parse(bytes, Role::Client).expect_err("is refused");
        assert!(failure.to_string().contains(what), "{failure}");
    }

    #[test]
    fn each_violation_is_found_at_its_first_byte() {
        refused(&[0xA1], "reserved");
        refused(&[0x91], "reserved");
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            refused(&[0x80 | opcode], "opcode");
        }
        for opcode in [8, 9, 10] {
            refused(&[opcode], "fragmented");
            refused(&[0x80 | opcode, 126], "125");
            refused(&[0x80 | opcode, 127], "125");
        }
        refused(&[0x81, 0x80], "mask");
        refused(&[0x81, 126, 0, 125], "shortest");
        refused(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], "shortest");
        refused(&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "highest bit");
    }
}
