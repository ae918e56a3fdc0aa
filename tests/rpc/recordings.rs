//! The recordings of Teleport.

use std::fs;
use std::path::Path;

use crate::util::skipped;

/// The bytes that one side sent at once.
pub(crate) struct Recorded {
    pub(crate) version: String,
    pub(crate) protocol: String,
    pub(crate) scenario: String,
    pub(crate) index: String,
    pub(crate) side: String,
    /// Empty at the end of its stream.
    pub(crate) bytes: Vec<u8>,
}

/// All rows; none, and said so, where the recordings are not at hand.
pub(crate) fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/teleport");
    let mut rows = Vec::new();
    for file in ["vectors.tsv", "vectors_more.tsv"] {
        let Ok(text) = fs::read_to_string(folder.join(file)) else {
            skipped(&format!("{file} is not in {}", folder.display()));
            return Vec::new();
        };
        rows.extend(text.lines().skip(1).map(row));
    }
    rows
}

fn row(line: &str) -> Recorded {
    let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
    let Ok([version, protocol, scenario, index, side, hex]) = <[String; 6]>::try_from(columns)
    else {
        panic!("{line}");
    };
    Recorded {
        version,
        protocol,
        scenario,
        index,
        side,
        bytes: hex.as_bytes().chunks(2).map(byte).collect(),
    }
}

fn byte(hex: &[u8]) -> u8 {
    let hex = std::str::from_utf8(hex).expect("is ASCII");
    u8::from_str_radix(hex, 16).expect("is hexadecimal")
}
