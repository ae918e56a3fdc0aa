//! The order of a backlog that consists of more than one ring of copied bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::metrics::WaitingFile;
use crate::sys::transfer::KernelPipe;

/// The segments of a backlog, oldest first.
#[derive(Debug, Default)]
pub(super) struct Order {
    segments: VecDeque<Segment>,
    /// The number of file segments.
    files: usize,
    /// The number of bytes in files and pipes.
    outside_memory: usize,
    /// The number of foreign bytes in memory.
    foreign: usize,
}

#[derive(Debug)]
pub(super) enum Segment {
    /// This many bytes of the ring.
    Ring(usize),
    Shared(Bytes),
    /// Bytes that the application did not write: bytes of the file segment that follows or ended here, or bytes received
    /// from a joined connection.
    Foreign(Bytes),
    /// Never empty.
    File(FileStretch),
    /// This many bytes in a kernel pipe, at least one.
    Piped(KernelPipe, usize),
}

/// A part of a file that waits to be sent.
#[derive(Debug)]
pub(crate) struct FileStretch {
    pub(crate) file: Arc<File>,
    /// The offset in the file of the next byte to send.
    pub(crate) offset: u64,
    /// The number of bytes left to send.
    pub(crate) left: usize,
    pub(crate) _waiting: WaitingFile,
}

/// The kind of a backlog's first segment.
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

    /// Returns the number of bytes in files and pipes.
    pub(super) fn outside_memory(&self) -> usize {
        self.outside_memory
    }

    /// Returns the number of bytes that the application did not write.
    pub(super) fn not_own(&self) -> usize {
        self.outside_memory + self.foreign
    }

    /// Appends a segment. Merges it with the last one if both are in the ring.
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
                self.outside_memory += stretch.left;
            }
            Segment::Piped(_, len) => self.outside_memory += len,
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

    /// Returns the index of the next file segment to read, if there is one: the first segment, or the one behind bytes that
    /// were read from it.
    fn next_place(&self) -> usize {
        usize::from(matches!(self.segments.front(), Some(Segment::Foreign(_))))
    }

    pub(super) fn file_read(&mut self, bytes: Bytes) {
        let place = self.next_place();
        if let Some(Segment::File(stretch)) = self.segments.get_mut(place) {
            stretch.advance(bytes.len());
            self.outside_memory -= bytes.len();
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
        self.outside_memory -= n;
        if *left > 0 {
            return None;
        }
        match self.segments.pop_front() {
            Some(Segment::Piped(pipe, _)) => Some(pipe),
            _ => None,
        }
    }

    /// Drops the `n` oldest bytes. Returns the number of them that were in the ring.
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
                    self.outside_memory -= taken;
                    self.files -= usize::from(stretch.left == 0);
                }
                // Bytes of a pipe are removed by `pipe_sent`.
                Segment::Piped(..) => break,
            }
            if front.len() > 0 {
                break;
            }
            self.segments.pop_front();
        }
        in_ring
    }

    /// Drops the `n` newest bytes, which their writer takes back. Returns the number of them that were in the ring.
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
                // A writer cannot take such bytes back.
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
