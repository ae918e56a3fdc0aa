//! Kernel pipes, and what is due about connections that are joined.

use std::collections::VecDeque;
use std::io;

use crate::engine::slots::ConnId;
use crate::sys::transfer::KernelPipe;

/// How a connection is joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipeEnd {
    pub(crate) partner: ConnId,
    /// Whether the kernel can move bytes from here to there.
    pub(crate) splices: bool,
    /// Whether so much comes that moving it in the kernel pays.
    pub(crate) bulk: bool,
}

/// What is due about joined connections, and the kernel's pipes that they share.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) tasks: VecDeque<PipeTask>,
    idle: Vec<KernelPipe>,
    /// How many pipes hold bytes that a connection has not sent yet.
    lent: usize,
}

/// Something that concerns two connections, to be done by the loop, which has both.
#[derive(Debug)]
pub(crate) enum PipeTask {
    /// The first has asked to be joined with the second.
    Join(ConnId, ConnId),
    /// One that is joined can receive or send.
    Move(ConnId),
    /// The one that this was joined with ends; `broken` when its bytes are lost.
    Ended { survivor: ConnId, broken: bool },
}

/// The most pipes of one reactor. Each takes two descriptors and holds at most 1 MiB; without one, bytes are copied.
const MAX_PIPES: usize = 32;

/// The most pipes kept for the next use: as long as all peers are fast, one is enough.
const IDLE_PIPES: usize = 4;

impl Pipes {
    /// An empty pipe, unless too many are in use.
    ///
    /// # Errors
    ///
    /// Why the system gives none.
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

    /// How many there are, in use or idle.
    pub(crate) fn open(&self) -> usize {
        self.lent + self.idle.len()
    }

    /// Counts a pipe that was lent as gone, with what it held.
    pub(crate) fn forget(&mut self) {
        self.lent -= 1;
    }
}
