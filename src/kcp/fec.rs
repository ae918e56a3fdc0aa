//! Forward error correction as kcp-go has it: heads in front of the datagrams, and parity behind each group of them.

use std::cell::RefCell;
use std::rc::Rc;

use reed_solomon_erasure::galois_8::ReedSolomon;

use super::segment::distance;

/// The length of the head of a datagram with data: number, kind and size. Parity has a size, too, but it is coded.
pub(super) const HEAD: usize = 8;

/// The part of the head that is not coded.
const NUMBER: usize = 6;

const DATA: [u8; 2] = [0xf1, 0];
const PARITY: [u8; 2] = [0xf2, 0];

/// The groups that wait for what they lack. Datagrams arrive in about the order of their numbers.
const GROUPS: usize = 3;

/// The longest time between two datagrams of a group with parity, in milliseconds. What is that old was sent again already.
const LONGEST_PAUSE: u64 = 500;

/// The numbers of datagrams with data and with parity in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) data: u8,
    pub(super) parity: u8,
}

impl Sizes {
    /// Those of the clients of due.
    pub(super) const USUAL: Self = Self {
        data: 10,
        parity: 3,
    };

    fn data(self) -> usize {
        self.data.into()
    }

    fn all(self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Returns the number at which the numbers begin again. It ends a group.
    fn end(self) -> u32 {
        u32::MAX - u32::MAX % self.all() as u32
    }

    /// Runs a function with the code of these sizes, which is made once a thread.
    fn with_code<R>(self, run: impl FnOnce(&ReedSolomon) -> Option<R>) -> Option<R> {
        thread_local! {
            static CODES: RefCell<Vec<(Sizes, Rc<ReedSolomon>)>> = const { RefCell::new(Vec::new()) };
        }
        let code = CODES.with_borrow_mut(|codes| {
            if let Some((_, code)) = codes.iter().find(|(sizes, _)| *sizes == self) {
                return Some(code.clone());
            }
            let code = ReedSolomon::new(self.data(), self.parity.into()).ok()?;
            let code = Rc::new(code);
            codes.push((self, code.clone()));
            Some(code)
        })?;
        run(&code)
    }
}

/// A datagram with a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard<'a> {
    number: u32,
    /// The coded part: the size of the datagram with two bytes for itself, and the datagram; or parity of such.
    coded: &'a [u8],
    /// The datagram behind the head, unless this is parity.
    pub(super) datagram: Option<&'a [u8]>,
}

impl<'a> Shard<'a> {
    /// Reads a head. Returns nothing if there is none: no command of KCP is at the place of the kind.
    ///
    /// # Errors
    ///
    /// The fault of the head.
    pub(super) fn parse(datagram: &'a [u8]) -> Result<Option<Self>, &'static str> {
        let Some((head, coded)) = datagram.split_first_chunk::<NUMBER>() else {
            return Ok(None);
        };
        let [n0, n1, n2, n3, kind @ ..] = *head;
        let datagram = match kind {
            DATA => {
                let datagram = uncoded(coded).ok_or("a head of FEC with a wrong size")?;
                Some(datagram)
            }
            PARITY => None,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            number: u32::from_le_bytes([n0, n1, n2, n3]),
            coded,
            datagram,
        }))
    }
}

/// Returns the datagram in what is coded.
fn uncoded(coded: &[u8]) -> Option<&[u8]> {
    let (size, _) = coded.split_first_chunk()?;
    coded.get(2..u16::from_le_bytes(*size).into())
}

/// The datagrams that have come, to repair others.
///
/// The peer does not tell the sizes of its groups. With wrong ones, what is repaired is a datagram that the peer has never sent.
/// So nothing is repaired before both ends of the data and of the parity were seen at their places, nor once a datagram was seen at
/// the place of the other kind.
#[derive(Debug)]
pub(super) struct Repair {
    sizes: Sizes,
    /// The newest groups, the newest last.
    groups: Vec<Group>,
    /// True for each of the four ends that was seen.
    seen: [bool; 4],
    is_off: bool,
}

#[derive(Debug)]
struct Group {
    first: u32,
    /// The shards that have come. Empty once nothing is lost any more.
    shards: Vec<Option<Vec<u8>>>,
    /// The number of those.
    count: usize,
    /// The number of those with data.
    data: usize,
}

impl Repair {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            groups: Vec::new(),
            seen: [false; 4],
            is_off: false,
        }
    }

    /// Takes a datagram. Returns those that were lost, if it completes what is needed for them.
    pub(super) fn take(&mut self, shard: Shard<'_>) -> Vec<Vec<u8>> {
        let sizes = self.sizes;
        let place = (shard.number % sizes.all() as u32) as usize;
        let is_data = shard.datagram.is_some();
        if is_data != (place < sizes.data()) || shard.number >= sizes.end() {
            self.is_off = true;
            self.groups = Vec::new();
        }
        if self.is_off {
            return Vec::new();
        }
        let ends = [0, sizes.data() - 1, sizes.data(), sizes.all() - 1];
        for (end, seen) in ends.into_iter().zip(&mut self.seen) {
            *seen |= place == end;
        }
        let is_sure = !self.seen.contains(&false);
        let Some(group) = self.group(shard.number - place as u32) else {
            return Vec::new();
        };
        let Some(free @ None) = group.shards.get_mut(place) else {
            return Vec::new();
        };
        *free = Some(shard.coded.to_vec());
        group.data += usize::from(is_data);
        group.count += 1;
        let mut repaired = Vec::new();
        for group in &mut self.groups {
            if group.data == sizes.data() {
                group.shards = Vec::new();
            } else if is_sure && group.count >= sizes.data() {
                let shards = std::mem::take(&mut group.shards);
                group.count = 0;
                repaired.extend(repair(shards, sizes).into_iter().flatten());
            }
        }
        repaired
    }

    /// Returns the group that begins with a number, unless it is too old.
    fn group(&mut self, first: u32) -> Option<&mut Group> {
        let behind = (self.groups).partition_point(|group| distance(group.first, first) < 0);
        let is_known = (self.groups.get(behind)).is_some_and(|group| group.first == first);
        if is_known {
            return self.groups.get_mut(behind);
        }
        let is_full = self.groups.len() == GROUPS;
        if is_full && behind == 0 {
            return None;
        }
        let group = Group {
            first,
            shards: vec![None; self.sizes.all()],
            count: 0,
            data: 0,
        };
        self.groups.insert(behind, group);
        if is_full {
            self.groups.remove(0);
            return self.groups.get_mut(behind - 1);
        }
        self.groups.get_mut(behind)
    }
}

/// Returns the datagrams that are missing among enough shards.
fn repair(mut shards: Vec<Option<Vec<u8>>>, sizes: Sizes) -> Option<Vec<Vec<u8>>> {
    let is_lost: Vec<bool> = shards.iter().map(Option::is_none).collect();
    let longest = shards.iter().flatten().map(Vec::len).max()?;
    for shard in shards.iter_mut().flatten() {
        shard.resize(longest, 0);
    }
    sizes.with_code(|code| code.reconstruct_data(&mut shards).ok())?;
    let lost = shards.iter().zip(is_lost).take(sizes.data());
    let lost = lost.filter_map(|(shard, is_lost)| shard.as_deref().filter(|_| is_lost));
    Some(lost.filter_map(uncoded).map(<[u8]>::to_vec).collect())
}

/// The heads and the parity of the datagrams that are sent.
#[derive(Debug)]
pub(super) struct Protection {
    sizes: Sizes,
    /// The number of the next datagram.
    next: u32,
    /// The coded parts of the group.
    group: Vec<Vec<u8>>,
    /// The time of the last datagram.
    last_at: u64,
}

impl Protection {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            next: 0,
            group: Vec::new(),
            last_at: 0,
        }
    }

    /// Writes the head of a datagram, for which its first [`HEAD`] bytes are there.
    pub(super) fn seal(&mut self, datagram: &mut [u8]) {
        let size = (datagram.len() - NUMBER) as u16;
        let head = self.head(DATA);
        datagram[..NUMBER].copy_from_slice(&head);
        datagram[NUMBER..HEAD].copy_from_slice(&size.to_le_bytes());
        self.group.push(datagram[NUMBER..].to_vec());
    }

    /// Returns the parity of a group, if it is complete now, whose last datagram was just sent.
    pub(super) fn parity(&mut self, now: u64) -> Vec<Vec<u8>> {
        let paused = now.saturating_sub(std::mem::replace(&mut self.last_at, now));
        if self.group.len() < self.sizes.data() {
            return Vec::new();
        }
        let mut shards = std::mem::take(&mut self.group);
        let longest = shards.iter().map(Vec::len).max().unwrap_or(0);
        shards.resize(self.sizes.all(), Vec::new());
        for shard in &mut shards {
            shard.resize(longest, 0);
        }
        let mut encode = || (self.sizes).with_code(|code| code.encode(&mut shards).ok());
        if paused >= LONGEST_PAUSE || encode().is_none() {
            self.next = (self.next + u32::from(self.sizes.parity)) % self.sizes.end();
            return Vec::new();
        }
        let parity = shards.split_off(self.sizes.data());
        let datagrams = parity.iter().map(|shard| {
            let head = self.head(PARITY);
            [&head, &shard[..]].concat()
        });
        datagrams.collect()
    }

    fn head(&mut self, [low, high]: [u8; 2]) -> [u8; NUMBER] {
        let [n0, n1, n2, n3] = self.next.to_le_bytes();
        self.next = (self.next + 1) % self.sizes.end();
        [n0, n1, n2, n3, low, high]
    }
}
