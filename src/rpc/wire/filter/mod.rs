//! Filters, which wrap a message on the wire: compression, checksums.

mod gzip;
mod md5;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::meta::clear;
use super::{RegistryError, WireError};
use crate::error::error_messages;

pub use self::gzip::Gzip;
pub use self::md5::Md5;

/// Wraps and unwraps the bytes of a message.
///
/// # Examples
///
/// ```
/// use std::borrow::Cow;
/// use epicycle::rpc::wire::{Filter, FilterError, Filters};
///
/// struct Reversed;
///
/// impl Filter for Reversed {
///     fn id(&self) -> u8 { b'r' }
///     fn name(&self) -> &str { "reversed" }
///
///     fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError> {
///         Ok(bytes.iter().rev().copied().collect())
///     }
///
///     fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, _: usize) -> Result<Cow<'a, [u8]>, FilterError> {
///         self.pack(bytes).map(Cow::Owned)
///     }
/// }
///
/// let mut filters = Filters::standard();
/// filters.register(Reversed)?;
/// assert!(filters.register(Reversed).is_err());
/// # Ok::<(), epicycle::rpc::wire::RegistryError>(())
/// ```
pub trait Filter: Send + Sync + 'static {
    /// Returns the byte that identifies the filter in messages. Both sides must give it the same meaning.
    fn id(&self) -> u8;

    /// Returns the filter's name, for configuration and logs.
    fn name(&self) -> &str;

    /// Wraps `bytes`.
    ///
    /// # Errors
    ///
    /// Returns a [`FilterError`] if they cannot be wrapped. The message is then not sent.
    fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError>;

    /// Unwraps `bytes` to at most `max` bytes.
    ///
    /// The peer chooses the input, so the implementation must check the limit while it produces output.
    ///
    /// # Errors
    ///
    /// Returns a [`FilterError`] if the input is not the output of [`pack`](Self::pack), or if the result is longer
    /// than `max`. The connection then closes.
    fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, max: usize) -> Result<Cow<'a, [u8]>, FilterError>;
}

/// The reason why a filter cannot be applied or undone.
#[non_exhaustive]
pub enum FilterError {
    /// The unpacked bytes exceed the limit.
    TooLong {
        /// The maximum length in bytes.
        max: usize,
    },
    /// The bytes are not the output of the filter.
    Corrupt {
        /// The fault.
        what: &'static str,
    },
    /// An error of a filter outside this crate.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

error_messages! {
    FilterError {
        FilterError::TooLong { max } => "it unpacks to more than {max} bytes; the limit is `Limits::message`",
        FilterError::Corrupt { what } => "{what}",
        FilterError::Other(error) => "{error}",
    }
    causes {
        FilterError::Other(error) => &**error,
    }
}

/// The filters of a peer, by id and by name.
#[derive(Clone, Default)]
pub struct Filters {
    known: Vec<Arc<dyn Filter>>,
}

impl Filters {
    /// Returns an empty registry.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns a registry with [`Gzip`] (`g`) and [`Md5`] (`m`).
    pub fn standard() -> Self {
        Self {
            known: vec![Arc::new(Gzip::default()), Arc::new(Md5)],
        }
    }

    /// Adds a filter.
    ///
    /// # Errors
    ///
    /// Returns a [`RegistryError`] if a filter with this id or name is registered.
    pub fn register(&mut self, filter: impl Filter) -> Result<(), RegistryError> {
        if let Some(registered) = self.get(filter.id()) {
            return Err(RegistryError::DuplicateId {
                what: "filter",
                id: filter.id(),
                registered: registered.name().to_owned(),
                refused: filter.name().to_owned(),
            });
        }
        if self.by_name(filter.name()).is_some() {
            return Err(RegistryError::DuplicateName {
                what: "filter",
                name: filter.name().to_owned(),
            });
        }
        self.known.push(Arc::new(filter));
        Ok(())
    }

    /// Returns the filter with this id.
    pub fn get(&self, id: u8) -> Option<&dyn Filter> {
        self.iter().find(|filter| filter.id() == id)
    }

    /// Returns the filter with this name.
    pub fn by_name(&self, name: &str) -> Option<&dyn Filter> {
        self.iter().find(|filter| filter.name() == name)
    }

    /// Returns all filters, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Filter> {
        self.known.iter().map(|filter| &**filter)
    }

    fn require(&self, id: u8) -> Result<&dyn Filter, WireError> {
        self.get(id).ok_or(WireError::UnknownFilter { id })
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(
                self.iter()
                    .map(|filter| (char::from(filter.id()), filter.name())),
            )
            .finish()
    }
}

/// The filters of one message, by their ids, outermost first.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::{FilterPipe, Filters};
///
/// let filters = Filters::standard();
/// let mut pipe = FilterPipe::default();
/// pipe.append(b"gm", &filters)?;
/// assert_eq!(pipe.names(&filters).collect::<Vec<_>>(), ["gzip", "md5"]);
///
/// // The checksum is appended first, then the result is compressed.
/// let packed = pipe.pack(b"hello"[..].into(), &filters)?;
/// assert_eq!(packed[..2], [0x1f, 0x8b]);
/// assert_eq!(*pipe.unpack(packed, &filters, 100)?, *b"hello");
/// # Ok::<(), epicycle::rpc::wire::WireError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterPipe<'a> {
    ids: Cow<'a, [u8]>,
}

impl<'a> FilterPipe<'a> {
    /// The maximum number of filters of a message.
    pub const MAX: usize = u8::MAX as usize;

    /// Returns a pipe of these ids. Unknown ids are detected when the message is packed.
    pub fn from_ids(ids: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            ids: Cow::Borrowed(ids.as_ref()),
        }
    }

    pub(super) fn from_owned(ids: Vec<u8>) -> Self {
        Self {
            ids: Cow::Owned(ids),
        }
    }

    /// Adds filters inside the existing ones.
    ///
    /// # Errors
    ///
    /// Returns [`WireError::UnknownFilter`] if one is unknown, and [`WireError::TooManyFilters`] if there would be more
    /// than [`MAX`](Self::MAX). Nothing is then added.
    pub fn append(&mut self, ids: &[u8], filters: &Filters) -> Result<(), WireError> {
        for &id in ids {
            filters.require(id)?;
        }
        let count = self.len() + ids.len();
        if count > Self::MAX {
            return Err(WireError::TooManyFilters {
                count,
                max: Self::MAX,
            });
        }
        if !ids.is_empty() {
            self.ids.to_mut().extend_from_slice(ids);
        }
        Ok(())
    }

    /// Adds the filters of `other` inside the existing ones.
    ///
    /// # Errors
    ///
    /// The same as for [`append`](Self::append).
    pub fn append_from(
        &mut self,
        other: &FilterPipe<'_>,
        filters: &Filters,
    ) -> Result<(), WireError> {
        self.append(other.ids(), filters)
    }

    /// Returns the ids, outermost first.
    pub fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// Returns the names, outermost first. An unknown filter has the name `?`.
    pub fn names<'b>(&'b self, filters: &'b Filters) -> impl Iterator<Item = &'b str> {
        let name = |id: &u8| filters.get(*id).map_or("?", Filter::name);
        self.ids.iter().map(name)
    }

    /// Returns the number of filters.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns true if there are no filters.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Removes all filters.
    pub fn clear(&mut self) {
        clear(&mut self.ids);
    }

    /// Wraps bytes in all filters, the last one first. Without filters it returns the bytes unchanged.
    ///
    /// # Errors
    ///
    /// Returns a [`WireError`] if a filter is unknown or cannot be applied.
    pub fn pack<'b>(
        &self,
        bytes: Cow<'b, [u8]>,
        filters: &Filters,
    ) -> Result<Cow<'b, [u8]>, WireError> {
        self.ids.iter().rev().try_fold(bytes, |bytes, &id| {
            let packed = filters.require(id)?.pack(bytes);
            packed
                .map(Cow::Owned)
                .map_err(|error| WireError::Filter { id, error })
        })
    }

    /// Unwraps bytes, the first filter first, to at most `max` bytes at each step.
    ///
    /// # Errors
    ///
    /// Returns a [`WireError`] if a filter is unknown, or the bytes are not its output.
    pub fn unpack<'b>(
        &self,
        bytes: Cow<'b, [u8]>,
        filters: &Filters,
        max: usize,
    ) -> Result<Cow<'b, [u8]>, WireError> {
        if self.is_empty() {
            return Ok(bytes);
        }
        self.ids.iter().try_fold(bytes, |bytes, &id| {
            let unpacked = filters.require(id)?.unpack(bytes, max);
            unpacked.map_err(|error| WireError::Filter { id, error })
        })
    }

    /// Returns a copy that borrows this one.
    pub fn reborrow(&self) -> FilterPipe<'_> {
        FilterPipe::from_ids(&self.ids)
    }

    /// Returns an owned copy.
    pub fn into_owned(self) -> FilterPipe<'static> {
        FilterPipe::from_owned(self.ids.into_owned())
    }
}
