//! The first step of a write: the outbox, which codecs write to, and the reactor's arena behind it.

use std::fmt;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::pool::BufferPool;
use super::queue::OutQueue;

/// The output of a connection, to which a codec appends encoded frames.
///
/// Small pieces are copied. Large shared ones are kept by reference.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};
/// use epicycle::Outbox;
///
/// struct Shout;
///
/// impl Codec for Shout {
///     type Frame<'a> = &'a [u8];
///     fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
///         Ok(Decoded::Frame { consumed: src.len(), frame: src })
///     }
/// }
///
/// impl Encode<&str> for Shout {
///     fn encode(&mut self, item: &str, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
///         dst.put(item.to_uppercase().as_bytes());
///         dst.put(b"!");
///         Ok(())
///     }
/// }
///
/// assert_eq!(encode_to_vec(&mut Shout, "hello")?, b"HELLO!");
/// # Ok::<(), FrameError>(())
/// ```
pub struct Outbox<'a> {
    queue: &'a mut OutQueue,
    arena: &'a mut Arena,
    pool: &'a mut BufferPool,
    /// Tells whether input has arrived that the codec has not seen, if the codec may ask.
    has_unread_input: Option<&'a dyn Fn() -> bool>,
    /// The number of bytes that have left the connection's output, if known.
    sent: Option<u64>,
}

impl fmt::Debug for Outbox<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("len", &self.len())
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl<'a> Outbox<'a> {
    #[inline]
    pub(crate) fn new(
        queue: &'a mut OutQueue,
        arena: &'a mut Arena,
        pool: &'a mut BufferPool,
    ) -> Self {
        Self {
            queue,
            arena,
            pool,
            has_unread_input: None,
            sent: None,
        }
    }

    /// Sets the function that tells whether input has arrived that the codec has not seen.
    #[inline]
    pub(crate) fn set_unread_input(&mut self, has_unread_input: &'a dyn Fn() -> bool) {
        self.has_unread_input = Some(has_unread_input);
    }

    /// Sets the number of bytes that have left the connection's output.
    #[inline]
    pub(crate) fn set_sent(&mut self, sent: u64) {
        self.sent = Some(sent);
    }

    /// Returns the number of bytes written to the connection so far, by anybody. `None` without a connection, and for
    /// codecs that do not [converse](crate::codec::Codec::CONVERSES).
    #[cfg(feature = "http")]
    pub(crate) fn position(&self) -> Option<u64> {
        Some(self.sent? + self.queue.len() as u64)
    }

    /// Returns true if input has arrived that the codec has not seen. A request sent now could be mistaken for the one that
    /// this input answers.
    ///
    /// The call may make a system call. It always returns false for codecs that do not
    /// [converse](crate::codec::Codec::CONVERSES). Over TLS it does not see input that is not decrypted yet.
    pub fn has_unread_input(&self) -> bool {
        self.has_unread_input.is_some_and(|ask| ask())
    }

    /// Returns the number of bytes that wait to be sent on this connection, including those just put.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns true if nothing waits to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0
    }

    /// Returns the number of waiting bytes that the outbound limit counts: those in memory.
    #[inline]
    pub(crate) fn in_memory(&self) -> usize {
        self.queue.in_memory()
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if !self.queue.stage_any(bytes, self.arena) {
            self.queue.enqueue_copy(bytes, self.arena, self.pool);
        }
    }

    /// Appends `bytes` by reference if they are longer than 512 bytes, else as a copy.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() <= SHARED_MIN {
            return self.put(&bytes);
        }
        self.queue.enqueue_shared(bytes, self.arena, self.pool);
    }

    /// Appends up to `max` bytes that `fill` writes. `fill` receives a slice of `max` bytes with arbitrary content, and
    /// returns the number of bytes it wrote.
    ///
    /// # Panics
    ///
    /// If `fill` returns more than `max`.
    #[inline]
    pub fn put_with(&mut self, max: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        if self.queue.can_stage(self.arena)
            && let Some(room) = self.arena.room(max)
        {
            let written = fill(room);
            assert!(written <= max, "{written} bytes do not fit into {max}");
            self.queue.staged_more(written, self.arena);
        } else {
            self.put_apart(max, fill);
        }
    }

    /// Appends bytes that cannot be written in place.
    #[cold]
    fn put_apart(&mut self, max: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let mut spare = vec![0; max];
        let written = fill(&mut spare);
        assert!(written <= max, "{written} bytes do not fit into {max}");
        self.put(&spare[..written]);
    }

    /// Returns the time at the beginning of the reactor's turn, in whole seconds since 1970-01-01, midnight UTC. In a simulation
    /// it is the virtual time. Handlers have [`Conn::unix_time`](crate::Conn::unix_time).
    #[inline]
    pub fn unix_time(&self) -> u64 {
        self.arena.unix_time.unwrap_or_else(unix_time_now)
    }

    /// Drops everything after the first `len` bytes: a frame whose encoding failed half-way.
    pub(crate) fn rollback(&mut self, len: usize) {
        self.queue.rollback(len, self.arena, self.pool);
    }
}

#[cold]
fn unix_time_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl io::Write for Outbox<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shared bytes of up to this size are copied, which is cheaper than a reference count and a segment of the backlog.
const SHARED_MIN: usize = 512;

/// The reactor's arena: the staged output of all connections written to in this turn.
#[derive(Debug)]
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    pub(super) len: usize,
    /// The time that codecs see, in seconds since 1970. `None` without an event loop that sets it.
    pub(crate) unix_time: Option<u64>,
}

/// The most bytes staged before a flush. It is small enough to stay in a core's second-level cache.
const ARENA_CAPACITY: usize = 256 << 10;

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; ARENA_CAPACITY].into_boxed_slice(),
            len: 0,
            unix_time: None,
        }
    }

    /// Creates an arena without room, so that every write becomes backlog.
    pub(crate) fn empty() -> Self {
        Self {
            bytes: Box::default(),
            len: 0,
            unix_time: None,
        }
    }

    #[inline]
    pub(crate) fn get(&self, staged: Staged) -> &[u8] {
        &self.bytes[staged.start as usize..][..staged.len as usize]
    }

    /// Appends `bytes` if there is room for them.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> bool {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let Some(place) = room.get_mut(..bytes.len()) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Returns `len` bytes of free room behind everything staged, if there are as many.
    #[inline]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.len..)?.get_mut(..len)
    }

    /// Drops everything staged, after the flush phase.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns true if the arena should be flushed before more connections are served.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len > ARENA_CAPACITY / 2
    }
}

/// A connection's stretch of the arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Staged {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Staged {
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }
}
