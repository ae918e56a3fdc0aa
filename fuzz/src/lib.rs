//! What the fuzz targets share: a codec is fed its input in pieces, and how it is cut must not matter.

mod feed;
pub mod rpc;
pub mod websocket;

pub use feed::{Outcome, Plain, Subject, check, check_round_trip};

/// What a fuzzer's bytes stand for: a few of them are options, the rest is what a peer sends, in pieces.
#[derive(Clone)]
pub struct Case<const OPTIONS: usize> {
    /// What the target makes of the codec.
    pub options: [u8; OPTIONS],
    /// The lengths of the pieces in which the input arrives, round and round; 0 stands for 256.
    pub pieces: [u8; 3],
    /// What the peer sends.
    pub input: Vec<u8>,
}

impl<const OPTIONS: usize> Case<OPTIONS> {
    /// Takes `data` apart; nothing when it is too short.
    pub fn new(data: &[u8]) -> Option<Self> {
        let (&options, data) = data.split_first_chunk()?;
        let (&pieces, input) = data.split_first_chunk()?;
        Some(Self {
            options,
            pieces,
            input: input.to_vec(),
        })
    }

    /// The same with something behind the input, by which the codec is sure of what it only suspects so far.
    pub fn ended_by(mut self, end: &[u8]) -> Self {
        self.input.extend_from_slice(end);
        self
    }

    /// The pieces of the input.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let lengths = self
            .pieces
            .map(|len| if len == 0 { 256 } else { len.into() });
        let mut lengths = lengths.into_iter().cycle();
        let mut rest = &self.input[..];
        std::iter::from_fn(move || {
            let (piece, behind) = rest.split_at(lengths.next()?.min(rest.len()));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        })
    }
}
