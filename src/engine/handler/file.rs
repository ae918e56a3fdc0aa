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
    /// Writes a part of a file. The range `..` is the whole file, at its present length.
    ///
    /// The part is sent in order with the other writes, and never lies in memory as a whole. On Linux, for TCP and
    /// Unix sockets, the kernel sends it (`sendfile(2)`). Where the kernel cannot, as over TLS, a thread of the
    /// engine reads it, 128 KiB at a time. At most twice that is in memory. All of its bytes count for the water
    /// marks, [`buffered_out`](Self::buffered_out) and [`write_then`](Self::write_then). The outbound limit bounds
    /// memory, so it counts 4 KiB for the part. [`pre_write`](EventHandler::pre_write) does not receive it.
    ///
    /// The file's own position is neither used nor moved, so one `Arc<File>` may be sent on many connections at once.
    /// The file stays open until the part is sent or the connection has ended. Opening a file blocks, so do that on a
    /// [`WorkerPool`](crate::WorkerPool). `sendfile(2)` waits for the disk if the part is not in the page cache.
    ///
    /// A file that waits costs a descriptor. At most [`max_queued_files`](crate::Server::max_queued_files) may wait
    /// for one peer. With more than a quarter of them waiting, the connection counts as above its [high-water
    /// mark](crate::Server::high_water).
    ///
    /// If the file shrinks meanwhile or cannot be read, the connection is aborted, so that the peer does not take a
    /// part for the whole.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write). [`WriteError::TooManyFiles`]. [`WriteError::Range`] if the file has no such
    /// part. [`WriteError::File`] if it is a directory or something else without a length, or if this is a UDP
    /// session.
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
            // Without room, the files are offered to the kernel before the next frame, however short they are.
            let _ = self.has_room();
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        Ok(())
    }

    /// Checks that another file may wait.
    fn admit_file(&mut self) -> Result<(), WriteError> {
        let (queued, limit) = (self.link.state.out.files(), self.limits().max_files);
        if queued < limit {
            return Ok(());
        }
        self.overflow(0);
        Err(WriteError::TooManyFiles { queued, limit })
    }
}

/// Returns the start of a range of a file, and its length.
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
    // On 32-bit platforms the counts of bytes have 32 bits too.
    let left = usize::try_from(part).map_err(|_| {
        let error = "send less than 4 GiB at a time on this platform";
        WriteError::File(io::Error::new(io::ErrorKind::FileTooLarge, error))
    })?;
    Ok((start, left))
}
