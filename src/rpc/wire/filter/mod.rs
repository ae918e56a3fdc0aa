//! Filters wrap a message on its way: compression, checksums.

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

/// Wraps the bytes of a message, and unwraps them again.
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
    /// The byte that stands for it in messages. Both sides must give it the same meaning.
    fn id(&self) -> u8;

    /// Its name, for configuration and logs.
    fn name(&self) -> &str;

    /// Wraps `bytes`.
    ///
    /// # Errors
    ///
    /// A [`FilterError`] when they cannot be wrapped. The message is not sent then.
    fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError>;

    /// Unwraps `bytes` to at most `max` bytes.
    ///
    /// The peer chooses what comes in, so the bound must be held against what comes out while it comes.
    ///
    /// # Errors
    ///
    /// A [`FilterError`] when they are not what [`pack`](Self::pack) makes, or more than `max` come out. The connection
    /// is closed then.
    fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, max: usize) -> Result<Cow<'a, [u8]>, FilterError>;
}

/// Why a filter cannot be applied or undone.
#[non_exhaustive]
pub enum FilterError {
    /// It unpacks to more than is allowed.
    TooLong {
        /// The most allowed, in bytes.
        max: usize,
    },
    /// The bytes are not what the filter makes.
    Corrupt {
        /// What is wrong with them.
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

/// The filters that a peer knows, by id and by name.
#[derive(Clone, Default)]
pub struct Filters {
    known: Vec<Arc<dyn Filter>>,
}

impl Filters {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// [`Gzip`] (`g`) and [`Md5`] (`m`).
    pub fn standard() -> Self {
        Self {
            known: vec![Arc::new(Gzip::default()), Arc::new(Md5)],
        }
    }

    /// Adds a filter.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] when there is one of that id or name already.
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

    /// The filter of an id.
    pub fn get(&self, id: u8) -> Option<&dyn Filter> {
        self.iter().find(|filter| filter.id() == id)
    }

    /// The filter of a name.
    pub fn by_name(&self, name: &str) -> Option<&dyn Filter> {
        self.iter().find(|filter| filter.name() == name)
    }

    /// All filters, in the order in which they were added.
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

/// The filters of one message, by their ids, the outermost first.
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
/// // The checksum is of what is then compressed.
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
    /// The most filters that a message can have.
    pub const MAX: usize = u8::MAX as usize;

    /// The filters of these ids, which need not be known: that shows when the message is packed.
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

    /// Adds filters, inside those that are there.
    ///
    /// # Errors
    ///
    /// [`WireError::UnknownFilter`] when one is not known, and [`WireError::TooManyFilters`] when there would be more
    /// than [`MAX`](Self::MAX). Nothing is added then.
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

    /// Adds the filters of another one, inside those that are there.
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append).
    pub fn append_from(
        &mut self,
        other: &FilterPipe<'_>,
        filters: &Filters,
    ) -> Result<(), WireError> {
        self.append(other.ids(), filters)
    }

    /// The ids, the outermost first.
    pub fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// The names, the outermost first; `?` for one that is not known.
    pub fn names<'b>(&'b self, filters: &'b Filters) -> impl Iterator<Item = &'b str> {
        let name = |id: &u8| filters.get(*id).map_or("?", Filter::name);
        self.ids.iter().map(name)
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Removes all filters.
    pub fn clear(&mut self) {
        clear(&mut self.ids);
    }

    /// Wraps bytes in all filters, the last one first. Without filters it is the bytes themselves.
    ///
    /// # Errors
    ///
    /// [`WireError`] when a filter is not known, or cannot be applied.
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
    /// [`WireError`] when a filter is not known, or the bytes are not what it makes.
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

    /// A copy that borrows this one.
    pub fn reborrow(&self) -> FilterPipe<'_> {
        FilterPipe::from_ids(&self.ids)
    }

    /// The same, without a borrow.
    pub fn into_owned(self) -> FilterPipe<'static> {
        FilterPipe::from_owned(self.ids.into_owned())
    }
}
