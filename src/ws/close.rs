//! Close frames (RFC 6455, sections 5.5.1 and 7.4).

use super::failure::{CloseCode, Failure};
use super::header::MAX_CONTROL;
use super::text;

/// A Close frame, which begins the closing handshake when it is [sent](crate::Conn::send). Nothing can be sent after
/// it.
///
/// The connection closes when the peer has answered, or after [`Server::fin_timeout`](crate::Server::fin_timeout).
/// Messages that the peer sent before its answer still reach the handler, but an answer to them is refused. A handler
/// that closes the connection because of that does not wait for the peer's answer.
///
/// ```
/// use epicycle::ws::{Close, CloseCode};
///
/// let close = Close::new(CloseCode::POLICY, "too many messages");
/// assert_eq!(close.reason, "too many messages");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Close<'a> {
    /// The reason as a code. With `None` the frame is empty, and so is `reason`.
    pub code: Option<CloseCode>,
    /// The reason as a text for logs, of at most 123 bytes.
    pub reason: &'a str,
}

/// The maximum length of a reason, in bytes.
pub(super) const MAX_REASON: usize = MAX_CONTROL - 2;

impl<'a> Close<'a> {
    /// Returns a close with a code and a reason, which may be empty.
    pub fn new(code: CloseCode, reason: &'a str) -> Self {
        Self {
            code: Some(code),
            reason,
        }
    }

    /// Parses the payload of a complete Close frame.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1002 for an incomplete or invalid code, and with 1007 for a reason that is not UTF-8.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Failure> {
        let (code, reason) = match payload {
            [] => (None, &[][..]),
            [_] => {
                return Err(Failure::protocol(
                    "a close frame with a single byte of payload",
                ));
            }
            [high, low, reason @ ..] => match CloseCode::new(u16::from_be_bytes([*high, *low])) {
                Some(code) => (Some(code), reason),
                None => {
                    return Err(Failure::protocol(
                        "a close code that is not valid in a close frame",
                    ));
                }
            },
        };
        let reason = text::whole(reason)?;
        Ok(Self { code, reason })
    }

    /// Writes the payload to the start of `dst`. Returns its length. A reason that is too long is truncated.
    pub(super) fn write(&self, dst: &mut [u8; MAX_CONTROL]) -> usize {
        let Some(code) = self.code else {
            return 0;
        };
        let reason = &self.reason[..self.reason.floor_char_boundary(MAX_REASON)];
        dst[..2].copy_from_slice(&code.get().to_be_bytes());
        dst[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
        2 + reason.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_code_is_judged_as_the_rfc_says() {
        for code in 0..=u16::MAX {
            let payload = code.to_be_bytes();
            let valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            match Close::parse(&payload) {
                Ok(close) => assert!(valid && close.code.map(CloseCode::get) == Some(code)),
                Err(failure) => assert!(!valid && failure.code == CloseCode::PROTOCOL, "{code}"),
            }
        }
    }

    #[test]
    fn a_close_may_be_empty_but_not_one_byte() {
        let empty = Close::parse(&[]).expect("may be empty");
        assert_eq!((empty.code, empty.reason), (None, ""));
        let half = Close::parse(&[3]).expect_err("is half a code");
        assert_eq!(half.code, CloseCode::PROTOCOL);
        let bad = Close::parse(b"\x03\xE8\xFF").expect_err("is not UTF-8");
        assert_eq!(bad.code, CloseCode::INVALID_DATA);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ä".repeat(100);
        let mut bytes = [0; MAX_CONTROL];
        let len = Close::new(CloseCode::NORMAL, &reason).write(&mut bytes);
        assert_eq!(len, 2 + 122);
        let close = Close::parse(&bytes[..len]).expect("is a close");
        assert_eq!(close.reason, "ä".repeat(61));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(code in 3000..5000u16, reason in "\\PC{0,30}") {
            let close = Close { code: CloseCode::new(code), reason: &reason };
            let mut bytes = [0; MAX_CONTROL];
            let len = close.write(&mut bytes);
            prop_assert_eq!(Close::parse(&bytes[..len]).expect("is a close"), close);
        }
    }
}
