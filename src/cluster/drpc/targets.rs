use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// The maximum number of targets in one frame that this side sends.
pub const MAX_TARGETS: usize = 1000;

/// A list of connections or users, as it is on the wire or as the caller has it.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::drpc::Targets;
///
/// let targets = Targets::from(&[7, 8]);
/// assert_eq!(targets.len(), 2);
/// assert!(targets.iter().eq([7, 8]));
/// ```
#[derive(Clone, Copy)]
pub struct Targets<'a>(List<'a>);

#[derive(Clone, Copy)]
enum List<'a> {
    /// The bytes of big-endian numbers.
    Wire(&'a [[u8; 8]]),
    Numbers(&'a [i64]),
}

impl<'a> Targets<'a> {
    pub(super) fn from_wire(bytes: &'a [u8]) -> Self {
        Self(List::Wire(bytes.as_chunks().0))
    }

    /// Returns the number of targets.
    pub fn len(&self) -> usize {
        match self.0 {
            List::Wire(numbers) => numbers.len(),
            List::Numbers(numbers) => numbers.len(),
        }
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the targets in their order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + use<'a> {
        let (wire, numbers) = match self.0 {
            List::Wire(wire) => (wire, &[][..]),
            List::Numbers(numbers) => (&[][..], numbers),
        };
        let wire = wire.iter().map(|bytes| i64::from_be_bytes(*bytes));
        wire.chain(numbers.iter().copied())
    }
}

impl<'a> From<&'a [i64]> for Targets<'a> {
    fn from(numbers: &'a [i64]) -> Self {
        Self(List::Numbers(numbers))
    }
}

impl<'a, const N: usize> From<&'a [i64; N]> for Targets<'a> {
    fn from(numbers: &'a [i64; N]) -> Self {
        Self(List::Numbers(numbers))
    }
}

impl PartialEq for Targets<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Targets<'_> {}

impl fmt::Debug for Targets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Returns the targets without those that came before, so that each gets a push once. Send them in chunks of [`MAX_TARGETS`].
///
/// # Examples
///
/// ```
/// use epicycle::cluster::drpc::{MAX_TARGETS, unique_targets};
///
/// assert_eq!(*unique_targets(&[3, 1, 3, 2, 1]), [3, 1, 2]);
///
/// let everybody: Vec<i64> = (1..=2500).collect();
/// let frames: Vec<_> = unique_targets(&everybody).chunks(MAX_TARGETS).map(<[i64]>::len).collect();
/// assert_eq!(frames, [1000, 1000, 500]);
/// ```
pub fn unique_targets(targets: &[i64]) -> Cow<'_, [i64]> {
    let mut seen = HashSet::with_capacity(targets.len());
    let Some(first) = targets.iter().position(|target| !seen.insert(*target)) else {
        return Cow::Borrowed(targets);
    };
    let mut unique = targets[..first].to_vec();
    unique.extend(
        targets[first..]
            .iter()
            .copied()
            .filter(|target| seen.insert(*target)),
    );
    Cow::Owned(unique)
}
