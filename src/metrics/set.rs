//! The macro that defines a set of metrics, and the kinds that a metric can have.

use std::time::Duration;

use super::exposition::{Exposition, Series};
use super::label::{ByLabel, Label};
use super::{Counter, Gauge, TimeCounter, TimeGauge};
#[cfg(feature = "histogram")]
use super::{Distribution, Histogram};

/// The behaviour of the metrics of one kind: the cell, the value that is read from it, the sum of two values, and the
/// exposition. Only [`metric_set!`](crate::metric_set) uses it.
#[doc(hidden)]
pub trait Kind {
    type Cell: Default;
    type Value: Default;

    fn read(cell: &Self::Cell) -> Self::Value;

    fn add(sum: &mut Self::Value, other: &Self::Value);

    fn expose(series: Series<'_>, value: &Self::Value, to: &mut Exposition);
}

macro_rules! kinds {
    ($($kind:ident: $cell:ty => $value:ty, $read:expr, $add:expr, $expose:expr;)+) => {
        $(
            #[doc(hidden)]
            #[allow(non_camel_case_types, reason = "it stands for a word of the macro")]
            #[derive(Debug)]
            pub enum $kind {}

            impl Kind for $kind {
                type Cell = $cell;
                type Value = $value;

                fn read(cell: &$cell) -> $value {
                    $read(cell)
                }

                fn add(sum: &mut $value, other: &$value) {
                    $add(sum, other);
                }

                fn expose(series: Series<'_>, value: &$value, to: &mut Exposition) {
                    $expose(to, series, value);
                }
            }
        )+
    };
}

kinds! {
    counter: Counter => u64, Counter::get, sum, Exposition::put_counter;
    gauge: Gauge => u64, Gauge::get, sum, Exposition::put_gauge;
    time: TimeCounter => Duration, TimeCounter::get, sum_times, Exposition::put_time;
    longest: TimeGauge => Duration, TimeGauge::get, longer, Exposition::put_time_gauge;
}

#[cfg(feature = "histogram")]
kinds! {
    histogram: Histogram => Distribution, Histogram::read, Distribution::add, Exposition::put_distribution;
    time_histogram: Histogram => Distribution, Histogram::read, Distribution::add, Exposition::put_times;
}

fn sum(sum: &mut u64, other: &u64) {
    *sum = sum.wrapping_add(*other);
}

fn sum_times(sum: &mut Duration, other: &Duration) {
    *sum = sum.saturating_add(*other);
}

fn longer(longest: &mut Duration, other: &Duration) {
    *longest = (*longest).max(*other);
}

/// A metric of a kind for each value of a label.
#[doc(hidden)]
#[derive(Debug)]
pub struct By<K, L>(std::marker::PhantomData<(K, L)>);

impl<K: Kind, L: Label> Kind for By<K, L> {
    type Cell = ByLabel<L, K::Cell>;
    type Value = ByLabel<L, K::Value>;

    fn read(cell: &Self::Cell) -> Self::Value {
        ByLabel::from_fn(|label| K::read(&cell[label]))
    }

    fn add(sum: &mut Self::Value, other: &Self::Value) {
        for (label, value) in other.iter() {
            K::add(&mut sum[label], value);
        }
    }

    fn expose(series: Series<'_>, value: &Self::Value, to: &mut Exposition) {
        for (label, value) in value.iter() {
            let own = [(L::NAME, label.value())];
            let labels = [series.labels, own.as_slice()].concat();
            let series = Series {
                labels: &labels,
                ..series
            };
            K::expose(series, value, to);
        }
    }
}

/// Defines a set of metrics: the struct that is read, its sum, its exposition, and the struct that is counted in.
///
/// The first struct has the values at one moment. It implements `AddAssign` and [`Expose`](crate::metrics::Expose). The text
/// behind its name begins the names of its metrics in the [exposition](crate::metrics::prometheus). The text of each field is
/// the metric's description there, up to the end of the first sentence. The second struct has the cells. `read` returns their
/// values. It can be left out if the values come from elsewhere.
///
/// The kinds of metrics:
///
/// | Kind | Counted in | Read as | Sum | Name in the exposition |
/// |---|---|---|---|---|
/// | `counter` | [`Counter`](crate::metrics::Counter) | `u64` | sum | `PREFIX_FIELD_total` |
/// | `gauge` | [`Gauge`](crate::metrics::Gauge) | `u64` | sum | `PREFIX_FIELD` |
/// | `time` | [`TimeCounter`](crate::metrics::TimeCounter) | `Duration` | sum | `PREFIX_FIELD_seconds_total` |
/// | `longest` | [`TimeGauge`](crate::metrics::TimeGauge) | `Duration` | maximum | `PREFIX_FIELD_seconds` |
/// | `histogram` | `Histogram` | `Distribution` | sum | `PREFIX_FIELD` |
/// | `time_histogram` | `Histogram`, in nanoseconds | `Distribution` | sum | `PREFIX_FIELD_seconds` |
///
/// The last two need the feature `histogram`. Each kind can be followed by `by` and a [label](crate::metric_label): the
/// metric then has a cell for each value of the label.
///
/// A set has one writer: make one for each reactor, in the handler, and share it in an `Arc` with the threads that read it.
///
/// ```
/// use epicycle::{metric_label, metric_set, metrics};
///
/// metric_label! {
///     /// The result of a lookup.
///     pub enum Found("found") {
///         /// The value was there.
///         Yes = "yes",
///         /// The value was missing.
///         No = "no",
///     }
/// }
///
/// metric_set! {
///     /// The metrics of a cache at one moment.
///     #[derive(Clone, Debug, Default)]
///     pub struct CacheStats("cache") {
///         /// Lookups.
///         lookups: counter by Found,
///         /// Values held now.
///         values: gauge,
///     }
///     /// The metrics of a cache.
///     #[derive(Debug, Default)]
///     pub struct CacheMetrics;
/// }
///
/// let cache = CacheMetrics::default();
/// cache.lookups[Found::No].add(1);
/// cache.values.set(7);
///
/// let stats = cache.read();
/// assert_eq!((stats.lookups[Found::No], stats.values), (1, 7));
/// let mut text = String::new();
/// metrics::prometheus(&stats, &mut text);
/// assert!(text.contains("cache_lookups_total{found=\"no\"} 1\n"));
/// ```
#[macro_export]
macro_rules! metric_set {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $stats:ident($prefix:literal) {
            $($(#[doc = $doc:literal])+ $field:ident: $kind:ident $(by $label:path)?,)+
        }
        $(
            $(#[$of_cells:meta])*
            $cells_visibility:vis struct $cells:ident;
        )?
    ) => {
        $(#[$attribute])*
        $visibility struct $stats {
            $(
                $(#[doc = $doc])+
                pub $field: $crate::metric_set!(@value $kind $($label)?),
            )+
        }

        impl ::std::ops::AddAssign for $stats {
            fn add_assign(&mut self, other: Self) {
                $(
                    <$crate::metric_set!(@kind $kind $($label)?) as $crate::metrics::kind::Kind>::add(
                        &mut self.$field,
                        &other.$field,
                    );
                )+
            }
        }

        impl $crate::metrics::Expose for $stats {
            fn expose(&self, labels: &[(&str, &str)], to: &mut $crate::metrics::Exposition) {
                $({
                    let series = $crate::metrics::kind::Series {
                        prefix: $prefix,
                        name: ::std::stringify!($field),
                        help: ::std::concat!($($doc),+),
                        labels,
                    };
                    <$crate::metric_set!(@kind $kind $($label)?) as $crate::metrics::kind::Kind>::expose(
                        series,
                        &self.$field,
                        to,
                    );
                })+
            }
        }

        $crate::metric_set! {
            @cells $stats
            $($(#[$of_cells])* $cells_visibility struct $cells;)?
            $($(#[doc = $doc])+ $field: $kind $(by $label)?,)+
        }
    };
    (@cells $stats:ident $($(#[doc = $doc:literal])+ $field:ident: $kind:ident $(by $label:path)?,)+) => {};
    (
        @cells $stats:ident
        $(#[$attribute:meta])*
        $visibility:vis struct $cells:ident;
        $($(#[doc = $doc:literal])+ $field:ident: $kind:ident $(by $label:path)?,)+
    ) => {
        $(#[$attribute])*
        $visibility struct $cells {
            $(
                $(#[doc = $doc])+
                $visibility $field: $crate::metric_set!(@cell $kind $($label)?),
            )+
        }

        impl $cells {
            /// Returns the values. It blocks no writer.
            $visibility fn read(&self) -> $stats {
                $stats {
                    $(
                        $field: <$crate::metric_set!(@kind $kind $($label)?) as $crate::metrics::kind::Kind>::read(
                            &self.$field,
                        ),
                    )+
                }
            }
        }
    };
    (@kind $kind:ident) => { $crate::metrics::kind::$kind };
    (@kind $kind:ident $label:path) => { $crate::metrics::kind::By<$crate::metrics::kind::$kind, $label> };
    (@value counter) => { u64 };
    (@value gauge) => { u64 };
    (@value time) => { ::std::time::Duration };
    (@value longest) => { ::std::time::Duration };
    (@value histogram) => { $crate::metrics::Distribution };
    (@value time_histogram) => { $crate::metrics::Distribution };
    (@value $kind:ident $label:path) => { $crate::metrics::ByLabel<$label, $crate::metric_set!(@value $kind)> };
    (@cell counter) => { $crate::metrics::Counter };
    (@cell gauge) => { $crate::metrics::Gauge };
    (@cell time) => { $crate::metrics::TimeCounter };
    (@cell longest) => { $crate::metrics::TimeGauge };
    (@cell histogram) => { $crate::metrics::Histogram };
    (@cell time_histogram) => { $crate::metrics::Histogram };
    (@cell $kind:ident $label:path) => { $crate::metrics::ByLabel<$label, $crate::metric_set!(@cell $kind)> };
}
