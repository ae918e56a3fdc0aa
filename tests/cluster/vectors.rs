//! The recordings of a real due.

use std::fs;
use std::path::Path;

use crate::util::skipped;

/// A row of the recordings.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) area: String,
    pub(crate) scenario: String,
    pub(crate) dir: String,
    pub(crate) data: String,
}

impl Row {
    /// The data as bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        unhex(&self.data).unwrap_or_else(|| panic!("no hex: {self:?}"))
    }

    /// The value behind `key=` in the scenario, up to the next space.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let words = self.scenario.split([' ', ':']);
        words
            .filter_map(|word| word.split_once('='))
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }

    /// The number behind `key=`.
    pub(crate) fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.get(key)?.parse().ok()
    }
}

/// The rows of an area; none, and said so, where the recordings are not at hand.
pub(crate) fn rows(area: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/due/vectors.tsv");
    let Ok(text) = fs::read_to_string(&path) else {
        skipped(&format!("there is no {}", path.display()));
        return Vec::new();
    };
    let rows = text.lines().skip(1).map(|line| {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut next = || columns.next().unwrap_or_else(|| panic!("{line}"));
        let (area, scenario, _idx, dir, data) = (next(), next(), next(), next(), next());
        Row {
            area,
            scenario,
            dir,
            data,
        }
    });
    let found: Vec<_> = rows.filter(|row| row.area == area).collect();
    assert!(!found.is_empty(), "no area {area}");
    found
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
