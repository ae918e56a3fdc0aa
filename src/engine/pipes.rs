//! Kernel pipes, and the pending work of piped connections.

use std::collections::VecDeque;
use std::io;

use crate::engine::slots::ConnId;
use crate::sys::transfer::KernelPipe;

/// One end of a pipe between two connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipeEnd {
    pub(crate) partner: ConnId,
    /// True if the kernel can move bytes from here to the partner.
    pub(crate) splices: bool,
    /// True if so much input arrives that moving it in the kernel is worth it.
    pub(crate) bulk: bool,
}

/// The pending work of piped connections, and the kernel pipes that they share.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) tasks: VecDeque<PipeTask>,
    idle: Vec<KernelPipe>,
    /// The number of kernel pipes that hold bytes which a connection has not sent yet.
    lent: usize,
}

/// Work that concerns two connections. The loop does it, because it can access both.
#[derive(Debug)]
pub(crate) enum PipeTask {
    /// The first connection has asked to be joined with the second.
    Join(ConnId, ConnId),
    /// A piped connection can receive or send.
    Move(ConnId),
    /// The partner of `survivor` has ended. `broken` is true if bytes of it are lost.
    Ended { survivor: ConnId, broken: bool },
}

/// The most kernel pipes of one reactor. Each takes two descriptors and holds at most 1 MiB. Without one, bytes are
/// copied.
const MAX_PIPES: usize = 32;

/// The most kernel pipes kept for the next use. As long as all peers are fast, one is enough.
const IDLE_PIPES: usize = 4;

impl Pipes {
    /// Returns an empty pipe, or `None` if too many are in use.
    ///
    /// # Errors
    ///
    /// The error of `pipe2(2)`.
    pub(crate) fn take(&mut self) -> io::Result<Option<KernelPipe>> {
        if self.lent >= MAX_PIPES {
            return Ok(None);
        }
        let pipe = self.idle.pop().map_or_else(KernelPipe::new, Ok)?;
        self.lent += 1;
        Ok(Some(pipe))
    }

    /// Takes an empty pipe back.
    pub(crate) fn put_back(&mut self, pipe: KernelPipe) {
        self.lent -= 1;
        if self.idle.len() < IDLE_PIPES {
            self.idle.push(pipe);
        }
    }

    /// Returns the number of pipes, in use or idle.
    pub(crate) fn open(&self) -> usize {
        self.lent + self.idle.len()
    }

    /// Counts a lent pipe as lost, with its contents.
    pub(crate) fn forget(&mut self) {
        self.lent -= 1;
    }
}
