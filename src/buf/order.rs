//! The order of a backlog that is more than one ring of copied bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::metrics::WaitingFile;
use crate::sys::transfer::KernelPipe;

/// What lies in a backlog, oldest first.
#[derive(Debug, Default)]
pub(super) struct Order {
    segments: VecDeque<Segment>,
    /// How many stretches of files there are.
    files: usize,
    /// How many bytes are in files and pipes.
    elsewhere: usize,
    /// How many bytes in memory are foreign.
    foreign: usize,
}

#[derive(Debug)]
pub(super) enum Segment {
    /// So many bytes of the ring.
    Ring(usize),
    Shared(Bytes),
    /// Bytes that the application did not write: read from the file that follows or has ended here, or received from
    /// a joined connection.
    Foreign(Bytes),
    /// Never empty.
    File(FileStretch),
    /// So many bytes in a pipe of the kernel's; never none.
    Piped(KernelPipe, usize),
}

/// A part of a file that is to be sent.
#[derive(Debug)]
pub(crate) struct FileStretch {
    pub(crate) file: Arc<File>,
    /// Where the next byte to send lies.
    pub(crate) offset: u64,
    /// How many bytes are left to send.
    pub(crate) left: usize,
    pub(crate) _waiting: WaitingFile,
}

/// What a backlog begins with.
#[derive(Debug)]
pub(crate) enum Front<'a> {
    Memory,
    File(&'a FileStretch),
    Pipe(&'a KernelPipe, usize),
}

impl Order {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// How many bytes are in files and pipes.
    pub(super) fn elsewhere(&self) -> usize {
        self.elsewhere
    }

    /// How many bytes the application did not write.
    pub(super) fn not_own(&self) -> usize {
        self.elsewhere + self.foreign
    }

    /// Appends a segment.
    pub(super) fn push(&mut self, segment: Segment) {
        match &segment {
            Segment::Ring(more) => {
                if let Some(Segment::Ring(len)) = self.segments.back_mut() {
                    *len += more;
                    return;
                }
            }
            Segment::Shared(_) => {}
            Segment::Foreign(bytes) => self.foreign += bytes.len(),
            Segment::File(stretch) => {
                self.files += 1;
                self.elsewhere += stretch.left;
            }
            Segment::Piped(_, len) => self.elsewhere += len,
        }
        self.segments.push_back(segment);
    }

    pub(super) fn front(&self) -> Front<'_> {
        match self.segments.front() {
            Some(Segment::File(stretch)) => Front::File(stretch),
            Some(Segment::Piped(pipe, len)) => Front::Pipe(pipe, *len),
            _ => Front::Memory,
        }
    }

    pub(super) fn next_file(&self) -> Option<&FileStretch> {
        match self.segments.get(self.next_place())? {
            Segment::File(stretch) => Some(stretch),
            _ => None,
        }
    }

    /// Where a file stands that is to be read next, if one does.
    fn next_place(&self) -> usize {
        usize::from(matches!(self.segments.front(), Some(Segment::Foreign(_))))
    }

    pub(super) fn file_read(&mut self, bytes: Bytes) {
        let place = self.next_place();
        if let Some(Segment::File(stretch)) = self.segments.get_mut(place) {
            stretch.advance(bytes.len());
            self.elsewhere -= bytes.len();
            self.foreign += bytes.len();
            if stretch.left == 0 {
                self.segments.remove(place);
                self.files -= 1;
            }
            self.segments.insert(place, Segment::Foreign(bytes));
        }
    }

    pub(super) fn pipe_sent(&mut self, n: usize) -> Option<KernelPipe> {
        let Some(Segment::Piped(_, left)) = self.segments.front_mut() else {
            return None;
        };
        *left -= n;
        self.elsewhere -= n;
        if *left > 0 {
            return None;
        }
        match self.segments.pop_front() {
            Some(Segment::Piped(pipe, _)) => Some(pipe),
            _ => None,
        }
    }

    /// Drops the `n` oldest bytes; returns how many of them were in the ring.
    pub(super) fn take_oldest(&mut self, n: usize) -> usize {
        let mut left = n;
        let mut in_ring = 0;
        while left > 0 {
            let Some(front) = self.segments.front_mut() else {
                break;
            };
            let taken = left.min(front.len());
            left -= taken;
            match front {
                Segment::Ring(len) => {
                    *len -= taken;
                    in_ring += taken;
                }
                Segment::Shared(bytes) => bytes::Buf::advance(bytes, taken),
                Segment::Foreign(bytes) => {
                    bytes::Buf::advance(bytes, taken);
                    self.foreign -= taken;
                }
                Segment::File(stretch) => {
                    stretch.advance(taken);
                    self.elsewhere -= taken;
                    self.files -= usize::from(stretch.left == 0);
                }
                // Its sender tells by `pipe_sent`.
                Segment::Piped(..) => break,
            }
            if front.len() > 0 {
                break;
            }
            self.segments.pop_front();
        }
        in_ring
    }

    /// Drops the `n` newest bytes, which their writer takes back; returns how many of them were in the ring.
    pub(super) fn take_newest(&mut self, n: usize) -> usize {
        let mut left = n;
        let mut in_ring = 0;
        while left > 0 {
            let Some(back) = self.segments.back_mut() else {
                break;
            };
            let taken = left.min(back.len());
            left -= taken;
            match back {
                Segment::Ring(len) => {
                    *len -= taken;
                    in_ring += taken;
                }
                Segment::Shared(bytes) => bytes.truncate(bytes.len() - taken),
                // No writer has such bytes to take back.
                Segment::Foreign(_) | Segment::File(_) | Segment::Piped(..) => break,
            }
            if back.len() > 0 {
                break;
            }
            self.segments.pop_back();
        }
        in_ring
    }
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Segment::Shared(bytes) | Segment::Foreign(bytes) => bytes.len(),
            Segment::File(stretch) => stretch.left,
            Segment::Ring(len) | Segment::Piped(_, len) => *len,
        }
    }
}

impl FileStretch {
    fn advance(&mut self, n: usize) {
        self.offset += n as u64;
        self.left -= n;
    }
}
