//! Properties of the rules of a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::flow::{Flow, MAX_CREDIT, Role, Unsendable, Violation};
use super::{Link, Signal, Stream};
use crate::rpc::reply::local;
use crate::rpc::wire::code;

/// A message between the sides.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Item(u32),
    Credit(u32),
    End,
    Cancel,
}

/// One side, with its reader, and the messages that are on their way to it.
struct Side {
    flow: Flow,
    role: Role,
    window: u32,
    inbox: VecDeque<Sent>,
    /// The items that wait for the reader.
    waiting: VecDeque<u32>,
    next: u32,
    read: Vec<u32>,
    has_ended: bool,
}

impl Side {
    fn new(role: Role, window: u32) -> Self {
        Self {
            flow: Flow::new(role, window),
            role,
            window,
            inbox: VecDeque::new(),
            waiting: VecDeque::new(),
            next: 0,
            read: Vec::new(),
            has_ended: false,
        }
    }

    /// Handles the oldest message that is on its way. None of them may be a violation.
    fn receive(&mut self) {
        match self.inbox.pop_front() {
            Some(Sent::Item(item)) => {
                if self.flow.on_item() == Ok(true) {
                    self.waiting.push_back(item);
                } else {
                    assert!(self.flow.is_over(), "an item is refused on an open stream");
                }
            }
            Some(Sent::Credit(items)) => self.flow.on_credit(items).expect("is allowed"),
            Some(Sent::End) => self.flow.on_end(Ok(())).expect("is allowed"),
            Some(Sent::Cancel) => {
                self.flow.stop(local(code::CANCELLED, ""));
            }
            None => {}
        }
    }

    /// Does something. Returns the message that it sends.
    fn act(&mut self, action: u8) -> Option<Sent> {
        match action {
            0..4 => match self.flow.send() {
                Ok(()) => {
                    self.next += 1;
                    Some(Sent::Item(self.next - 1))
                }
                Err(Unsendable::NoCredit) => {
                    assert_eq!(self.flow.credit(), 0);
                    None
                }
                Err(Unsendable::Ended(_)) => None,
            },
            4..8 => {
                self.read.push(self.waiting.pop_front()?);
                self.flow.consume().map(Sent::Credit)
            }
            8 if self.flow.end() => {
                self.has_ended = true;
                Some(Sent::End)
            }
            9 if self.role == Role::Opener && self.flow.stop(local(code::CANCELLED, "")) => {
                Some(Sent::Cancel)
            }
            _ => None,
        }
    }
}

/// The credit that a reader has given, wherever it is now: with the sender, on its way, or spent for items that are not read.
fn credit_given(sender: &Side, reader: &Side) -> u32 {
    let granted = sender.inbox.iter().map(|sent| match sent {
        Sent::Credit(items) => *items,
        _ => 0,
    });
    let items = reader
        .inbox
        .iter()
        .filter(|sent| matches!(sent, Sent::Item(_)));
    sender.flow.credit() + granted.sum::<u32>() + (items.count() + reader.waiting.len()) as u32
}

proptest! {
    #[test]
    fn items_arrive_once_and_in_order_and_never_beyond_the_credit(
        windows in (1u32..20, 1u32..20),
        steps in vec((any::<bool>(), 0u8..20), 1..400),
    ) {
        let mut sides = [Side::new(Role::Opener, windows.0), Side::new(Role::Acceptor, windows.1)];
        sides[0].flow.on_credit(windows.1).expect("is allowed");
        sides[1].flow.on_credit(windows.0).expect("is allowed");
        for (first, action) in steps {
            let (one, other) = (usize::from(first), usize::from(!first));
            match action {
                10.. => sides[one].receive(),
                action => {
                    let sent = sides[one].act(action);
                    sides[other].inbox.extend(sent);
                }
            }
            for (sender, reader) in [(0, 1), (1, 0)] {
                let given = credit_given(&sides[sender], &sides[reader]);
                prop_assert!(given <= sides[reader].window, "{given} of {}", sides[reader].window);
            }
        }
        for (sender, reader) in [(0, 1), (1, 0)] {
            let read = &sides[reader].read;
            prop_assert!(read.iter().copied().eq(0..read.len() as u32), "{read:?}");
            prop_assert!(read.len() as u32 <= sides[sender].next);
        }
        // Whatever has happened, the rest arrives, both sides end, and they agree.
        for (one, other) in [(0, 1), (1, 0)] {
            let sent = sides[one].act(8);
            sides[other].inbox.extend(sent);
        }
        for side in &mut sides {
            while !side.inbox.is_empty() {
                side.receive();
            }
            prop_assert!(side.flow.is_over());
            prop_assert!(side.flow.incoming().is_some());
            prop_assert_eq!(side.flow.credit(), 0);
            prop_assert_eq!(side.flow.consume(), None);
            prop_assert!(!side.flow.end());
        }
    }

    #[test]
    fn a_clean_end_comes_behind_all_items(window in 1u32..20, count in 0u32..100) {
        let (mut sender, mut reader) = (Side::new(Role::Acceptor, 0), Side::new(Role::Opener, window));
        sender.flow.on_credit(window).expect("is allowed");
        while sender.next < count {
            reader.inbox.extend(sender.act(0));
            while !reader.inbox.is_empty() {
                reader.receive();
            }
            sender.inbox.extend(reader.act(4));
            while !sender.inbox.is_empty() {
                sender.receive();
            }
        }
        reader.inbox.extend(sender.act(8));
        prop_assert!(sender.has_ended);
        reader.receive();
        while reader.act(4).is_some() || !reader.waiting.is_empty() {}
        prop_assert_eq!(reader.flow.incoming(), Some(&Ok(())));
        prop_assert_eq!(reader.read.len() as u32, count);
    }

    #[test]
    fn whatever_the_other_side_sends_stays_within_the_limits(
        is_opener in any::<bool>(),
        window in 0u32..20,
        steps in vec((0u8..6, any::<u32>()), 1..200),
    ) {
        let role = if is_opener { Role::Opener } else { Role::Acceptor };
        let mut flow = Flow::new(role, window);
        let (mut taken, mut granted) = (0, window);
        for (step, number) in steps {
            match step {
                0 => taken += u32::from(flow.on_item() == Ok(true)),
                1 => drop(flow.on_credit(number)),
                2 => drop(flow.on_credit(number % 3)),
                3 if number % 16 == 0 => drop(flow.on_end(Ok(()))),
                4 => granted += flow.consume().unwrap_or(0),
                _ => drop(flow.send()),
            }
            prop_assert!(taken <= granted);
            prop_assert!(flow.credit() <= MAX_CREDIT);
        }
    }
}

#[test]
fn faults_of_the_other_side_are_named() {
    let mut flow = Flow::new(Role::Acceptor, 1);
    assert_eq!(flow.on_item(), Ok(true));
    assert_eq!(flow.on_item(), Err(Violation::NoCredit));
    assert_eq!(flow.on_credit(0), Err(Violation::Credit));
    assert_eq!(flow.on_credit(MAX_CREDIT), Ok(()));
    assert_eq!(flow.on_credit(1), Err(Violation::Credit));
    assert_eq!(flow.on_end(Ok(())), Ok(()));
    assert_eq!(flow.on_end(Ok(())), Err(Violation::AfterEnd));
    assert_eq!(flow.on_item(), Err(Violation::AfterEnd));
    // Messages that cross the end of the stream are none.
    assert!(flow.end());
    assert_eq!(flow.on_item(), Ok(false));
    assert_eq!(flow.on_end(Ok(())), Ok(()));
    assert_eq!(flow.on_credit(0), Ok(()));
}

#[test]
fn the_acceptors_end_ends_the_stream_and_the_openers_its_items() {
    let mut opener = Flow::new(Role::Opener, 4);
    assert!(opener.end());
    assert!(!opener.is_over());
    assert_eq!(opener.on_end(Ok(())), Ok(()));
    assert!(opener.is_over());
    let mut acceptor = Flow::new(Role::Acceptor, 4);
    assert_eq!(acceptor.on_end(Ok(())), Ok(()));
    assert!(!acceptor.is_over());
    assert!(acceptor.end());
    assert!(acceptor.is_over());
    assert!(acceptor.stopped().is_none());
}

/// The way to no reactor.
struct Nowhere;

impl Link for Nowhere {
    fn signal(&self, _: &Arc<Stream>, _: Signal) -> bool {
        true
    }
}

#[test]
fn an_item_that_is_given_up_last_ends_the_congestion() {
    let stream = Stream::new(Role::Acceptor, 0, Box::new(Nowhere));
    stream.on_credit(10).expect("is allowed");
    assert_eq!(stream.begin_send(), Ok(()));
    assert_eq!(stream.begin_send(), Ok(()));
    stream.set_congested();
    stream.written(0);
    assert_eq!(stream.credit(), 0, "one item is still encoded");
    stream.give_up_send();
    assert_eq!(stream.credit(), 9);
}
