//! Compares the queue with a model: a plain queue of bytes, each with its origin.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::buf::outbox::Outbox;
use crate::metrics::{Metrics, WaitingFile};

/// A queue with the buffers of a reactor, and the output that is expected of it.
struct Bench {
    queue: OutQueue,
    arena: Arena,
    pool: BufferPool,
    file: Arc<File>,
    metrics: Arc<Metrics>,
    expected: VecDeque<Byte>,
    unseen: VecDeque<u8>,
    next: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Byte {
    value: u8,
    in_file: bool,
}

/// Returns the byte at an offset of the file of these tests.
fn content(offset: u64) -> u8 {
    (offset * 7) as u8
}

impl Bench {
    fn new(arena: Arena) -> Self {
        Self {
            queue: OutQueue::default(),
            arena,
            pool: BufferPool::new(),
            file: Arc::new(File::open("/dev/null").expect("opens")),
            metrics: Arc::default(),
            expected: VecDeque::new(),
            unseen: VecDeque::new(),
            next: 0,
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let bytes = (0..len).map(|_| {
            self.next = self.next.wrapping_add(1);
            self.next
        });
        bytes.collect()
    }

    fn expect(&mut self, bytes: &[u8]) {
        let byte = |value: &u8| Byte {
            value: *value,
            in_file: false,
        };
        self.expected.extend(bytes.iter().map(byte));
        self.unseen.extend(bytes);
    }

    fn outbox(&mut self) -> Outbox<'_> {
        Outbox::new(&mut self.queue, &mut self.arena, &mut self.pool)
    }

    fn put(&mut self, len: usize) {
        let bytes = self.bytes(len);
        self.outbox().put(&bytes);
        self.expect(&bytes);
    }

    fn put_shared(&mut self, len: usize) {
        let bytes = self.bytes(len);
        self.outbox().put_shared(bytes.clone().into());
        self.expect(&bytes);
    }

    fn put_and_roll_back(&mut self, copied: usize, shared: usize) {
        let before = self.queue.len();
        let bytes = self.bytes(copied + shared);
        let mut outbox = Outbox::new(&mut self.queue, &mut self.arena, &mut self.pool);
        outbox.put(&bytes[..copied]);
        outbox.put_shared(Bytes::copy_from_slice(&bytes[copied..]));
        outbox.rollback(before);
    }

    fn put_file(&mut self, offset: u64, len: usize) {
        let stretch = FileStretch {
            file: self.file.clone(),
            offset,
            left: len,
            _waiting: WaitingFile::new(&self.metrics),
        };
        self.queue
            .enqueue_file(stretch, &self.arena, &mut self.pool);
        self.expected.extend((0..len as u64).map(|n| Byte {
            value: content(offset + n),
            in_file: true,
        }));
    }

    /// Sends the oldest bytes as the flush phase does, to a kernel that accepts at most `room` of them.
    fn send(&mut self, room: usize) {
        self.queue.unstage(&self.arena, &mut self.pool);
        let unseen = &mut self.unseen;
        self.queue.show_unseen(|bytes| {
            let shown: Vec<u8> = unseen.drain(..bytes.len()).collect();
            assert_eq!(shown, bytes);
        });
        assert!(self.unseen.is_empty(), "not everything was shown");
        let n = match self.queue.front() {
            Front::Pipe(..) => unreachable!("no pipe was put in"),
            Front::File(stretch) => {
                let n = room.min(stretch.left);
                let (start, end) = (stretch.offset, stretch.offset + n as u64);
                for offset in start..end {
                    let value = content(offset);
                    let taken = self.expected.pop_front();
                    assert_eq!(
                        taken,
                        Some(Byte {
                            value,
                            in_file: true
                        })
                    );
                }
                n
            }
            Front::Memory => {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = self.queue.slices(&mut slices);
                let bytes = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.iter().copied());
                let bytes: Vec<u8> = bytes.collect();
                let n = room.min(bytes.len());
                for value in &bytes[..n] {
                    let taken = self.expected.pop_front().map(|byte| byte.value);
                    assert_eq!(taken, Some(*value));
                }
                assert!(count > 0 || self.expected.is_empty(), "it is stuck");
                n
            }
        };
        self.queue.backlog_sent(n, &mut self.pool);
    }

    /// Reads some of the first file into memory, and then some more of it.
    fn read_file(&mut self, len: usize) {
        for _ in 0..2 {
            let Some(stretch) = self.queue.next_file() else {
                return;
            };
            let (start, len) = (stretch.offset, len.min(stretch.left) as u64);
            let bytes: Vec<u8> = (start..start + len).map(content).collect();
            self.queue.file_read(bytes.into());
            let read = self.expected.iter_mut().filter(|byte| byte.in_file);
            read.take(len as usize)
                .for_each(|byte| byte.in_file = false);
        }
    }

    fn put_foreign(&mut self, len: usize) {
        let bytes = self.bytes(len);
        self.expected.extend(bytes.iter().map(|value| Byte {
            value: *value,
            in_file: false,
        }));
        self.queue
            .enqueue_foreign(bytes.into(), &self.arena, &mut self.pool);
    }

    /// Returns the offset of the first file's next byte to send, and the number of bytes left to send.
    fn front_file(&self) -> Option<(u64, usize)> {
        match self.queue.front() {
            Front::File(stretch) => Some((stretch.offset, stretch.left)),
            _ => None,
        }
    }

    fn check(&self) {
        let in_files = self.expected.iter().filter(|byte| byte.in_file).count();
        assert_eq!(self.queue.len(), self.expected.len());
        let files = self.queue.order.as_ref().map_or(0, |order| order.files());
        let in_memory = self.queue.len() - in_files + files * STRETCH_COST;
        assert_eq!(self.queue.in_memory(), in_memory);
    }
}

#[test]
fn a_stretch_of_a_file_waits_behind_what_was_written_before_and_holds_up_what_comes_after() {
    let mut bench = Bench::new(Arena::new());
    bench.put(10);
    bench.put_file(100, 1000);
    bench.put(5);
    assert_eq!(bench.queue.len(), 1015);
    assert_eq!(bench.queue.in_memory(), 15 + STRETCH_COST);
    assert!(matches!(bench.queue.front(), Front::Memory));
    bench.send(usize::MAX);
    assert_eq!(bench.front_file(), Some((100, 1000)));
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    assert_eq!(bench.queue.slices(&mut slices), 0);
    bench.send(400);
    assert_eq!(bench.front_file(), Some((500, 600)));
    bench.send(usize::MAX);
    bench.send(usize::MAX);
    assert_eq!(bench.queue.len(), 0);
    assert!(bench.queue.order.is_none());
}

#[test]
fn an_empty_stretch_leaves_no_trace() {
    let mut bench = Bench::new(Arena::new());
    bench.put_file(7, 0);
    assert!(bench.queue.order.is_none());
    bench.check();
}

proptest! {
    #[test]
    fn bytes_leave_in_the_order_they_were_written(
        steps in vec((0..11, 0..3000usize, 0..3000usize), 1..60),
        staging in any::<bool>(),
    ) {
        let arena = if staging { Arena::new() } else { Arena::empty() };
        let mut bench = Bench::new(arena);
        for (step, one, other) in steps {
            match step {
                0..2 => bench.put(one),
                2 => bench.put_shared(one),
                3..5 => bench.put_file(one as u64, other),
                5 => bench.put_and_roll_back(one, other),
                6 => bench.read_file(one.max(1)),
                7 => bench.put_foreign(one),
                _ => bench.send(one),
            }
            bench.check();
        }
        while bench.queue.len() > 0 {
            bench.send(usize::MAX);
            bench.check();
        }
        assert!(bench.expected.is_empty());
        assert_eq!(bench.pool.lent(), 0);
    }
}
