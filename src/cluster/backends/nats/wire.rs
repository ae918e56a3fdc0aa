//! The text protocol of NATS: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

use memchr::memchr;

use crate::codec::{Codec, Decoded, FrameError};

/// Reads the operations of a server.
#[derive(Clone, Debug, Default)]
pub struct NatsCodec {
    /// The bytes at the start of the input that have no end of a line.
    searched: usize,
}

/// An operation of a server.
#[derive(Debug, PartialEq, Eq)]
pub enum NatsOperation<'a> {
    /// The server tells of itself, as JSON.
    Info(&'a [u8]),
    /// A message, with the number of the subscription.
    Message {
        /// The number.
        sid: u64,
        /// The content.
        payload: &'a [u8],
    },
    /// The server asks for a sign of life.
    Ping,
    /// The server has done what was asked.
    Pong,
    /// The server refuses something. Mostly it closes the connection then.
    Error(&'a [u8]),
}

/// The longest line. That in which a server tells of the others of its cluster is the longest.
const MAX_LINE: usize = 1 << 20;
/// The longest payload that a server can be set up to take.
const MAX_PAYLOAD: usize = 64 << 20;

impl Codec for NatsCodec {
    type Frame<'a> = NatsOperation<'a>;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<NatsOperation<'a>>, FrameError> {
        let src: &'a [u8] = src;
        let searched = self.searched.min(src.len());
        let Some(lf) = memchr(b'\n', &src[searched..]).map(|at| searched + at) else {
            if src.len() > MAX_LINE {
                let len = src.len() as u64;
                return Err(FrameError::TooLong { len, max: MAX_LINE });
            }
            self.searched = src.len();
            let at_least = src.len() + 1;
            return Ok(Decoded::NeedMore { at_least });
        };
        self.searched = 0;
        let line = src[..lf].trim_ascii_end();
        let (name, rest) = match memchr(b' ', line) {
            Some(space) => (&line[..space], line[space..].trim_ascii()),
            None => (line, &line[line.len()..]),
        };
        let frame = match &*name.to_ascii_uppercase() {
            b"MSG" => return message(rest, src, lf + 1),
            b"INFO" => NatsOperation::Info(rest),
            b"PING" => NatsOperation::Ping,
            b"PONG" => NatsOperation::Pong,
            b"-ERR" => NatsOperation::Error(rest),
            b"+OK" => return Ok(Decoded::Skip { consumed: lf + 1 }),
            _ => return Err(malformed("an operation that NATS does not have")),
        };
        Ok(Decoded::Frame {
            frame,
            consumed: lf + 1,
        })
    }
}

/// Reads a message: `SUBJECT SID [REPLY] LENGTH`, and after the line the payload and CRLF.
fn message<'a>(
    head: &[u8],
    src: &'a [u8],
    start: usize,
) -> Result<Decoded<NatsOperation<'a>>, FrameError> {
    let mut words = head
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let (_subject, sid) = (words.next(), words.next().and_then(number));
    let len = words.next_back().and_then(number);
    let (Some(sid), Some(len)) = (sid, len) else {
        return Err(malformed("a message without a number or a length"));
    };
    if len > MAX_PAYLOAD as u64 {
        return Err(FrameError::TooLong {
            len,
            max: MAX_PAYLOAD,
        });
    }
    let end = start + len as usize;
    if src.len() < end + 2 {
        return Ok(Decoded::NeedMore { at_least: end + 2 });
    }
    if &src[end..end + 2] != b"\r\n" {
        return Err(malformed("a message that does not end where it should"));
    }
    Ok(Decoded::Frame {
        frame: NatsOperation::Message {
            sid,
            payload: &src[start..end],
        },
        consumed: end + 2,
    })
}

fn malformed(what: &'static str) -> FrameError {
    FrameError::Malformed { what }
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Returns the command that publishes a message.
pub(super) fn publish(subject: &str, payload: &[u8]) -> Vec<u8> {
    let mut command = format!("PUB {subject} {}\r\n", payload.len()).into_bytes();
    command.extend_from_slice(payload);
    command.extend_from_slice(b"\r\n");
    command
}

/// Returns the command that ends a subscription.
pub(super) fn unsubscribe(sid: u64) -> Vec<u8> {
    format!("UNSUB {sid}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    fn all(mut input: &[u8]) -> Result<Vec<String>, FrameError> {
        let (mut found, mut codec) = (Vec::new(), NatsCodec::default());
        loop {
            let mut bytes = input.to_vec();
            match codec.decode(&mut bytes)? {
                Decoded::Frame { frame, consumed } => {
                    found.push(format!("{frame:?}"));
                    input = &input[consumed..];
                }
                Decoded::Skip { consumed } => input = &input[consumed..],
                _ => return Ok(found),
            }
        }
    }

    #[test]
    fn operations_are_read_and_payloads_may_hold_anything() {
        let input = b"INFO {\"a\":1} \r\n+OK\r\nMSG s 9 5\r\na\r\nb \r\nMSG s 9 reply 0\r\n\r\nping\r\nPONG\r\n-ERR 'no'\r\nMSG s";
        let found = all(input).unwrap_or_default();
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found[1].contains("sid: 9") && found[1].contains("[97, 13, 10, 98, 32]"));
        assert_eq!(found[3], "Ping");
    }

    #[test]
    fn a_message_waits_for_its_last_byte() {
        let input = b"MSG s 1 2\r\nab\r\n";
        for cut in 0..input.len() {
            let found = all(&input[..cut]).unwrap_or_default();
            assert!(found.is_empty(), "{cut}: {found:?}");
        }
        assert!(all(input).is_ok_and(|found| found.len() == 1));
    }

    #[test]
    fn what_is_no_operation_is_an_error() {
        for input in [
            &b"HELLO\r\n"[..],
            b"MSG s\r\n",
            b"MSG s x 1\r\n",
            b"MSG s 1 -1\r\n",
            b"MSG s 1 99999999999\r\n",
            b"MSG s 1 2\r\nabc\r\n",
            b"\r\n",
        ] {
            assert!(all(input).is_err(), "{}", String::from_utf8_lossy(input));
        }
        assert!(all(&vec![b'x'; MAX_LINE + 1]).is_err());
    }

    proptest! {
        #[test]
        fn messages_are_read_however_they_are_cut(
            messages in collection::vec((0..u64::MAX, collection::vec(any::<u8>(), 0..60)), 0..8),
            pieces in collection::vec(1..40_usize, 1..4),
        ) {
            let mut wire = Vec::new();
            for (sid, payload) in &messages {
                wire.extend_from_slice(format!("MSG s {sid} {}\r\n", payload.len()).as_bytes());
                wire.extend_from_slice(payload);
                wire.extend_from_slice(b"\r\nPING\r\n");
            }
            let (mut codec, mut kept, mut found, mut pings) = (NatsCodec::default(), Vec::new(), Vec::new(), 0);
            let mut pieces = pieces.into_iter().cycle();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(pieces.next().unwrap_or(1).min(rest.len()));
                (rest, kept) = (behind, [&kept[..], piece].concat());
                loop {
                    let len = kept.len();
                    let consumed = match codec.decode(&mut kept) {
                        Ok(Decoded::Frame { frame, consumed }) => {
                            match frame {
                                NatsOperation::Message { sid, payload } => found.push((sid, payload.to_vec())),
                                _ => pings += 1,
                            }
                            consumed
                        }
                        other => {
                            let waits = matches!(other, Ok(Decoded::NeedMore { at_least }) if at_least > len);
                            prop_assert!(waits || len == 0);
                            break;
                        }
                    };
                    kept.drain(..consumed);
                }
            }
            prop_assert_eq!(pings, messages.len());
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn no_input_is_too_odd(input in collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b'1')], 0..200)) {
            let _ = all(&[b"MSG ", &input[..]].concat());
            let _ = all(&input);
        }
    }
}
