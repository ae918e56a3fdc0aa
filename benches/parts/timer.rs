//! The timer wheel: the costs of setting and cancelling a timer, of its expiry, and of pending timers.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use epicycle::internals::Wheel;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// An idle timeout that traffic postpones, which is the common case.
fn insert_and_cancel(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer/insert+cancel");
    group.throughput(Throughput::Elements(1));
    for pending in [0, 1_000_000] {
        let mut wheel = wheel_with(pending);
        group.bench_function(format!("{pending} pending"), |b| {
            b.iter(|| {
                let key = wheel.insert(black_box(MINUTE), 0);
                wheel.cancel(black_box(key))
            });
        });
    }
    group.finish();
}

fn insert_and_expire(c: &mut Criterion) {
    const TIMERS: u64 = 10_000;
    let mut random = fastrand::Rng::with_seed(1);
    let deadlines: Vec<u64> = (0..TIMERS).map(|_| random.u64(1..=MINUTE)).collect();
    let mut group = c.benchmark_group("timer/insert+expire");
    group.throughput(Throughput::Elements(TIMERS));
    group.bench_function("over a minute, woken by next_deadline", |b| {
        b.iter_batched_ref(
            || Wheel::new(1),
            |wheel| {
                for &deadline in &deadlines {
                    wheel.insert(deadline, 0u32);
                }
                while let Some(next) = wheel.next_deadline() {
                    wheel.advance(next);
                    while let Some((_, value)) = wheel.pop_expired() {
                        black_box(value);
                    }
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Expired timers are set again, so that a million stay pending during the whole run.
fn advance_with_a_million_pending(c: &mut Criterion) {
    const PENDING: u32 = 1_000_000;
    let mut group = c.benchmark_group("timer/advance, 1000000 pending");
    for (name, tick) in [("1 ms", 1), ("1 s", 1000)] {
        let mut wheel = wheel_with(PENDING);
        let mut now = 0;
        let mut random = fastrand::Rng::with_seed(2);
        group.bench_function(name, |b| {
            b.iter(|| {
                now += tick;
                wheel.advance(now);
                while let Some((_, value)) = wheel.pop_expired() {
                    wheel.insert(now + random.u64(1..=HOUR), value);
                }
            });
        });
    }
    group.finish();
}

fn wheel_with(pending: u32) -> Wheel<u32> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut wheel = Wheel::new(1);
    for value in 0..pending {
        wheel.insert(random.u64(1..=HOUR), value);
    }
    wheel
}

criterion_group!(
    benches,
    insert_and_cancel,
    insert_and_expire,
    advance_with_a_million_pending
);
criterion_main!(benches);
