//! Where writes go first: the view that codecs write through, and the reactor's arena.

use std::fmt;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::pool::BufferPool;
use super::queue::OutQueue;

/// Where a codec writes an encoded frame.
///
/// It appends to the connection's output: small pieces are copied, large shared ones kept by reference.
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
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut OutQueue,
    arena: &'a mut Arena,
    pool: &'a mut BufferPool,
    input: Input<'a>,
    /// How many bytes have left the connection's output; none where that is not known.
    sent: Option<u64>,
}

/// What is known about input that the codec has not seen.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// There is none.
    None,
    /// There is some.
    Waits,
    /// The stream has to be asked, which may take a system call.
    Ask(&'a dyn Fn() -> bool),
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Waits => "Waits",
            Self::Ask(_) => "Ask",
        })
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
            input: Input::None,
            sent: None,
        }
    }

    /// Tells about input that the codec has not seen.
    #[inline]
    pub(crate) fn set_input(&mut self, input: Input<'a>) {
        self.input = input;
    }

    /// Tells how many bytes have left the connection's output already.
    #[inline]
    pub(crate) fn set_sent(&mut self, sent: u64) {
        self.sent = Some(sent);
    }

    /// How many bytes have been written to the connection so far, whoever wrote them. `None` without a connection, and for
    /// codecs that do not converse.
    #[cfg(feature = "http")]
    pub(crate) fn position(&self) -> Option<u64> {
        Some(self.sent? + self.queue.len() as u64)
    }

    /// Whether input has arrived that the codec has not seen. A request that is sent now could be taken
    /// for the one that this input answers. It may take a system call to find out. Codecs that do not
    /// [converse](crate::codec::Codec::CONVERSES) are not told of any; over TLS, what has not been decrypted is not known.
    pub fn has_unread_input(&self) -> bool {
        match self.input {
            Input::None => false,
            Input::Waits => true,
            Input::Ask(stream_has_input) => stream_has_input(),
        }
    }

    /// How many bytes wait to be sent on this connection, these included.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0
    }

    /// How many of these bytes are in memory, as the outbound limit counts.
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

    /// Appends `bytes` by reference when they are large enough for that to pay, else a copy.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() <= SHARED_MIN {
            return self.put(&bytes);
        }
        self.queue.enqueue_shared(bytes, self.arena, self.pool);
    }

    /// Appends up to `max` bytes that `fill` writes: it says how many they are. It is given room for `max`, whose
    /// content is anything.
    ///
    /// # Panics
    ///
    /// When `fill` says that it wrote more than there was room for.
    #[inline]
    pub fn put_with(&mut self, max: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let mut spare = Vec::new();
        let can_stage = self.queue.can_stage(self.arena);
        let (room, is_staged) = match self.arena.room(max) {
            Some(room) if can_stage => (room, true),
            _ => {
                spare.resize(max, 0);
                (&mut spare[..], false)
            }
        };
        let written = fill(room);
        assert!(written <= max, "{written} bytes do not fit into {max}");
        if is_staged {
            self.queue.staged_more(written, self.arena);
        } else {
            self.put(&spare[..written]);
        }
    }

    /// The time in whole seconds since 1970, UTC, as it was at the beginning of the reactor's turn.
    #[inline]
    pub fn unix_time(&self) -> u64 {
        self.arena.unix_time.unwrap_or_else(unix_time_now)
    }

    /// Takes back everything past the first `len` bytes: a frame whose encoding failed half-way.
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

/// Shared bytes up to this size are copied: cheaper than a reference count and a queue entry.
const SHARED_MIN: usize = 512;

/// The reactor's arena: the staged output of every connection written to in this turn.
#[derive(Debug)]
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    pub(super) len: usize,
    /// What codecs take for the present, in seconds since 1970; none without a loop that sets it.
    pub(crate) unix_time: Option<u64>,
}

/// The most bytes staged before a flush: small enough to stay in a core's second-level cache.
const ARENA_CAPACITY: usize = 256 << 10;

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; ARENA_CAPACITY].into_boxed_slice(),
            len: 0,
            unix_time: None,
        }
    }

    /// An arena that takes nothing, so that every write becomes backlog.
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

    /// The free room behind everything staged, if it is as large as that.
    #[inline]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.len..)?.get_mut(..len)
    }

    /// Forgets everything staged; for after the flush phase.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether it should be flushed before more connections are served.
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
