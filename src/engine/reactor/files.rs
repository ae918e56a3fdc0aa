//! Sending files: by the kernel where it can, otherwise by reading them on another thread.

use std::io;

use super::EventLoop;
use crate::buf::order::{FileStretch, Front};
use crate::engine::conn::close::CloseReason;
use crate::engine::handler::context::{Context, Extras, Link};
use crate::engine::handler::{Command, EventHandler};
use crate::engine::slots::ConnId;
use crate::error::StreamError;
use crate::sys::transfer;

/// The number of bytes that are read from a file at a time, where the kernel cannot send it. At most two such chunks
/// of a connection are in memory: one that is being sent and one that is being read.
const CHUNK: usize = 128 << 10;

/// Offers the file at the front of the backlog to the kernel, or starts to read it. Returns the number of bytes
/// taken.
#[cold]
pub(super) fn offer<H: EventHandler>(
    link: &mut Link,
    cx: &mut Context<H>,
    budget: usize,
) -> Result<usize, StreamError> {
    let Front::File(FileStretch {
        file, offset, left, ..
    }) = link.state.out.front()
    else {
        return Ok(0);
    };
    if link.stream.is_plain() {
        let len = (*left).min(budget);
        match transfer::send_file(&link.stream, file, *offset, len) {
            Ok(0) => {
                abort_sending(link, cx, transfer::file_ended());
                return Ok(0);
            }
            Ok(sent) => {
                link.state.out.backlog_sent(sent, &mut cx.buffers.pool);
                return Ok(sent);
            }
            // The kernel cannot send the files of some file systems.
            Err(error) if transfer::is_unsupported(&error) => {}
            Err(error) if concerns_file(&error) => {
                abort_sending(link, cx, error);
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
    }
    link.state.set_awaits_file(true);
    read_ahead(link, cx);
    Ok(0)
}

/// Starts to read the next chunk of a file, if it is next to be sent and not already being read.
pub(super) fn read_ahead<H: EventHandler>(link: &mut Link, cx: &mut Context<H>) {
    let Some(stretch) = link.state.out.next_file() else {
        return;
    };
    let extras = link.extras.get_or_insert_default();
    if extras.reads_file {
        return;
    }
    extras.reads_file = true;
    let (file, offset, left) = (stretch.file.clone(), stretch.offset, stretch.left);
    let (id, engine) = (link.state.id, cx.engine.clone());
    let read = move || {
        let chunk = transfer::read_file(&file, offset, left.min(CHUNK));
        // A busy reactor must not keep the file open.
        drop(file);
        let mailbox = &engine.peer(id.reactor()).mailbox;
        // Each connection waits for one chunk, so their number is bounded. A reactor that has ended needs none.
        let _ = mailbox.push_unbounded(Command::FileRead(id, chunk));
    };
    if let Err(error) = cx.engine.read(read) {
        abort_sending(link, cx, error);
    }
}

impl<H: EventHandler> EventLoop<H> {
    /// Puts a chunk that was read into the output, and starts to read the next one.
    pub(super) fn on_file_read(&mut self, id: ConnId, chunk: io::Result<Vec<u8>>) {
        let Self {
            connections, cx, ..
        } = self;
        let Some(mut slot) = connections.get(id) else {
            return;
        };
        let link = &mut slot.link;
        if !link.state.still_sends() {
            return;
        }
        if let Some(Extras { reads_file, .. }) = link.extras.as_deref_mut() {
            *reads_file = false;
        }
        match chunk {
            Ok(chunk) => {
                link.state.out.file_read(chunk.into());
                link.state.set_awaits_file(false);
                read_ahead(link, cx);
                cx.lists.mark_dirty(&mut link.state);
            }
            Err(error) => abort_sending(link, cx, error),
        }
    }
}

/// Aborts the connection because the rest of a file cannot be sent. The peer must not take a part for the whole.
fn abort_sending<H: EventHandler>(link: &mut Link, cx: &mut Context<H>, error: io::Error) {
    log::warn!(target: "epicycle::conn", "{}: {error}", link.state.name());
    cx.abort(link, CloseReason::Io(error));
}

/// Returns true if the file has failed, and not the socket.
fn concerns_file(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, NotConnected, TimedOut,
        WouldBlock,
    };

    !matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | Interrupted
            | NotConnected
            | TimedOut
            | WouldBlock
    )
}
