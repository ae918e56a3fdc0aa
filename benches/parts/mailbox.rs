//! Compares the mailbox with a bounded crossbeam channel that has the same wake-up protocol around it.

#![allow(missing_docs)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epicycle::internals::{Mailbox, Wake};

/// An item of about the size of a request to a reactor.
type Item = [u64; 8];

const CAPACITY: usize = 65_536;
const BATCH: usize = 10_000;

/// Counts wake-ups instead of making them.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Wake for Counter {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

trait Queue: Sync {
    fn push(&self, item: Item) -> bool;
    fn take(&self, last: VecDeque<Item>) -> VecDeque<Item>;
}

impl Queue for Mailbox<Item, Counter> {
    fn push(&self, item: Item) -> bool {
        Mailbox::push(self, item).is_ok()
    }

    fn take(&self, mut last: VecDeque<Item>) -> VecDeque<Item> {
        self.try_sleep();
        last.clear();
        Mailbox::take(self, last)
    }
}

struct Channel {
    sender: crossbeam_channel::Sender<Item>,
    receiver: crossbeam_channel::Receiver<Item>,
    asleep: AtomicBool,
    waker: Counter,
}

impl Queue for Channel {
    fn push(&self, item: Item) -> bool {
        let sent = self.sender.try_send(item).is_ok();
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
        sent
    }

    fn take(&self, mut last: VecDeque<Item>) -> VecDeque<Item> {
        self.asleep.store(true, Ordering::SeqCst);
        last.clear();
        last.extend(self.receiver.try_iter());
        last
    }
}

fn one_thread(queue: &dyn Queue, received: &mut VecDeque<Item>) {
    for n in 0..64 {
        queue.push([n; 8]);
    }
    *received = queue.take(std::mem::take(received));
    black_box(received);
}

fn many_threads(queue: &dyn Queue, senders: usize) {
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(|| {
                for n in 0..BATCH / senders {
                    while !queue.push([n as u64; 8]) {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut received = VecDeque::new();
        let mut count = 0;
        while count < BATCH / senders * senders {
            received = queue.take(received);
            count += received.len();
        }
    });
}

fn mailbox(c: &mut Criterion) {
    let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
    let channel = Channel {
        sender,
        receiver,
        asleep: AtomicBool::new(false),
        waker: Counter::default(),
    };
    let mailbox = Mailbox::new(CAPACITY, Counter::default());
    let queues: [(&str, &dyn Queue); 2] = [("mailbox", &mailbox), ("crossbeam", &channel)];

    let mut group = c.benchmark_group("push and drain 64, one thread");
    group.throughput(Throughput::Elements(64));
    for (name, queue) in queues {
        let mut received = VecDeque::new();
        group.bench_function(name, |b| b.iter(|| one_thread(queue, &mut received)));
    }
    group.finish();

    let mut group = c.benchmark_group("10,000 items from several threads");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.sample_size(20);
    for (name, queue) in queues {
        for senders in [1, 4] {
            group.bench_function(BenchmarkId::new(name, senders), |b| {
                b.iter(|| many_threads(queue, senders));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
