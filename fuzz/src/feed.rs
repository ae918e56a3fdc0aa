//! Feeds a codec its input in every way that must come to the same.

use epicycle::codec::{
    Codec, Decoded, Encode, FrameError, CloseCause, Stage, encode_to_vec, close_notice_to_vec,
    poll_output_to_vec,
};

use crate::Case;

/// A codec under test, and how its frames are told apart.
pub trait Subject {
    /// The codec.
    type Codec: Codec;

    /// The codec of a new connection.
    fn codec(&self) -> Self::Codec;

    /// The most bytes of input that it may ask for: what it can make a connection hold.
    fn limit(&self) -> usize;

    /// Notes a frame: whatever of it must not depend on how the input is cut.
    fn note(&self, frame: <Self::Codec as Codec>::Frame<'_>, log: &mut Vec<Vec<u8>>);

    /// Sends what a handler would for one of the frames noted, and returns whether there was one to be answered.
    fn answer(&self, _codec: &mut Self::Codec) -> bool {
        false
    }

    /// Whether it makes no difference when a frame is answered.
    fn may_answer_late(&self) -> bool {
        true
    }

    /// Whether the codec may hold back what there is though nothing is to be answered.
    fn is_over(&self, codec: &Self::Codec) -> bool {
        codec.stage() == Stage::Finished
    }

    /// What kind of error it is, so far as that must not depend on how the input is cut.
    fn kind(&self, error: &FrameError) -> &'static str {
        kind(error)
    }

    /// What of the codec's last words must not depend on it either.
    fn told(&self, _last_words: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// A codec whose frames are slices of its input, and what it may ask for.
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

/// What came of an input.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The frames, as they were noted.
    pub frames: Vec<Vec<u8>>,
    /// What kind of error ended it, if one did.
    pub error: Option<&'static str>,
    /// What the peer was told then.
    pub told: Vec<u8>,
}

/// Decodes the input whole, in its pieces and byte by byte, until the peer ends its stream behind it. A frame is
/// answered at once, or only when the codec holds back for it.
///
/// # Panics
///
/// When the outcomes differ, or the codec does what none may do.
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

/// What a connection may do in one way or another.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// The codec is asked again for each piece, though it wants more; the engine does so with a piece only that is
    /// as much as was wanted.
    asks_early: bool,
    /// A frame is answered only when the codec holds back for it.
    answers_late: bool,
}

/// A connection, as far as a codec sees it.
struct Feed<'s, S: Subject> {
    subject: &'s S,
    manner: Manner,
    codec: S::Codec,
    /// What has come and is not consumed.
    kept: Vec<u8>,
    /// How many bytes the codec wants.
    wanted: usize,
    frames: Vec<Vec<u8>>,
    /// How many bytes have come, and how many the codec has said by itself.
    heard: usize,
    said: usize,
    /// The codec has said that nothing more is to be said.
    over: bool,
    /// The peer has ended its stream.
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
            heard: 0,
            said: 0,
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
            told: self.subject.told(&close_notice),
            frames: self.frames,
            error: result.err().map(|error| self.subject.kind(&error)),
        }
    }

    fn try_take<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), FrameError> {
        for piece in pieces {
            self.kept.extend_from_slice(piece);
            self.heard += piece.len();
            if self.kept.len() >= self.wanted || self.manner.asks_early {
                self.decode(S::Codec::decode)?;
            }
        }
        // What is less than was wanted may be wrong already, which the input in one piece has shown.
        self.decode(S::Codec::decode)?;
        self.ended = true;
        self.decode(S::Codec::decode_eof)
    }

    /// Decodes what is there until more is wanted, and lets the codec speak.
    fn decode(&mut self, decode: Decode<S::Codec>) -> Result<(), FrameError> {
        let result = self.decode_all(decode);
        self.said += poll_output_to_vec(&mut self.codec).len();
        let (said, heard) = (self.said, self.heard);
        assert!(said <= heard + 64, "says {said} bytes by itself to {heard}");
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
                    assert!(in_vain < 10, "frame after frame, and nothing is consumed");
                    consumed
                }
                Found::Nothing(consumed) => {
                    assert_ne!(consumed, 0, "skips nothing");
                    consumed
                }
                Found::Held => {
                    assert!(S::Codec::CONVERSES, "holds back, but does not converse");
                    if !self.answer() {
                        assert!(self.subject.is_over(&self.codec), "holds back for ever");
                        return Ok(());
                    }
                    0
                }
                Found::Partial(at_least) => {
                    let limit = self.subject.limit();
                    assert!(at_least > len, "wants {at_least} bytes where {len} are");
                    let allowed = at_least <= limit || self.ended;
                    assert!(allowed, "wants {at_least} bytes, {limit} at most");
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

/// What the codec has found, with the numbers of [`Decoded`].
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
        // How much too long depends on how much has come.
        FrameError::TooLong { len, max } => {
            assert!(*len > *max as u64, "{error}");
            "too long"
        }
        FrameError::Malformed { what } => what,
        _ => "other",
    }
}

/// Encodes an item, and decodes it: if it can be sent, it arrives as `frame`, and nothing else does.
///
/// # Panics
///
/// When it arrives as something else.
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
