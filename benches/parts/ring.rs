//! Compares the byte ring with a `VecDeque<u8>` that does the same.

use std::collections::VecDeque;
use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epicycle::internals::Ring;

/// The numbers of bytes written and consumed at a time.
const SIZES: [usize; 3] = [64, 1 << 10, 16 << 10];

criterion_group!(benches, unwrapped, wrapped, make_contiguous);
criterion_main!(benches);

/// The ring is empty before each write, so that its contents never wrap around the end.
fn unwrapped(c: &mut Criterion) {
    let mut group = c.benchmark_group("write+consume/unwrapped");
    for size in SIZES {
        let bytes = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("Ring", size), |b| {
            let mut ring = Ring::over(vec![0; size].into());
            b.iter(|| {
                ring.write(black_box(&bytes));
                black_box(ring.as_slices());
                ring.consume(size);
            });
        });
        group.bench_function(BenchmarkId::new("VecDeque", size), |b| {
            let mut deque = VecDeque::<u8>::with_capacity(size);
            b.iter(|| {
                deque.extend(black_box(&bytes));
                black_box(deque.as_slices());
                deque.drain(..size);
            });
        });
    }
    group.finish();
}

/// One byte stays in the ring each time, so that nearly every write wraps around the end.
fn wrapped(c: &mut Criterion) {
    let mut group = c.benchmark_group("write+consume/wrapped");
    for size in SIZES {
        let bytes = vec![7; size - 1];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("Ring", size), |b| {
            let mut ring = full_ring(size);
            b.iter(|| {
                ring.consume(bytes.len());
                ring.write(black_box(&bytes));
                black_box(ring.as_slices());
            });
        });
        group.bench_function(BenchmarkId::new("VecDeque", size), |b| {
            let mut deque = full_deque(size);
            b.iter(|| {
                deque.drain(..bytes.len());
                deque.extend(black_box(&bytes));
                black_box(deque.as_slices());
            });
        });
    }
    group.finish();
}

fn make_contiguous(c: &mut Criterion) {
    let mut group = c.benchmark_group("make_contiguous");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("Ring", size), |b| {
            let wrapped = || {
                let mut ring = full_ring(size);
                ring.consume(size / 2);
                ring.write(&vec![7; size / 2]);
                ring
            };
            b.iter_batched_ref(
                wrapped,
                |ring| {
                    black_box(ring.make_contiguous());
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("VecDeque", size), |b| {
            let wrapped = || {
                let mut deque = full_deque(size);
                deque.rotate_left(size / 2);
                deque
            };
            b.iter_batched_ref(
                wrapped,
                |deque| {
                    black_box(deque.make_contiguous());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn full_ring(size: usize) -> Ring {
    let mut ring = Ring::over(vec![0; size].into());
    ring.write(&vec![7; size]);
    ring
}

/// A deque of exactly the ring's capacity.
fn full_deque(size: usize) -> VecDeque<u8> {
    vec![7; size].into()
}
