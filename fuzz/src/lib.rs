//! Code that the fuzz targets share. It feeds a codec its input in pieces, whose lengths must not change the result.

mod feed;
pub mod gateway;
pub mod rpc;
pub mod websocket;

pub use feed::{Outcome, Plain, Subject, check, check_round_trip};

/// The meaning of a fuzzer's bytes: the first ones are options, the rest is the input of a peer, in pieces.
#[derive(Clone)]
pub struct Case<const OPTIONS: usize> {
    /// The options of the codec, which the target interprets.
    pub options: [u8; OPTIONS],
    /// The lengths of the pieces in which the input arrives, repeated; 0 means 256.
    pub pieces: [u8; 3],
    /// The bytes that the peer sends.
    pub input: Vec<u8>,
}

impl<const OPTIONS: usize> Case<OPTIONS> {
    /// Splits `data`. Returns `None` if it is too short.
    pub fn new(data: &[u8]) -> Option<Self> {
        let (&options, data) = data.split_first_chunk()?;
        let (&pieces, input) = data.split_first_chunk()?;
        Some(Self {
            options,
            pieces,
            input: input.to_vec(),
        })
    }

    /// Appends bytes to the input, so that the codec can decide about bytes that it would otherwise wait for.
    pub fn ended_by(mut self, end: &[u8]) -> Self {
        self.input.extend_from_slice(end);
        self
    }

    /// Returns the pieces of the input.
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
