use std::fmt::Write as _;

use crate::ws::extension::{Extension, Param};

/// Options for the compression of messages (RFC 7692).
///
/// The peer has a say in the result. Messages are compressed independently unless
/// [`context_takeover`](Self::context_takeover) is on. A connection then costs nothing between messages: each thread
/// has one state.
///
/// # Memory
///
/// | State | Bytes |
/// |---|---|
/// | to compress, with a window of 15 bits | 380 KB |
/// | to compress, with a window of 9 bits | 250 KB |
/// | to decompress | 48 KB |
///
/// With context takeover each connection has its own state for each direction, from its first compressed message in
/// that direction on.
///
/// ```
/// use epicycle::ws::DeflateOptions;
///
/// let options = DeflateOptions::default().level(6).threshold(1024);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DeflateOptions {
    level: u8,
    threshold: usize,
    context_takeover: bool,
    window_bits: u8,
}

impl Default for DeflateOptions {
    /// Returns level 3, messages from 256 bytes on, no context takeover, windows of 15 bits.
    fn default() -> Self {
        Self {
            level: 3,
            threshold: 256,
            context_takeover: false,
            window_bits: 15,
        }
    }
}

impl DeflateOptions {
    /// Sets the compression level: from 1, the fastest, to 9, the smallest.
    ///
    /// # Panics
    ///
    /// Panics if the level is not between 1 and 9.
    #[must_use]
    pub fn level(mut self, level: u8) -> Self {
        assert!(
            (1..=9).contains(&level),
            "levels go from 1 to 9, not to {level}"
        );
        self.level = level;
        self
    }

    /// Sets the length in bytes below which messages are not compressed. Compression gains little on short messages.
    #[must_use]
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Sets whether a message may refer to earlier ones, in both directions. Similar messages become much smaller, but
    /// each connection keeps the state of its streams.
    #[must_use]
    pub fn context_takeover(mut self, takeover: bool) -> Self {
        self.context_takeover = takeover;
        self
    }

    /// Sets the window: a message may refer back at most 2 to the power of `bits` bytes, from 9 to 15. It applies to
    /// both directions, as far as the protocol can tell the peer.
    ///
    /// # Panics
    ///
    /// Panics if `bits` is not between 9 and 15.
    #[must_use]
    pub fn window_bits(mut self, bits: u8) -> Self {
        assert!(
            (9..=15).contains(&bits),
            "windows have from 9 to 15 bits, not {bits}"
        );
        self.window_bits = bits;
        self
    }

    /// Returns the terms for the first of a client's offers that this side can accept (section 5).
    pub(in crate::ws) fn accept(&self, offers: &[Extension<'_>]) -> Option<Agreed> {
        let mut offers = offers
            .iter()
            .filter(|offer| offer.name.eq_ignore_ascii_case(NAME));
        offers.find_map(|offer| self.accept_one(&offer.params))
    }

    fn accept_one(&self, params: &[Param<'_>]) -> Option<Agreed> {
        let offer = Params::read(params)?;
        if offer.server_bits.is_some_and(|bits| bits < MIN_BITS) {
            return None;
        }
        let theirs = match offer.client_bits {
            Some(limit) => limit.unwrap_or(15).min(self.window_bits),
            // A client that does not send this parameter cannot limit its window.
            None => 15,
        };
        Some(Agreed {
            ours: Direction {
                takeover: self.context_takeover && !offer.server_no_takeover,
                bits: offer.server_bits.unwrap_or(15).min(self.window_bits),
            },
            theirs: Direction {
                takeover: self.context_takeover && !offer.client_no_takeover,
                bits: theirs,
            },
            limits_server: offer.server_bits.is_some(),
            level: self.level,
            threshold: self.threshold,
        })
    }

    /// Returns a client's offer, for the `Sec-WebSocket-Extensions` header.
    pub(in crate::ws) fn offer(&self) -> String {
        let mut offer = format!("{NAME}; client_max_window_bits");
        if self.window_bits < 15 {
            let _ = write!(offer, "={0}; server_max_window_bits={0}", self.window_bits);
        }
        if !self.context_takeover {
            offer.push_str("; server_no_context_takeover; client_no_context_takeover");
        }
        offer
    }

    /// Returns the terms of a server's answer to that offer. Returns `None` if the answer does not match it (section
    /// 7.1).
    pub(in crate::ws) fn conclude(&self, answer: &[Param<'_>]) -> Option<Agreed> {
        let answer = Params::read(answer)?;
        let server_bits = answer.server_bits.unwrap_or(15);
        let client_bits = match answer.client_bits {
            // In an answer the parameter must have a value.
            Some(bits) => bits?,
            None => 15,
        };
        let refused = server_bits > self.window_bits
            || (!self.context_takeover && !answer.server_no_takeover);
        if refused {
            return None;
        }
        Some(Agreed {
            ours: Direction {
                takeover: self.context_takeover && !answer.client_no_takeover,
                bits: client_bits.min(self.window_bits),
            },
            theirs: Direction {
                takeover: !answer.server_no_takeover,
                bits: server_bits,
            },
            limits_server: false,
            level: self.level,
            threshold: self.threshold,
        })
    }
}

/// The smallest window, as a power of two, with which zlib can compress. Data that the peer compressed with a smaller
/// window can be decompressed with any.
pub(super) const MIN_BITS: u8 = 9;

/// The extension's name.
pub(in crate::ws) const NAME: &str = "permessage-deflate";

/// The header that negotiates extensions.
pub(in crate::ws) const EXTENSIONS: &str = "sec-websocket-extensions";

/// The terms on which both sides agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ws) struct Agreed {
    /// The direction in which this side sends.
    pub(in crate::ws) ours: Direction,
    /// The direction in which the peer sends.
    pub(in crate::ws) theirs: Direction,
    /// True if the client limited the server's window, which the answer must confirm.
    limits_server: bool,
    pub(in crate::ws) level: u8,
    pub(in crate::ws) threshold: usize,
}

/// The compression of messages in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ws) struct Direction {
    /// True if a message may refer to earlier ones.
    pub(in crate::ws) takeover: bool,
    /// The size of the window, as a power of two.
    pub(in crate::ws) bits: u8,
}

impl Agreed {
    /// Returns a server's answer to a client's offer.
    pub(in crate::ws) fn answer(&self) -> String {
        let mut answer = NAME.to_owned();
        if !self.ours.takeover {
            answer.push_str("; server_no_context_takeover");
        }
        if !self.theirs.takeover {
            answer.push_str("; client_no_context_takeover");
        }
        // Confirmed even if the client asks for the default (section 7.1.2.1).
        if self.ours.bits < 15 || self.limits_server {
            let _ = write!(answer, "; server_max_window_bits={}", self.ours.bits);
        }
        if self.theirs.bits < 15 {
            let _ = write!(answer, "; client_max_window_bits={}", self.theirs.bits);
        }
        answer
    }
}

/// The parameters of an offer or an answer.
#[derive(Default)]
struct Params {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// An offer may have this parameter without a value.
    client_bits: Option<Option<u8>>,
}

impl Params {
    /// Returns `None` if a parameter is unknown, repeated or has an invalid value. The whole offer is then declined.
    fn read(params: &[Param<'_>]) -> Option<Self> {
        let mut read = Self::default();
        for &(name, value) in params {
            let bits = match value {
                Some(value) => Some(window_bits(value)?),
                None => None,
            };
            match name {
                "server_no_context_takeover" if value.is_none() && !read.server_no_takeover => {
                    read.server_no_takeover = true;
                }
                "client_no_context_takeover" if value.is_none() && !read.client_no_takeover => {
                    read.client_no_takeover = true;
                }
                "server_max_window_bits" if bits.is_some() && read.server_bits.is_none() => {
                    read.server_bits = bits;
                }
                "client_max_window_bits" if read.client_bits.is_none() => {
                    read.client_bits = Some(bits);
                }
                _ => return None,
            }
        }
        Some(read)
    }
}

/// Parses a number from 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!value.starts_with(['0', '+'])).then_some(bits)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ws::extension;

    fn accept(options: DeflateOptions, value: &str) -> Option<String> {
        let offers = extension::parse(value).expect("is well formed");
        options.accept(&offers).map(|agreed| agreed.answer())
    }

    #[test]
    fn what_is_offered_decides_what_is_answered() {
        let takeover = DeflateOptions::default().context_takeover(true);
        let small = takeover.window_bits(10);
        let cases = [
            (takeover, "permessage-deflate", "permessage-deflate"),
            (
                takeover,
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate",
            ),
            (
                takeover,
                "Permessage-Deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover",
            ),
            (
                takeover,
                "permessage-deflate; client_no_context_takeover",
                "permessage-deflate; client_no_context_takeover",
            ),
            (
                takeover,
                "permessage-deflate; server_max_window_bits=10",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                takeover,
                "permessage-deflate; server_max_window_bits=15",
                "permessage-deflate; server_max_window_bits=15",
            ),
            (
                takeover,
                "permessage-deflate; client_max_window_bits=8",
                "permessage-deflate; client_max_window_bits=8",
            ),
            (
                takeover,
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                "permessage-deflate",
            ),
            (
                takeover,
                "x-webkit-deflate-frame, permessage-deflate; foo, permessage-deflate",
                "permessage-deflate",
            ),
            (
                small,
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                small,
                "permessage-deflate; client_max_window_bits; server_max_window_bits=12",
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits=10",
            ),
            (
                DeflateOptions::default(),
                "permessage-deflate",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
        ];
        for (options, offer, answer) in cases {
            assert_eq!(accept(options, offer).as_deref(), Some(answer), "{offer}");
        }
    }

    #[test]
    fn an_offer_that_is_not_understood_is_declined() {
        for params in [
            "server_max_window_bits",
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits=10; server_max_window_bits=10",
            "client_max_window_bits=x",
            "client_max_window_bits; client_max_window_bits",
            "server_no_context_takeover=1",
            "client_no_context_takeover; client_no_context_takeover",
            "unheard_of",
        ] {
            let offer = format!("{NAME}; {params}");
            assert_eq!(accept(DeflateOptions::default(), &offer), None, "{offer}");
        }
        assert_eq!(
            accept(DeflateOptions::default(), "x-webkit-deflate-frame"),
            None
        );
    }

    #[test]
    fn an_answer_must_be_one_to_the_offer() {
        let takeover = DeflateOptions::default().context_takeover(true);
        let cases = [
            (takeover, "", true),
            (
                takeover,
                "server_no_context_takeover; client_no_context_takeover",
                true,
            ),
            (takeover, "client_max_window_bits=9", true),
            (takeover, "client_max_window_bits=8", true),
            (takeover, "server_max_window_bits=8", true),
            (takeover, "server_max_window_bits=15", true),
            (takeover, "server_max_window_bits=7", false),
            (takeover, "client_max_window_bits", false),
            (takeover, "unheard_of", false),
            (DeflateOptions::default(), "", false),
            (
                DeflateOptions::default(),
                "server_no_context_takeover",
                true,
            ),
            (takeover.window_bits(10), "", false),
            (takeover.window_bits(10), "server_max_window_bits=11", false),
            (takeover.window_bits(10), "server_max_window_bits=10", true),
        ];
        for (options, params, taken) in cases {
            let answer = if params.is_empty() {
                NAME.to_owned()
            } else {
                format!("{NAME}; {params}")
            };
            let list = extension::parse(&answer).expect("is well formed");
            assert_eq!(
                options.conclude(&list[0].params).is_some(),
                taken,
                "{answer}"
            );
        }
    }

    fn any_options() -> impl Strategy<Value = DeflateOptions> {
        (9..=15u8, any::<bool>(), 1..=9u8).prop_map(|(bits, takeover, level)| {
            DeflateOptions::default()
                .window_bits(bits)
                .context_takeover(takeover)
                .level(level)
        })
    }

    proptest! {
        #[test]
        fn both_sides_come_to_the_same(client in any_options(), server in any_options()) {
            let offer = client.offer();
            let offers = extension::parse(&offer).expect("is well formed");
            let agreed = server.accept(&offers).expect("is acceptable");
            let answer = agreed.answer();
            let answers = extension::parse(&answer).expect("is well formed");
            let concluded = client.conclude(&answers[0].params).expect("is an answer");
            prop_assert_eq!(concluded.theirs, agreed.ours);
            // The client may use a smaller window than it is allowed to.
            prop_assert!(concluded.ours.bits <= agreed.theirs.bits);
            prop_assert!(!concluded.ours.takeover || agreed.theirs.takeover);
        }
    }
}
