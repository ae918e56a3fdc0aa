//! Files as output.

use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::{Conn, EventHandler, WriteError};
use crate::buf::order::FileStretch;
use crate::buf::queue::STRETCH_COST;
use crate::metrics::WaitingFile;

impl<H: EventHandler> Conn<'_, H> {
    /// Writes a part of a file: `..` is all of it, as long as it is now.
    ///
    /// It is sent in order with the other writes, as the peer takes it, and never lies in memory as a whole. On Linux
    /// a TCP or Unix socket is given it by the kernel (`sendfile(2)`); a thread of the engine's reads it, 128 KiB at a
    /// time and at most twice that in memory, where the kernel cannot, as over TLS. All of its bytes count for the
    /// water marks, [`buffered_out`](Self::buffered_out) and [`write_then`](Self::write_then); the outbound limit,
    /// which bounds memory, counts 4 KiB for it. [`pre_write`](EventHandler::pre_write) does not see it.
    ///
    /// The file's own position is neither used nor moved, so one `Arc<File>` may be sent on many connections at once.
    /// It stays open until the part is sent or the connection has ended. Opening a file blocks, so do that on a
    /// [`WorkerPool`](crate::WorkerPool). `sendfile(2)` waits for the disk where the kernel does not have the part
    /// in memory yet.
    ///
    /// A file that waits costs a descriptor. At most [`max_queued_files`](crate::Server::max_queued_files) may wait for one
    /// peer, and with more than a quarter of them waiting it is treated as one above the
    /// [high-water mark](crate::Server::high_water).
    ///
    /// Should the file get shorter meanwhile, or fail to be read, the connection is aborted, for the peer must not
    /// take a part for the whole.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); [`WriteError::TooManyFiles`]; [`WriteError::Range`] when the file has no such
    /// part, and [`WriteError::File`] when it is a directory or something else without a length, or this is a UDP session.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use epicycle::{Action, Conn, Service};
    /// use std::{fs::File, sync::Arc};
    ///
    /// fn first_kib(conn: &mut Conn<'_, Service>, file: &Arc<File>) -> Action {
    ///     conn.send_file(file.clone(), ..1024).into()
    /// }
    /// ```
    pub fn send_file(
        &mut self,
        file: impl Into<Arc<File>>,
        range: impl RangeBounds<u64>,
    ) -> Result<(), WriteError> {
        let file = file.into();
        if self.link.state.is_datagram() {
            let error = "a UDP session is no stream; read the file and write datagrams";
            let error = io::Error::new(io::ErrorKind::Unsupported, error);
            return Err(WriteError::File(error));
        }
        self.admit(STRETCH_COST)?;
        let (offset, left) = part_of(&file, &range)?;
        if self.buffered_out().checked_add(left).is_none() {
            let error = "more waits to be sent than can be counted";
            return Err(WriteError::File(io::Error::other(error)));
        }
        if left > 0 {
            self.admit_file()?;
            let stretch = FileStretch {
                file,
                offset,
                left,
                _waiting: WaitingFile::new(&self.cx.metrics),
            };
            let out = &mut self.link.state.out;
            out.enqueue_file(stretch, &self.cx.buffers.arena, &mut self.cx.buffers.pool);
            // Where there is none, the kernel is offered them before the next frame, however small they are.
            let _ = self.has_room();
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        Ok(())
    }

    /// Checks that another file may wait.
    fn admit_file(&mut self) -> Result<(), WriteError> {
        let (queued, limit) = (self.link.state.out.files(), self.cx.limits.max_files);
        if queued < limit {
            return Ok(());
        }
        self.overflow(0);
        Err(WriteError::TooManyFiles { queued, limit })
    }
}

/// Where a range of a file begins, and how long it is.
fn part_of(file: &File, range: &impl RangeBounds<u64>) -> Result<(u64, usize), WriteError> {
    let metadata = file.metadata().map_err(WriteError::File)?;
    if !metadata.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(WriteError::File(error));
    }
    let len = metadata.len();
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    let part = end.checked_sub(start).filter(|_| end <= len);
    let part = part.ok_or(WriteError::Range { start, end, len })?;
    // Where addresses have 32 bits, so have the counts of bytes.
    let left = usize::try_from(part).map_err(|_| {
        let error = "send less than 4 GiB at a time on this platform";
        WriteError::File(io::Error::new(io::ErrorKind::FileTooLarge, error))
    })?;
    Ok((start, left))
}
