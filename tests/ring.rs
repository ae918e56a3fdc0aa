//! Compares the byte ring and the buffer pool with a `VecDeque`.

use std::collections::VecDeque;

use epicycle::internals::{BufferPool, Ring};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_ring_holds_what_a_deque_would(ops in proptest::collection::vec(op(), 1..80)) {
        let (mut ring, mut model, mut pool) = (Ring::new(), VecDeque::new(), BufferPool::new());
        for op in ops {
            apply(&op, &mut ring, &mut model, &mut pool);
            let (first, second) = ring.as_slices();
            prop_assert_eq!(&[first, second].concat(), &Vec::from(model.clone()), "after {:?}", op);
            prop_assert!(!first.is_empty() || second.is_empty());
            prop_assert_eq!(ring.len(), model.len());
            prop_assert_eq!(ring.is_empty(), model.is_empty());
            prop_assert_eq!(ring.free(), ring.capacity() - model.len());
            prop_assert_eq!(pool.lent(), ring.capacity());
        }
    }

    #[test]
    fn rings_of_one_pool_do_not_share_storage(
        ops in proptest::collection::vec((0usize..4, op()), 1..80),
    ) {
        let mut pool = BufferPool::new();
        let mut rings: [(Ring, VecDeque<u8>); 4] = Default::default();
        for (which, op) in ops {
            let (ring, model) = &mut rings[which];
            apply(&op, ring, model, &mut pool);
            for (ring, model) in &rings {
                let (first, second) = ring.as_slices();
                prop_assert_eq!(&[first, second].concat(), &Vec::from(model.clone()));
            }
            let capacities = rings.iter().map(|(ring, _)| ring.capacity());
            prop_assert_eq!(pool.lent(), capacities.sum::<usize>());
        }
    }
}

/// An operation on a ring.
#[derive(Clone, Debug)]
enum Op {
    Write(Vec<u8>),
    /// Fills up to this number of bytes of the spare room in place.
    Receive(usize, u8),
    /// Drops this number of 1,024 parts of the contents from the front.
    Consume(usize),
    /// Keeps this number of 1,024 parts of the contents.
    Truncate(usize),
    TruncateToNothingLess,
    MakeContiguous,
    Reserve(usize),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..1500);
    prop_oneof![
        4 => bytes.prop_map(Op::Write),
        4 => (0usize..1500, any::<u8>()).prop_map(|(n, byte)| Op::Receive(n, byte)),
        6 => (0usize..=1024).prop_map(Op::Consume),
        1 => (0usize..=1024).prop_map(Op::Truncate),
        1 => Just(Op::TruncateToNothingLess),
        2 => Just(Op::MakeContiguous),
        2 => (0usize..3000).prop_map(Op::Reserve),
        1 => Just(Op::Release),
    ]
}

fn apply(op: &Op, ring: &mut Ring, model: &mut VecDeque<u8>, pool: &mut BufferPool) {
    match op {
        Op::Write(bytes) => {
            let written = ring.write(bytes);
            assert_eq!(written, bytes.len().min(ring.capacity() - model.len()));
            model.extend(&bytes[..written]);
        }
        Op::Receive(n, byte) => {
            let full = ring.free() == 0;
            let spare = ring.spare_mut();
            assert_eq!(spare.is_empty(), full);
            let n = spare.len().min(*n);
            spare[..n].fill(*byte);
            ring.commit(n);
            model.extend(std::iter::repeat_n(*byte, n));
        }
        Op::Consume(parts) => {
            let n = model.len() * parts / 1024;
            ring.consume(n);
            model.drain(..n);
        }
        Op::Truncate(parts) => {
            let len = model.len() * parts / 1024;
            ring.truncate(len);
            model.truncate(len);
        }
        Op::TruncateToNothingLess => {
            ring.truncate(model.len() + 1);
            ring.truncate(usize::MAX);
        }
        Op::MakeContiguous => assert_eq!(ring.make_contiguous(), model.make_contiguous()),
        Op::Reserve(additional) => {
            let before = ring.capacity();
            let enough = ring.free() >= *additional;
            pool.reserve(ring, *additional);
            assert!(ring.free() >= *additional);
            assert!(!enough || ring.capacity() == before);
        }
        Op::Release => {
            pool.release(ring);
            assert_eq!(ring.capacity(), 0);
            model.clear();
        }
    }
}

#[test]
fn a_ring_without_storage_does_nothing_gracefully() {
    let mut ring = Ring::new();
    assert_eq!(ring.write(b"x"), 0);
    assert!(ring.spare_mut().is_empty());
    assert!(ring.make_contiguous().is_empty());
    ring.commit(0);
    ring.consume(0);
    ring.truncate(0);
    assert!(ring.is_empty());
}

#[test]
fn a_full_ring_that_wraps_is_made_contiguous() {
    let mut ring = Ring::over(vec![0; 8].into());
    assert_eq!(ring.write(b"abcdefgh"), 8);
    ring.consume(5);
    assert_eq!(ring.write(b"12345678"), 5);
    assert_eq!(ring.as_slices(), (&b"fgh"[..], &b"12345"[..]));
    assert_eq!(ring.make_contiguous(), b"fgh12345");
    assert_eq!(ring.as_slices(), (&b"fgh12345"[..], &b""[..]));
}

#[test]
#[cfg(target_pointer_width = "64")]
fn truncating_to_more_than_four_gib_keeps_everything() {
    let mut ring = Ring::over(vec![0; 8].into());
    ring.write(b"abc");
    ring.truncate(1 << 32);
    assert_eq!(ring.len(), 3);
}

#[test]
#[should_panic(expected = "consumed more than the contents")]
fn consuming_more_than_there_is_panics() {
    let mut ring = Ring::over(vec![0; 8].into());
    ring.write(b"abc");
    ring.consume(4);
}

#[test]
#[should_panic(expected = "committed more than the spare stretch")]
fn committing_more_than_is_free_panics() {
    let mut ring = Ring::over(vec![0; 8].into());
    ring.write(b"abc");
    ring.commit(6);
}

#[test]
#[should_panic(expected = "power_of_two")]
fn storage_of_an_odd_size_is_refused() {
    let _ = Ring::over(vec![0; 9].into());
}

#[test]
fn a_released_buffer_is_used_again() {
    let mut pool = BufferPool::new();
    let mut ring = Ring::new();
    pool.reserve(&mut ring, 3000);
    assert_eq!((ring.capacity(), pool.lent()), (4096, 4096));
    let storage = ring.spare_mut().as_ptr();
    pool.release(&mut ring);
    assert_eq!((ring.capacity(), pool.lent()), (0, 0));
    pool.reserve(&mut ring, 2500);
    assert_eq!(ring.spare_mut().as_ptr(), storage);
}
