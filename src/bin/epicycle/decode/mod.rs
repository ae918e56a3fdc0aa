//! `epicycle packet decode` and `epicycle drpc decode`: tell what bytes of a cluster mean.

mod drpc;
mod packet;

use std::error::Error;
use std::fmt::Write;
use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use epicycle::codec::{Codec, Decoded, FrameError};

pub(crate) use self::drpc::{Flags as Drpc, run as drpc};
pub(crate) use self::packet::{Flags as Packet, Format, run as packet};

/// The longest input, in bytes.
const MAX_INPUT: u64 = 64 << 20;

const GRAMMAR: &str =
    "write two for each byte, without 0x, and white space where you like: 00000004 00 0001 68";

/// The bytes, and what they are to be read as.
#[derive(Args)]
struct Input {
    /// The bytes as hexadecimal digits, without 0x, with white space as you like; - reads them from standard input
    #[arg(required = true)]
    hex: Vec<String>,
    #[command(flatten)]
    format: Format,
}

/// Prints a line for each frame of the input, with its place. The remedy is that of a frame that is too long.
fn print_frames<C: Codec>(
    hex: &[String],
    mut codec: C,
    remedy: &str,
    told: impl for<'f> Fn(C::Frame<'f>) -> String,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut bytes = input(hex)?;
    let mut at = 0;
    while at < bytes.len() {
        let left = bytes.len() - at;
        let decoded = codec.decode(&mut bytes[at..]);
        let wrong = |error| match error {
            FrameError::TooLong { .. } => format!("at byte {at}: {error}{remedy}"),
            error => format!("at byte {at}: {error}"),
        };
        match decoded.map_err(wrong)? {
            Decoded::Frame { frame, consumed } => {
                println!("{at:6}  {}", told(frame));
                at += consumed;
            }
            Decoded::NeedMore { at_least } => return Err(cut(at, at_least, left)),
            Decoded::Skip { consumed } => at += consumed,
            Decoded::Hold => return Err(cut(at, left, left)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the bytes of hexadecimal digits, between which there may be white space. `-` stands for standard input.
fn input(words: &[String]) -> Result<Vec<u8>, Box<dyn Error>> {
    let text = if words.len() == 1 && words[0] == "-" {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_INPUT).read_to_string(&mut text);
        read.map_err(|error| format!("standard input: {error}"))?;
        text
    } else {
        words.join(" ")
    };
    let mut digits = Vec::new();
    for (place, digit) in (1..).zip(text.chars()) {
        if digit.is_whitespace() {
            continue;
        }
        let value = digit
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok());
        digits.push(value.ok_or_else(|| {
            format!("{digit:?}, character {place}, is no hexadecimal digit; {GRAMMAR}")
        })?);
    }
    match digits.len() {
        0 => Err(format!("there are no digits; {GRAMMAR}").into()),
        count if !count.is_multiple_of(2) => Err(format!(
            "{count} digits are no whole bytes: the byte {} has one digit; {GRAMMAR}",
            count / 2
        )
        .into()),
        _ => Ok(digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()),
    }
}

/// Returns the data of a packet as digits, and as text if it is one.
fn shown(data: &[u8]) -> String {
    let mut shown = format!("{} bytes", data.len());
    if !data.is_empty() {
        shown.push_str(": ");
        for byte in data {
            // A String takes everything.
            let _ = write!(shown, "{byte:02x}");
        }
    }
    match std::str::from_utf8(data) {
        Ok(text) if !text.is_empty() => shown + &format!(" {text:?}"),
        _ => shown,
    }
}

/// Returns the error of input that ends too early.
fn cut(at: usize, needed: usize, left: usize) -> Box<dyn Error> {
    let missing = needed.saturating_sub(left).max(1);
    format!(
        "at byte {at}: the input ends within a frame, which needs at least {missing} bytes more"
    )
    .into()
}
