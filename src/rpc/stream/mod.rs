//! Streams of items on a session. [`flow`] has the rules: it is pure. [`shared`] adds the items that wait and those who wait for
//! them, and is shared by threads.

mod flow;
mod shared;
#[cfg(test)]
mod tests;

pub(super) use self::flow::{MAX_CREDIT, Role, Unsendable, Violation};
pub(super) use self::shared::{AfterItem, Item, Link, Signal, Step, Stream};

/// The key of the metadata that opens a stream in a CALL and accepts it in a REPLY. The value is the sender's first grant of
/// credit.
pub(super) const STREAM: &str = "X-Stream";

/// The key of the metadata with the `seq` of the CALL that opened the stream.
pub(super) const STREAM_ID: &str = "X-Stream-Id";

/// The key of the metadata with the side that sends: `opener` or `acceptor`.
pub(super) const STREAM_BY: &str = "X-Stream-By";

/// The path of pushes that carry an item.
pub(super) const ITEM: &str = "/_/item";

/// The path of pushes that grant credit.
pub(super) const CREDIT: &str = "/_/credit";

/// The path of pushes that end the sender's items.
pub(super) const END: &str = "/_/end";
