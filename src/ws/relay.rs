//! A codec for relays: WebSocket frames that go from one connection to another as they are.

use super::close::Close;
use super::failure::CloseCode;
use super::frame::{self, Kind};
use super::header::{Header, MAX_CONTROL, Opcode, Parsed, Role};
use crate::buf::outbox::Outbox;
use crate::codec::{Backpressure, CloseCause, Codec, Decoded, Encode, FrameError, Stage};

/// A codec for a relay, one for each side of it, after the handshake. [Send](crate::Conn::send) each [`Relayed`] part to the other
/// side.
///
/// Frames are passed on as they come: in parts, with their masks and extensions, and without a limit of their length. The codec
/// knows only where they begin and end. So this side can close either connection properly, between two frames: it sends a Close
/// with 1001 when the server shuts down, when a timeout expires, or when the other side has gone; with 1002 for what is no
/// frame; and nothing after the Close of a peer. A shutdown waits for the end of a frame that is on its way.
///
/// [`read_timeout`](crate::Server::read_timeout) limits the time for which a frame may stand still.
#[derive(Debug)]
pub struct RelayCodec {
    role: Role,
    /// The bytes that the frame which is being received still lacks.
    missing: u64,
    receives_close: bool,
    /// True while a part of a frame has been sent whose rest has not.
    is_amid: bool,
    sent_close: bool,
}

/// A part of a stream of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed<'a> {
    bytes: &'a [u8],
    ends_frame: bool,
    ends_close: bool,
}

impl Relayed<'_> {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns true if it has no bytes. A codec returns no such part.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl RelayCodec {
    /// Returns the codec for the side of the client, whose frames are masked.
    pub fn for_client() -> Self {
        Self::new(Role::Server)
    }

    /// Returns the codec for the side of the server.
    pub fn for_server() -> Self {
        Self::new(Role::Client)
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            missing: 0,
            receives_close: false,
            is_amid: false,
            sent_close: false,
        }
    }
}

impl Codec for RelayCodec {
    type Frame<'a> = Relayed<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Relayed<'a>>, FrameError> {
        if src.is_empty() {
            return Ok(Decoded::NeedMore { at_least: 1 });
        }
        let mut taken = 0;
        // As many frames as there are go on in one part, up to a Close.
        loop {
            let rest = src.len() - taken;
            if self.missing > 0 {
                let now = usize::try_from(self.missing).map_or(rest, |missing| missing.min(rest));
                taken += now;
                self.missing -= now as u64;
                if self.missing > 0 {
                    break;
                }
                if self.receives_close {
                    break;
                }
                continue;
            }
            match Header::parse(&src[taken..], self.role).map_err(|failure| failure.error) {
                Ok(Parsed::Whole { header, size }) => {
                    taken += size;
                    self.missing = header.len;
                    self.receives_close = header.opcode == Opcode::Close;
                    if self.receives_close && header.len == 0 {
                        break;
                    }
                }
                // The bytes before a fault, or before a partial header, go on first.
                _ if taken > 0 => break,
                Ok(Parsed::Partial { at_least }) => return Ok(Decoded::NeedMore { at_least }),
                Err(error) => return Err(error),
            }
        }
        let ends_frame = self.missing == 0;
        Ok(Decoded::Frame {
            frame: Relayed {
                bytes: &src[..taken],
                ends_frame,
                ends_close: ends_frame && self.receives_close,
            },
            consumed: taken,
        })
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        if self.sent_close || self.is_amid {
            return;
        }
        let code = match cause {
            CloseCause::Malformed(_) => CloseCode::PROTOCOL,
            CloseCause::Panic | CloseCause::Failed | CloseCause::Unanswered => CloseCode::INTERNAL,
            _ => CloseCode::GOING_AWAY,
        };
        let mut payload = [0; MAX_CONTROL];
        let len = Close::new(code, "").write(&mut payload);
        frame::put(self.role, Kind::whole(Opcode::Close), &payload[..len], dst);
        self.sent_close = true;
    }

    fn backpressure(&self) -> Backpressure {
        // The output is not caused by the input, but by the other side.
        Backpressure::ReadOn
    }

    fn stage(&self) -> Stage {
        match (self.missing > 0, self.is_amid) {
            // The other side waits for the rest.
            (true, _) => Stage::Streaming,
            (false, true) => Stage::Answering,
            (false, false) => Stage::Idle,
        }
    }
}

impl Encode<Relayed<'_>> for RelayCodec {
    fn encode(&mut self, part: Relayed<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        // Nothing follows a Close (RFC 6455, section 5.5.1).
        if self.sent_close {
            return Ok(());
        }
        dst.put(part.bytes);
        self.is_amid = !part.ends_frame;
        self.sent_close = part.ends_close;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{close_notice_to_vec, encode_to_vec};

    /// Returns a frame of a client, with a mask, or of a server.
    fn framed(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
        let mask = u8::from(masked) << 7;
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            len @ ..=125 => bytes.push(mask | len as u8),
            len @ ..=0xFFFF => {
                bytes.push(mask | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(mask | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.extend(payload);
        bytes
    }

    /// Relays the bytes, which arrive in parts of these lengths, from one codec to the other. Returns what is sent.
    fn relay(
        bytes: &[u8],
        mut lens: impl Iterator<Item = usize>,
    ) -> (Vec<u8>, RelayCodec, RelayCodec) {
        let (mut from, mut to) = (RelayCodec::for_client(), RelayCodec::for_server());
        let (mut input, mut sent, mut arrived) = (Vec::new(), Vec::new(), 0);
        while arrived < bytes.len() {
            let len = lens
                .next()
                .unwrap_or(bytes.len())
                .min(bytes.len() - arrived);
            input.extend_from_slice(&bytes[arrived..arrived + len]);
            arrived += len;
            while let Decoded::Frame { frame, consumed } =
                from.decode(&mut input).expect("is sound")
            {
                sent.extend(encode_to_vec(&mut to, frame).expect("is sent"));
                input.drain(..consumed);
            }
        }
        (sent, from, to)
    }

    proptest! {
        #[test]
        fn frames_are_relayed_byte_for_byte_however_they_arrive(
            payloads in prop::collection::vec(0_usize..70_000, 1..5),
            lens in prop::collection::vec(1_usize..40_000, 1..40),
        ) {
            let mut bytes = Vec::new();
            for len in payloads {
                bytes.extend(framed(2, &vec![7; len], true));
                bytes.extend(framed(9, b"ping", true));
            }
            let (sent, from, to) = relay(&bytes, lens.into_iter());
            prop_assert!(sent == bytes);
            prop_assert_eq!((from.stage(), to.stage()), (Stage::Idle, Stage::Idle));
        }
    }

    #[test]
    fn a_close_is_said_between_frames_only_and_once() {
        let bytes = framed(1, b"hello", true);
        let (_, from, mut to) = relay(&bytes[..8], std::iter::empty());
        // Both sides wait for the rest of the frame.
        assert_eq!(
            (from.stage(), to.stage()),
            (Stage::Streaming, Stage::Answering)
        );
        assert!(close_notice_to_vec(&mut to, CloseCause::Shutdown).is_empty());
        let (_, mut from, mut to) = relay(&bytes, std::iter::empty());
        let said = close_notice_to_vec(&mut from, CloseCause::Shutdown);
        assert_eq!(said, [0x88, 2, 3, 0xE9]);
        let said = close_notice_to_vec(&mut to, CloseCause::Shutdown);
        assert_eq!((said[..2].to_vec(), said.len()), (vec![0x88, 0x82], 8));
        assert!(close_notice_to_vec(&mut to, CloseCause::Shutdown).is_empty());
    }

    #[test]
    fn nothing_follows_the_close_of_a_peer() {
        let close = framed(8, &[3, 0xE8], true);
        let bytes = [framed(1, b"x", true), close, framed(1, b"late", true)].concat();
        let (sent, _, mut to) = relay(&bytes, std::iter::empty());
        assert_eq!(sent.len(), bytes.len() - 10);
        assert!(close_notice_to_vec(&mut to, CloseCause::Local).is_empty());
    }

    #[test]
    fn what_is_no_frame_of_the_peer_is_refused() {
        for bytes in [
            &[0x83, 0x80][..],
            &[0x81, 0x01, b'x'],
            &[0xB1, 0x80],
            &[0x09, 0x80],
        ] {
            let mut codec = RelayCodec::for_client();
            assert!(codec.decode(&mut bytes.to_vec()).is_err(), "{bytes:?}");
            let said = close_notice_to_vec(
                &mut codec,
                CloseCause::Malformed(&FrameError::Malformed { what: "x" }),
            );
            assert_eq!(said, [0x88, 2, 3, 0xEA]);
        }
    }
}
