//! Feeds a codec its input in several ways that must have the same result.

use epicycle::codec::{
    CloseCause, Codec, Decoded, Encode, FrameError, Stage, close_notice_to_vec, encode_to_vec,
    poll_output_to_vec,
};

use crate::Case;

/// A codec under test, with the properties that the checks need.
pub trait Subject {
    /// The codec.
    type Codec: Codec;

    /// Returns the codec of a new connection.
    fn codec(&self) -> Self::Codec;

    /// Returns the most bytes of input that the codec may ask for, which a connection then holds.
    fn limit(&self) -> usize;

    /// Records the parts of a frame that must not depend on the division of the input.
    fn note(&self, frame: <Self::Codec as Codec>::Frame<'_>, log: &mut Vec<Vec<u8>>);

    /// Answers one of the recorded frames, as a handler would. Returns false if none is left to answer.
    fn answer(&self, _codec: &mut Self::Codec) -> bool {
        false
    }

    /// Returns true if the time of an answer makes no difference.
    fn may_answer_late(&self) -> bool {
        true
    }

    /// Returns true if the codec may hold input back although no frame is left to answer.
    fn is_over(&self, codec: &Self::Codec) -> bool {
        codec.stage() == Stage::Finished
    }

    /// Returns the kind of an error, as far as it must not depend on the division of the input.
    fn kind(&self, error: &FrameError) -> &'static str {
        kind(error)
    }

    /// Returns the parts of the close notice that must not depend on the division of the input.
    fn notice(&self, _close_notice: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// A codec whose frames are slices of its input, and its limit.
pub struct Plain<C>(pub C, pub usize);

impl<C: Clone + for<'a> Codec<Frame<'a> = &'a [u8]>> Subject for Plain<C> {
    type Codec = C;

    fn codec(&self) -> C {
        self.0.clone()
    }

    fn limit(&self) -> usize {
        self.1
    }

    fn note(&self, frame: &[u8], log: &mut Vec<Vec<u8>>) {
        assert!(frame.len() <= self.1, "a frame of {} bytes", frame.len());
        log.push(frame.to_vec());
    }
}

/// The result of an input.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The recorded frames.
    pub frames: Vec<Vec<u8>>,
    /// The kind of the error, if one occurred.
    pub error: Option<&'static str>,
    /// The close notice.
    pub notice: Vec<u8>,
}

/// Decodes the input in one piece, in its pieces and byte by byte, and then the end of the stream. Frames are answered at
/// once, or only when the codec holds input back.
///
/// # Panics
///
/// If the results differ, or the codec breaks its contract.
pub fn check<S: Subject, const OPTIONS: usize>(subject: &S, case: &Case<OPTIONS>) -> Outcome {
    let whole = || [&case.input[..]].into_iter();
    let bytes = || case.input.chunks(1);
    let outcome = Feed::new(subject, Manner::default()).take(whole());
    let late = Manner {
        answers_late: true,
        ..Manner::default()
    };
    let early = Manner {
        asks_early: true,
        ..Manner::default()
    };
    let feed = |manner| Feed::new(subject, manner);
    let pieces = feed(Manner::default()).take(case.pieces());
    assert_eq!(pieces, outcome, "in pieces of {:?}", case.pieces);
    let single = feed(Manner::default()).take(bytes());
    assert_eq!(single, outcome, "byte by byte");
    let single = feed(early).take(bytes());
    assert_eq!(single, outcome, "byte by byte, asked too early");
    if subject.may_answer_late() {
        assert_eq!(feed(late).take(whole()), outcome, "answered late");
        let single = feed(late).take(bytes());
        assert_eq!(single, outcome, "byte by byte, answered late");
    }
    outcome
}

/// Choices of a connection that must not change the result.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// Calls the codec for each piece, even if it has asked for more bytes. The engine waits until it has as many.
    asks_early: bool,
    /// Answers a frame only when the codec holds input back.
    answers_late: bool,
}

/// A connection, as a codec sees it.
struct Feed<'s, S: Subject> {
    subject: &'s S,
    manner: Manner,
    codec: S::Codec,
    /// Received bytes that the codec has not consumed.
    kept: Vec<u8>,
    /// The number of bytes that the codec needs.
    wanted: usize,
    frames: Vec<Vec<u8>>,
    /// The number of bytes received.
    received: usize,
    /// The number of bytes that the codec has sent by itself.
    sent: usize,
    /// True once the codec has reported its last stage.
    over: bool,
    /// True once the peer has ended its stream.
    ended: bool,
}

impl<'s, S: Subject> Feed<'s, S> {
    fn new(subject: &'s S, manner: Manner) -> Self {
        Self {
            subject,
            manner,
            codec: subject.codec(),
            kept: Vec::new(),
            wanted: 1,
            frames: Vec::new(),
            received: 0,
            sent: 0,
            over: false,
            ended: false,
        }
    }

    /// Takes the pieces of the input, and the end of the stream.
    fn take<'a>(mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
        let result = self.try_take(pieces);
        let cause = match &result {
            Err(error) => CloseCause::Malformed(error),
            Ok(()) => CloseCause::Timeout,
        };
        let close_notice = close_notice_to_vec(&mut self.codec, cause);
        Outcome {
            notice: self.subject.notice(&close_notice),
            frames: self.frames,
            error: result.err().map(|error| self.subject.kind(&error)),
        }
    }

    fn try_take<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), FrameError> {
        for piece in pieces {
            self.kept.extend_from_slice(piece);
            self.received += piece.len();
            if self.kept.len() >= self.wanted || self.manner.asks_early {
                self.decode(S::Codec::decode)?;
            }
        }
        // Fewer bytes than the codec asked for may be malformed already. The input in one piece has shown that.
        self.decode(S::Codec::decode)?;
        self.ended = true;
        if self.kept.is_empty() && self.awaits_rest() {
            return self.decode_nothing();
        }
        self.decode(S::Codec::decode_eof)
    }

    fn awaits_rest(&self) -> bool {
        let stage = self.codec.stage();
        S::Codec::CONVERSES
            && !self.over
            && matches!(
                stage,
                Stage::Receiving | Stage::Streaming | Stage::AwaitingRest
            )
    }

    /// Decodes the end of a stream that left no bytes. It can be the end of a message.
    fn decode_nothing(&mut self) -> Result<(), FrameError> {
        match self.codec.decode_eof(&mut [])? {
            Decoded::Frame { frame, consumed } => {
                assert_eq!(consumed, 0, "consumes bytes that are not there");
                self.subject.note(frame, &mut self.frames);
            }
            Decoded::Skip { .. } => panic!("skips bytes that are not there"),
            Decoded::NeedMore { at_least } => assert_ne!(at_least, 0, "needs 0 bytes"),
            Decoded::Hold => {}
        }
        Ok(())
    }

    /// Decodes until the codec needs more bytes, and then polls its output.
    fn decode(&mut self, decode: Decode<S::Codec>) -> Result<(), FrameError> {
        let result = self.decode_all(decode);
        self.sent += poll_output_to_vec(&mut self.codec).len();
        let (sent, received) = (self.sent, self.received);
        assert!(
            sent <= received + 64,
            "sends {sent} bytes by itself after {received} received"
        );
        result
    }

    fn decode_all(&mut self, decode: Decode<S::Codec>) -> Result<(), FrameError> {
        let mut in_vain = 0;
        self.wanted = 1;
        while !self.kept.is_empty() && !self.over {
            let len = self.kept.len();
            let found = match decode(&mut self.codec, &mut self.kept)? {
                Decoded::Frame { frame, consumed } => {
                    self.subject.note(frame, &mut self.frames);
                    Found::Frame(consumed)
                }
                Decoded::Skip { consumed } => Found::Nothing(consumed),
                Decoded::Hold => Found::Held,
                Decoded::NeedMore { at_least } => Found::Partial(at_least),
            };
            let consumed = match found {
                Found::Frame(consumed) => {
                    if !self.manner.answers_late {
                        self.answer();
                    }
                    in_vain = if consumed == 0 { in_vain + 1 } else { 0 };
                    assert!(in_vain < 10, "returns frames without consuming bytes");
                    consumed
                }
                Found::Nothing(consumed) => {
                    assert_ne!(consumed, 0, "skips 0 bytes");
                    consumed
                }
                Found::Held => {
                    assert!(S::Codec::CONVERSES, "holds input, but does not converse");
                    if !self.answer() {
                        assert!(self.subject.is_over(&self.codec), "holds input for ever");
                        return Ok(());
                    }
                    0
                }
                Found::Partial(at_least) => {
                    let limit = self.subject.limit();
                    assert!(at_least > len, "needs {at_least} bytes, but has {len}");
                    let allowed = at_least <= limit || self.ended;
                    assert!(allowed, "needs {at_least} bytes, more than {limit}");
                    self.wanted = at_least;
                    return Ok(());
                }
            };
            assert!(consumed <= len, "consumes {consumed} bytes of {len}");
            self.kept.drain(..consumed);
        }
        Ok(())
    }

    fn answer(&mut self) -> bool {
        let answered = self.subject.answer(&mut self.codec);
        self.over = S::Codec::CONVERSES && self.codec.stage() == Stage::Finished;
        answered
    }
}

/// A [`Decoded`] without its frame.
enum Found {
    Frame(usize),
    Nothing(usize),
    Held,
    Partial(usize),
}

/// [`Codec::decode`] or [`Codec::decode_eof`].
type Decode<C> =
    for<'a> fn(&mut C, &'a mut [u8]) -> Result<Decoded<<C as Codec>::Frame<'a>>, FrameError>;

fn kind(error: &FrameError) -> &'static str {
    match error {
        // The length in the error depends on the number of bytes received.
        FrameError::TooLong { len, max } => {
            assert!(*len > *max as u64, "{error}");
            "too long"
        }
        FrameError::Malformed { what } => what,
        _ => "other",
    }
}

/// Encodes an item and decodes it again. If it can be encoded, the result must be `frame`.
///
/// # Panics
///
/// If the result is something else.
pub fn check_round_trip<C>(codec: &C, item: &[u8], frame: &[u8])
where
    C: Clone + for<'a> Codec<Frame<'a> = &'a [u8]> + for<'a> Encode<&'a [u8]>,
{
    let Ok(mut wire) = encode_to_vec(&mut codec.clone(), item) else {
        return;
    };
    let len = wire.len();
    let found = codec
        .clone()
        .decode(&mut wire)
        .expect("what is sent is a frame");
    let whole = Decoded::Frame {
        frame,
        consumed: len,
    };
    assert_eq!(found, whole);
}
