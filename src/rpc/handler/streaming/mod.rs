//! The streams of a connection.

mod arriving;
mod opening;
mod sending;

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::{LEAVING, Line, PeerHandler, enter};
use crate::rpc::plugin::Plugins;
use crate::rpc::stream::{Role, Signal, Stream};
use crate::rpc::wire::Status;

/// The streams of a connection, by the `seq`s of their CALLs. They are few, and have the same order in each simulation.
#[derive(Default)]
pub(super) struct Streams {
    opened: BTreeMap<Box<[u8]>, Entry>,
    accepted: BTreeMap<Box<[u8]>, Entry>,
    /// The number of streams with handlers at work. It includes streams that are over.
    working: Arc<AtomicUsize>,
    /// The bytes of items that wait for their readers.
    held: Arc<AtomicUsize>,
}

struct Entry {
    stream: Arc<Stream>,
    /// The items, and their end, that wait for room in the output.
    waiting: VecDeque<Signal>,
    /// The credit that is to be granted once there is room.
    grant: u32,
    /// The number of the handler's task, if it is a future.
    task: Option<u64>,
    /// The plugins that see the items.
    plugins: Arc<Plugins>,
}

impl Streams {
    fn side(&mut self, role: Role) -> &mut BTreeMap<Box<[u8]>, Entry> {
        match role {
            Role::Opener => &mut self.opened,
            Role::Acceptor => &mut self.accepted,
        }
    }

    fn insert(&mut self, stream: Arc<Stream>, plugins: Arc<Plugins>) {
        let seq = stream.seq().into();
        let entry = Entry {
            stream: stream.clone(),
            waiting: VecDeque::new(),
            grant: 0,
            task: None,
            plugins,
        };
        self.side(stream.role()).insert(seq, entry);
    }

    /// Puts a stream back whose end finds no room. It is the last that is sent.
    fn put_back(&mut self, mut entry: Entry, end: Result<(), Status>) {
        entry.waiting = VecDeque::from([Signal::End(end)]);
        entry.grant = 0;
        let (role, seq) = (entry.stream.role(), entry.stream.seq().into());
        self.side(role).insert(seq, entry);
    }

    /// Returns the entry of a stream, unless it has ended.
    fn entry(&mut self, stream: &Arc<Stream>) -> Option<&mut Entry> {
        let entry = self.side(stream.role()).get_mut(stream.seq())?;
        Arc::ptr_eq(&entry.stream, stream).then_some(entry)
    }

    /// Returns the streams with messages that wait for room.
    fn waiting(&self) -> Vec<Arc<Stream>> {
        (self.opened.values())
            .chain(self.accepted.values())
            .filter(|entry| entry.grant > 0 || !entry.waiting.is_empty())
            .map(|entry| entry.stream.clone())
            .collect()
    }

    fn drain(&mut self) -> Vec<Entry> {
        let accepted = mem::take(&mut self.accepted).into_values();
        accepted
            .chain(mem::take(&mut self.opened).into_values())
            .collect()
    }
}

impl Line {
    /// Returns the numbers of streams that this side has accepted and opened.
    pub(super) fn stream_counts(&self) -> (usize, usize) {
        match &self.streams {
            Some(streams) => (streams.accepted.len(), streams.opened.len()),
            None => (0, 0),
        }
    }

    /// Returns the stream of this side that a CALL with this `seq` has opened.
    pub(super) fn opened_stream(&self, seq: &[u8]) -> Option<Arc<Stream>> {
        let entry = self.streams.as_ref()?.opened.get(seq)?;
        Some(entry.stream.clone())
    }

    fn entry(&mut self, stream: &Arc<Stream>) -> Option<&mut Entry> {
        self.streams.as_mut()?.entry(stream)
    }

    fn remove_stream(&mut self, stream: &Arc<Stream>) -> Option<Entry> {
        self.entry(stream)?;
        self.streams
            .as_mut()?
            .side(stream.role())
            .remove(stream.seq())
    }
}
