//! Metrics with a label of few values, such as the class of a status.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A label with few values, which are known at compile time. [`metric_label!`](crate::metric_label) implements it.
///
/// Each value has a cell of its own in each set of metrics. For a label whose values are known at run time, such as the name
/// of an upstream, make a set for each value and name the label when the sets are [exposed](super::Exposition::add).
pub trait Label: Copy + 'static {
    /// The name of the label.
    const NAME: &'static str;
    /// All values, in the order of [`index`](Self::index).
    const ALL: &'static [Self];

    /// Returns the value as text.
    fn value(self) -> &'static str;

    /// Returns the value's place in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

/// A cell, or a number read from it, for each value of a label.
pub struct ByLabel<L, T> {
    cells: Box<[T]>,
    label: PhantomData<L>,
}

impl<L: Label, T> ByLabel<L, T> {
    /// Makes a cell for each value.
    pub(crate) fn from_fn(cell: impl FnMut(L) -> T) -> Self {
        Self {
            cells: L::ALL.iter().copied().map(cell).collect(),
            label: PhantomData,
        }
    }

    /// Returns the values of the label with their cells.
    pub fn iter(&self) -> impl Iterator<Item = (L, &T)> {
        L::ALL.iter().copied().zip(&self.cells)
    }
}

impl<L: Label, T> Index<L> for ByLabel<L, T> {
    type Output = T;

    #[inline]
    fn index(&self, value: L) -> &T {
        &self.cells[value.index()]
    }
}

impl<L: Label, T> IndexMut<L> for ByLabel<L, T> {
    fn index_mut(&mut self, value: L) -> &mut T {
        &mut self.cells[value.index()]
    }
}

impl<L: Label, T: Default> Default for ByLabel<L, T> {
    fn default() -> Self {
        Self::from_fn(|_| T::default())
    }
}

impl<L, T: Clone> Clone for ByLabel<L, T> {
    fn clone(&self) -> Self {
        Self {
            cells: self.cells.clone(),
            label: PhantomData,
        }
    }
}

impl<L, T: PartialEq> PartialEq for ByLabel<L, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cells == other.cells
    }
}

impl<L, T: Eq> Eq for ByLabel<L, T> {}

impl<L: Label, T: fmt::Debug> fmt::Debug for ByLabel<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.iter().map(|(label, cell)| (label.value(), cell));
        f.debug_map().entries(cells).finish()
    }
}

/// Defines a [label](crate::metrics::Label) as an enum. The first text is the label's name, the others are its values.
///
/// ```
/// epicycle::metric_label! {
///     /// The class of a status.
///     pub enum Class("class") {
///         /// From 200 to 299.
///         Success = "2xx",
///         /// From 500 to 599.
///         ServerError = "5xx",
///     }
/// }
/// ```
#[macro_export]
macro_rules! metric_label {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $label:ident($name:literal) {
            $($(#[$of_value:meta])* $value:ident = $text:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visibility enum $label {
            $($(#[$of_value])* $value,)+
        }

        impl $crate::metrics::Label for $label {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn value(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }

            #[inline]
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
