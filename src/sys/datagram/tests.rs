use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::queue::ENTRY_COST;
use super::sender::{Sent, drain};
use super::*;

/// The calls that a socket makes, and its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Batched(usize),
    Portable(usize),
}

const WAYS: [Way; 5] = [
    Way::Batched(1),
    Way::Batched(7),
    Way::Batched(64),
    Way::Portable(1),
    Way::Portable(64),
];

/// A socket with its queue, sender and receiver.
struct Node {
    socket: DatagramSocket,
    queue: SendQueue,
    sender: Sender,
    receiver: Receiver,
}

impl Node {
    fn new(way: Way, addr: &str, longest: usize) -> Self {
        let (Way::Batched(batch) | Way::Portable(batch)) = way;
        let options = DatagramOptions {
            batch,
            longest,
            recv_buffer: Some(8 << 20),
            ..DatagramOptions::default()
        };
        let addr = addr.parse().expect("an address");
        let mut socket = DatagramSocket::bind(addr, true, &options).expect("binds");
        if matches!(way, Way::Portable(_)) {
            socket.make_portable();
        }
        Self {
            queue: SendQueue::new(8 << 20, socket.takes_runs()),
            socket,
            sender: Sender::new(),
            receiver: Receiver::new(),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("is bound")
    }

    fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let to = self.socket.to_wire(to);
        let pushed = self.queue.push(Some(to), [bytes].into_iter());
        pushed.expect("there is room");
    }

    fn flush(&mut self) -> Sent {
        self.sender.send(&self.socket, &mut self.queue)
    }

    /// Receives until `count` datagrams have arrived. Returns the sender and the bytes of each, and true if it was truncated.
    fn collect(&mut self, count: usize) -> Vec<(SocketAddr, Vec<u8>, bool)> {
        let mut all = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while all.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} came", all.len());
            match self.receiver.receive(&self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
            while let Some(datagram) = self.receiver.next() {
                all.push((datagram.peer, datagram.data.to_vec(), datagram.truncated));
            }
        }
        all
    }
}

fn payload(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n * 7 + seed * 13 + n / 251) as u8)
        .collect()
}

#[test]
fn every_size_passes_unchanged_every_way() {
    for way in WAYS {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let mut from = Node::new(way, addr, 64 << 10);
            let mut to = Node::new(way, addr, 64 << 10);
            let sizes = [
                0, 1, 64, 64, 64, 63, 0, 0, 1472, 1472, 1, 65_507, 65_507, 64, 9000,
            ];
            for (n, size) in sizes.into_iter().enumerate() {
                from.push(to.addr(), &payload(n, size));
            }
            let sent = from.flush();
            assert_eq!((sent.datagrams, sent.dropped), (sizes.len(), 0), "{way:?}");
            assert_eq!(sent.bytes, sizes.iter().sum::<usize>());
            let got = to.collect(sizes.len());
            for (n, (peer, data, truncated)) in got.into_iter().enumerate() {
                assert_eq!((peer, truncated), (from.addr(), false), "{way:?} {n}");
                assert!(
                    data == payload(n, sizes[n]),
                    "{way:?}: datagram {n} differs"
                );
            }
        }
    }
}

#[test]
fn a_long_queue_leaves_in_order() {
    for way in WAYS {
        let mut from = Node::new(way, "127.0.0.1:0", 64 << 10);
        let mut to = Node::new(way, "127.0.0.1:0", 64 << 10);
        for round in 0..20 {
            for n in 0..150 {
                from.push(to.addr(), &payload(round * 150 + n, 200));
            }
            assert_eq!(from.flush().datagrams, 150);
            for (n, (_, data, _)) in to.collect(150).into_iter().enumerate() {
                assert!(data == payload(round * 150 + n, 200), "{way:?}");
            }
        }
    }
}

#[test]
fn a_truncated_datagram_is_told_every_way() {
    for way in WAYS {
        let mut from = Node::new(way, "127.0.0.1:0", 64 << 10);
        let mut to = Node::new(way, "127.0.0.1:0", 100);
        for (n, size) in [100, 101, 500, 500, 500, 20].into_iter().enumerate() {
            from.push(to.addr(), &payload(n, size));
        }
        from.flush();
        let got = to.collect(6);
        let lens: Vec<_> = got.iter().map(|(_, data, _)| data.len()).collect();
        let cut: Vec<_> = got.iter().map(|(_, _, truncated)| *truncated).collect();
        assert_eq!(lens, [100, 100, 100, 100, 100, 20], "{way:?}");
        assert_eq!(cut, [false, true, true, true, true, false], "{way:?}");
        assert!(got[4].1 == payload(4, 500)[..100], "{way:?}");
    }
}

#[test]
fn one_bad_destination_costs_only_its_datagrams() {
    for way in WAYS {
        let mut from = Node::new(way, "127.0.0.1:0", 64 << 10);
        let mut to = Node::new(way, "127.0.0.1:0", 64 << 10);
        let nowhere = "127.0.0.1:0".parse().expect("an address");
        let other_family = "[2001:db8::1]:9".parse().expect("an address");
        from.push(to.addr(), b"first");
        for _ in 0..3 {
            from.push(nowhere, b"lost.");
        }
        from.push(other_family, b"lost.");
        for n in 0..3 {
            from.push(to.addr(), &[n]);
        }
        let sent = from.flush();
        assert_eq!((sent.datagrams, sent.dropped), (4, 4), "{way:?}");
        assert!(sent.error.is_some() && !sent.is_blocked);
        let got: Vec<_> = to.collect(4).into_iter().map(|(_, data, _)| data).collect();
        assert_eq!(
            got,
            [b"first".to_vec(), vec![0], vec![1], vec![2]],
            "{way:?}"
        );
    }
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_answered() {
    for way in WAYS {
        let mut server = Node::new(way, "[::]:0", 64 << 10);
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let addr = client.local_addr().expect("is bound");
        client
            .send_to(b"hello", ("127.0.0.1", server.addr().port()))
            .expect("sends");
        let got = server.collect(1);
        assert_eq!(got[0].0, addr, "{way:?}");
        server.push(addr, b"hello yourself");
        assert_eq!(server.flush().datagrams, 1);
        let mut buffer = [0; 64];
        let n = client.recv(&mut buffer).expect("receives");
        assert_eq!(&buffer[..n], b"hello yourself");
    }
}

#[test]
fn a_connected_socket_tells_that_nobody_is_there() {
    for way in [Way::Batched(64), Way::Portable(1)] {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let peer = gone.local_addr().expect("is bound");
        drop(gone);
        let options = DatagramOptions::default();
        let mut socket = DatagramSocket::connect(peer, None, &options).expect("connects");
        if matches!(way, Way::Portable(_)) {
            socket.make_portable();
        }
        let mut queue = SendQueue::new(1 << 20, socket.takes_runs());
        queue
            .push(None, [&b"anybody?"[..]].into_iter())
            .expect("there is room");
        let sent = Sender::new().send(&socket, &mut queue);
        assert_eq!(sent.datagrams, 1);
        let refused = Receiver::new()
            .receive(&socket)
            .expect_err("nobody answers");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{way:?}");
    }
}

/// A fake kernel with scripted answers, which records the messages offered to it.
#[derive(Default)]
struct Kernel {
    answers: Vec<io::Result<usize>>,
    offered: Vec<Vec<(usize, usize)>>,
}

impl Kernel {
    fn drain(&mut self, queue: &mut SendQueue) -> Sent {
        let Self { answers, offered } = self;
        drain(queue, MAX_BATCH, |messages| {
            let shape = messages.iter().map(|m| (m.datagrams(), m.bytes.len()));
            offered.push(shape.collect());
            match answers.is_empty() {
                true => Ok(messages.len()),
                false => answers.remove(0),
            }
        })
    }
}

fn queue_of(lens: &[usize], runs: bool) -> SendQueue {
    let mut queue = SendQueue::new(1 << 20, runs);
    fill(&mut queue, lens);
    queue
}

fn fill(queue: &mut SendQueue, lens: &[usize]) {
    let to = "192.0.2.1:9".parse().expect("an address");
    for len in lens {
        let bytes = payload(0, *len);
        queue
            .push(Some(to), [&bytes[..]].into_iter())
            .expect("there is room");
    }
}

#[test]
fn datagrams_of_one_size_leave_as_one_run() {
    let offered = |lens: &[usize], runs| {
        let mut kernel = Kernel::default();
        let sent = kernel.drain(&mut queue_of(lens, runs));
        assert_eq!(
            (sent.datagrams, sent.bytes),
            (lens.len(), lens.iter().sum())
        );
        kernel.offered.concat()
    };
    assert_eq!(
        offered(&[10, 10, 10, 4, 10, 0, 0, 10, 11], true),
        [(4, 34), (1, 10), (1, 0), (1, 0), (1, 10), (1, 11)]
    );
    assert_eq!(
        offered(&[1000; 130], true),
        [(64, 64_000), (64, 64_000), (2, 2000)]
    );
    assert_eq!(offered(&[30_000; 3], true), [(2, 60_000), (1, 30_000)]);
    assert_eq!(offered(&[10; 3], false), [(1, 10); 3]);
}

#[test]
fn a_refused_run_goes_one_by_one() {
    // The path accepts no runs of datagrams of 1,400 bytes, but runs of shorter ones.
    let mut queue = queue_of(&[1400; 3], true);
    let mut kernel = Kernel {
        answers: vec![Err(Errno::MSGSIZE.into())],
        ..Kernel::default()
    };
    let sent = kernel.drain(&mut queue);
    assert_eq!((sent.datagrams, sent.dropped), (3, 0));
    fill(&mut queue, &[1400, 1400, 1399, 1399]);
    kernel.drain(&mut queue);
    let wanted = [
        vec![(3, 4200)],
        vec![(1, 1400)],
        vec![(1, 1400); 2],
        vec![(1, 1400), (1, 1400), (2, 2798)],
    ];
    assert_eq!(kernel.offered, wanted);

    // The device accepts no runs at all.
    fill(&mut queue, &[100; 3]);
    kernel.answers = vec![Err(Errno::IO.into())];
    kernel.drain(&mut queue);
    fill(&mut queue, &[10; 3]);
    kernel.drain(&mut queue);
    assert_eq!(kernel.offered.last(), Some(&vec![(1, 10); 3]));
}

#[test]
fn a_destination_that_is_refused_anyway_does_not_end_the_runs() {
    let mut kernel = Kernel {
        answers: vec![Err(Errno::INVAL.into()), Err(Errno::INVAL.into())],
        ..Kernel::default()
    };
    let sent = kernel.drain(&mut queue_of(&[100; 4], true));
    assert_eq!((sent.datagrams, sent.dropped), (3, 1));
    let wanted = [vec![(4, 400)], vec![(1, 100)], vec![(3, 300)]];
    assert_eq!(kernel.offered, wanted);
}

#[test]
fn what_the_kernel_has_no_room_for_waits_in_order() {
    let mut queue = queue_of(&[1, 2, 3, 4, 5], false);
    let mut kernel = Kernel {
        answers: vec![
            Err(ErrorKind::Interrupted.into()),
            Ok(2),
            Err(ErrorKind::WouldBlock.into()),
        ],
        ..Kernel::default()
    };
    let sent = kernel.drain(&mut queue);
    assert_eq!((sent.datagrams, sent.bytes, sent.is_blocked), (2, 3, true));
    assert_eq!(queue.len(), 3);
    // More may be queued behind it, many times over.
    for len in 6..1000 {
        fill(&mut queue, &[len]);
        kernel.answers = vec![Ok(1), Err(ErrorKind::WouldBlock.into())];
        kernel.offered.clear();
        assert!(kernel.drain(&mut queue).is_blocked);
        assert_eq!(kernel.offered[0][0], (1, len - 3), "the oldest is first");
    }
    kernel.answers.clear();
    assert_eq!(kernel.drain(&mut queue).datagrams, 3);
    assert_eq!((queue.len(), queue.queued()), (0, 0));
}

#[test]
fn a_queue_holds_no_more_than_its_limit() {
    let mut queue = SendQueue::new(1000, true);
    let mut count = 0;
    let full = loop {
        match queue.push(None, [&[0; 44][..]].into_iter()) {
            Ok(_) => count += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(full, Refused::Full(_)), "{full:?}");
    assert!((9..=11).contains(&count), "{count}");
    assert!(queue.queued() <= 1000 && queue.queued() > 800);
    let long = vec![0; MAX_DATAGRAM + 1];
    let refused = queue.push(None, [&long[..]].into_iter());
    assert_eq!(refused, Err(Refused::TooLong));
    assert_eq!(queue.clear(), count);
    assert_eq!(queue.queued(), 0);
}

#[test]
fn dropping_a_batch_counts_what_is_left_of_it() {
    let mut from = Node::new(Way::Batched(64), "127.0.0.1:0", 64 << 10);
    let mut to = Node::new(Way::Batched(64), "127.0.0.1:0", 64 << 10);
    for n in 0..10 {
        from.push(to.addr(), &[n]);
    }
    from.flush();
    let mut came = 0;
    while came < 10 {
        let Ok(_) = to.receiver.receive(&to.socket) else {
            continue;
        };
        came += usize::from(to.receiver.next().is_some());
        came += to.receiver.clear();
    }
    assert_eq!(came, 10);
    assert_eq!(to.receiver.peek(), None);
}

/// The bytes that wait for each peer, by a plain count.
#[derive(Default)]
struct Plain {
    waiting: VecDeque<(u16, usize)>,
    queued: usize,
}

impl Plain {
    fn of(&self, peer: u16) -> usize {
        let own = self.waiting.iter().filter(|(to, _)| *to == peer);
        own.map(|(_, cost)| cost).sum()
    }
}

#[test]
fn a_peer_may_have_as_much_waiting_as_is_free() {
    const LIMIT: usize = 20_000;
    let mut random = fastrand::Rng::with_seed(11);
    let mut queue = SendQueue::new(LIMIT, false);
    let mut plain = Plain::default();
    let (mut full, mut crowded) = (0, 0);
    for _ in 0..100_000 {
        if random.u8(..5) == 0 {
            let n = random.usize(..=3.min(plain.waiting.len()));
            queue.pop(n);
            let popped = plain.waiting.drain(..n).map(|(_, cost)| cost);
            plain.queued -= popped.sum::<usize>();
        }
        // Some peers flood, others seldom have something.
        let peer = random.u16(..4) * random.u16(..3);
        let bytes = vec![0; random.usize(1..1500)];
        let before = queue.queued();
        let pushed = queue.push(Some(addr(peer)), [&bytes[..]].into_iter());
        let cost = bytes.len() + ENTRY_COST;
        let own = plain.of(peer);
        let fits = own + cost <= LIMIT.min(2 * LIMIT - plain.queued);
        match pushed {
            Ok(len) => {
                assert!(fits, "{own} of {} and {cost} are taken", plain.queued);
                assert_eq!((len, queue.queued()), (bytes.len(), before + cost));
                plain.waiting.push_back((peer, cost));
                plain.queued += cost;
            }
            Err(refused) => {
                assert!(!fits, "{own} of {} and {cost} are refused", plain.queued);
                let peers: HashSet<u16> = plain.waiting.iter().map(|(to, _)| *to).collect();
                let has_most = own * peers.len() >= plain.queued;
                full += u32::from(refused == Refused::Full(own));
                crowded += u32::from(refused == Refused::Crowded(plain.queued));
                assert_eq!(matches!(refused, Refused::Full(_)), has_most);
            }
        }
        assert_eq!(queue.queued(), plain.queued);
    }
    assert!(full > 1000 && crowded > 100, "{full} and {crowded}");
}

#[test]
fn a_queue_knows_when_it_is_past_a_place() {
    let mut queue = queue_of(&[10, 20], false);
    let place = queue.position();
    fill(&mut queue, &[30]);
    queue.pop(1);
    assert!(!queue.is_past(place));
    queue.pop(1);
    assert!(queue.is_past(place) && !queue.is_past(queue.position()));
    queue.clear();
    assert!(queue.is_past(queue.position()));
}

fn addr(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
