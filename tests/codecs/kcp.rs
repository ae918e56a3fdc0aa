//! KCP between two state machines, over a network that loses, repeats and reorders datagrams by a seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use epicycle::kcp::{InputError, Kcp, KcpOptions};
use proptest::collection::vec;
use proptest::prelude::*;

const CONV: u32 = 0xccb4_4124;

fn quick() -> KcpOptions {
    KcpOptions::new()
        .no_delay(true)
        .interval(Duration::from_millis(10))
        .fast_resend(2)
        .congestion_control(false)
        .windows(64, 64)
}

/// The faults of a network, of 100 datagrams each.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: u32,
    repeated: u32,
    /// Milliseconds by which a datagram may be late.
    late: u64,
}

/// A client and a server.
struct Pair {
    ends: [Kcp; 2],
    now: Instant,
    began: Instant,
    /// The datagrams on the way, by the time and the order: the end that gets it, and the contents.
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    /// The bytes that each end has sent.
    bytes: [usize; 2],
    faults: Faults,
    random: fastrand::Rng,
    read: [Vec<u8>; 2],
    /// True while an end reads nothing.
    pauses: [bool; 2],
}

impl Pair {
    fn new(options: &KcpOptions, faults: Faults, seed: u64) -> Self {
        let now = Instant::now();
        let ends = [
            Kcp::client(CONV, options, now),
            Kcp::server(CONV, options, now, 0x5eed_5eed),
        ];
        Self {
            ends,
            now,
            began: now,
            wire: BTreeMap::new(),
            sent: 0,
            bytes: [0; 2],
            faults,
            random: fastrand::Rng::with_seed(seed),
            read: Default::default(),
            pauses: [false; 2],
        }
    }

    fn flush(&mut self, end: usize) {
        let mut datagrams = Vec::new();
        self.ends[end].flush(self.now, |datagram| datagrams.push(datagram.to_vec()));
        for datagram in datagrams {
            self.bytes[end] += datagram.len();
            let copies = 1 + u64::from(self.random.u32(0..100) < self.faults.repeated);
            for _ in 0..copies {
                if self.random.u32(0..100) < self.faults.lost {
                    continue;
                }
                let late = Duration::from_millis(5 + self.random.u64(0..=self.faults.late));
                self.sent += 1;
                (self.wire).insert((self.now + late, self.sent), (1 - end, datagram.clone()));
            }
        }
    }

    /// Goes on to the next datagram or deadline. Returns false if there is none.
    fn step(&mut self) -> bool {
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let due = self.ends.iter().filter_map(Kcp::check).min();
        let Some(next) = arrival.into_iter().chain(due).min() else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let (end, datagram) = entry.remove();
            (self.ends[end].input(&datagram, self.now)).expect("the other end has made it");
            self.read(end);
        }
        self.flush(0);
        self.flush(1);
        true
    }

    fn read(&mut self, end: usize) {
        while !self.pauses[end]
            && let Some(bytes) = self.ends[end].recv()
        {
            self.read[end].extend(bytes);
        }
    }

    fn send(&mut self, end: usize, bytes: &[u8]) {
        self.ends[end].send(bytes).expect("there is room");
        self.flush(end);
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it is never idle");
    }

    fn took(&self) -> Duration {
        self.now - self.began
    }
}

#[test]
fn an_idle_connection_is_never_due() {
    let mut pair = Pair::new(&KcpOptions::new(), Faults::default(), 1);
    assert_eq!(pair.ends[0].check(), None);
    pair.send(0, b"hello");
    assert!(pair.ends[0].check().is_some());
    pair.run();
    assert_eq!(pair.read[1], b"hello");
    assert_eq!(pair.ends[0].check(), None);
    assert_eq!(pair.ends[1].check(), None);
    assert!(
        pair.took() < Duration::from_millis(100),
        "{:?}",
        pair.took()
    );
}

#[test]
fn acknowledgements_travel_with_the_answer() {
    let mut pair = Pair::new(&quick(), Faults::default(), 1);
    pair.send(0, b"question");
    let arrival = pair.wire.pop_first().expect("the question");
    pair.now = arrival.0.0;
    (pair.ends[1].input(&arrival.1.1, pair.now)).expect("a datagram");
    assert_eq!(pair.ends[1].recv().as_deref(), Some(&b"question"[..]));
    pair.flush(1);
    assert!(pair.wire.is_empty(), "it waits for the answer");
    pair.send(1, b"answer");
    assert_eq!(pair.wire.len(), 1);
    let answer = pair.wire.first_key_value().expect("the answer").1;
    assert_eq!(answer.1.len(), 24 + 24 + 6);
}

#[test]
fn a_lost_datagram_is_sent_again() {
    let mut pair = Pair::new(&KcpOptions::new(), Faults::default(), 1);
    pair.send(0, b"lost");
    pair.wire.clear();
    pair.run();
    assert_eq!(pair.read[1], b"lost");
    assert!(
        pair.took() >= Duration::from_millis(200),
        "{:?}",
        pair.took()
    );
}

#[test]
fn a_skipped_segment_is_sent_again_at_once() {
    let mut pair = Pair::new(&quick().ack_no_delay(true), Faults::default(), 1);
    // Known to each other, and the window is open.
    pair.send(0, b"0");
    pair.run();
    let before = pair.now;
    pair.send(0, b"1");
    pair.wire.clear();
    for text in [b"2", b"3", b"4", b"5"] {
        pair.send(0, text);
        pair.step();
    }
    while pair.read[1].len() < 6 {
        assert!(pair.step(), "it was given up");
    }
    assert_eq!(pair.read[1], b"012345");
    assert!(
        pair.now - before < Duration::from_millis(30),
        "{:?}",
        pair.now - before
    );
}

#[test]
fn a_silent_peer_is_dead_after_twenty_resends() {
    let mut pair = Pair::new(
        &quick(),
        Faults {
            lost: 100,
            ..Faults::default()
        },
        1,
    );
    pair.send(0, b"anybody there?");
    let mut datagrams = 1;
    while !pair.ends[0].is_dead() {
        let before = pair.bytes[0];
        assert!(pair.step(), "it is never given up");
        datagrams += usize::from(pair.bytes[0] > before);
    }
    assert_eq!(datagrams, 22);
}

#[test]
fn a_window_that_was_closed_opens_again() {
    let options = quick().windows(64, 8);
    let mut pair = Pair::new(&options, Faults::default(), 1);
    pair.pauses[1] = true;
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    pair.send(0, &sent);
    // The window is asked for in vain, for as long as that takes.
    while pair.took() < Duration::from_secs(300) {
        assert!(pair.step(), "it does not ask");
    }
    assert!(pair.ends[0].queued() > 0 && !pair.ends[0].is_dead());
    assert!(pair.sent < 700, "{} datagrams in five minutes", pair.sent);
    pair.pauses[1] = false;
    pair.read(1);
    pair.flush(1);
    pair.run();
    assert!(pair.read[1] == sent);
}

#[test]
fn an_address_that_is_not_proved_gets_three_times_what_it_sent() {
    let now = Instant::now();
    let mut client = Kcp::client(CONV, &quick(), now);
    client.send(&[1; 76]).expect("there is room");
    let mut first = Vec::new();
    client.flush(now, |datagram| first.extend_from_slice(datagram));
    assert_eq!(first.len(), 100);

    let mut server = Kcp::server(CONV, &quick(), now, 77);
    server.input(&first, now).expect("a datagram");
    server.send(&[2; 100_000]).expect("there is room");
    let (mut at, mut sent) = (now, 0);
    let mut answers = Vec::new();
    // Segments without an acknowledgement are sent again, within the same bound.
    while at < now + Duration::from_secs(60) {
        server.flush(at, |datagram| {
            sent += datagram.len();
            answers.push(datagram.to_vec());
        });
        match server.check() {
            Some(next) => at = next,
            None => break,
        }
    }
    assert!(sent <= 300, "{sent} bytes");
    assert!(answers.len() <= 3);

    assert!(at < now + Duration::from_secs(1), "it is due in vain");

    // With parity, too.
    let protected = quick().fec(2, 2);
    let mut server = Kcp::server(CONV, &protected, now, 77);
    server.input(&first, now).expect("a datagram");
    server.send(&[2; 100_000]).expect("there is room");
    let mut sent = 0;
    for _ in 0..100 {
        let at = server.check().unwrap_or(now);
        server.flush(at, |datagram| sent += datagram.len());
    }
    assert!((200..=300).contains(&sent), "{sent} bytes");
    // The output that was due goes on with the peer's next datagram.
    assert_eq!(server.check(), None);
    server.input(&first, now).expect("a datagram");
    let at = server.check().expect("its acknowledgement is due");
    server.flush(at, |datagram| sent += datagram.len());
    assert!((400..=600).contains(&sent), "{sent} bytes");

    // An acknowledgement that does not know the time proves nothing.
    let mut server = Kcp::server(CONV, &quick(), now, 77);
    server.input(&first, now).expect("a datagram");
    server.send(&[2; 10_000]).expect("there is room");
    server.flush(now, |_| {});
    let mut forged = head(82, 0, 0);
    forged[20..24].copy_from_slice(&0_u32.to_le_bytes());
    server.input(&forged, now).expect("a datagram");
    let mut sent = 0;
    server.flush(now, |datagram| sent += datagram.len());
    assert!(sent <= 72, "{sent} bytes");

    // The true one does.
    let mut server = Kcp::server(CONV, &quick(), now, 77);
    server.input(&first, now).expect("a datagram");
    server.send(&[2; 10_000]).expect("there is room");
    let mut answer = Vec::new();
    server.flush(now, |datagram| answer.extend_from_slice(datagram));
    client.input(&answer, now).expect("a datagram");
    let mut proof = Vec::new();
    let later = now + Duration::from_millis(20);
    client.flush(later, |datagram| proof.extend_from_slice(datagram));
    server.input(&proof, later).expect("a datagram");
    let mut sent = 0;
    server.flush(later, |datagram| sent += datagram.len());
    assert!(sent > 9_000, "{sent} bytes");
}

#[test]
fn parity_saves_the_time_of_sending_again() {
    let faults = Faults {
        lost: 5,
        ..Faults::default()
    };
    let took = |options: KcpOptions| {
        let mut pair = Pair::new(&options, faults, 7);
        let mut sent = Vec::new();
        for n in 0..2000_u32 {
            sent.extend(n.to_le_bytes());
            pair.send(0, &n.to_le_bytes());
            let until = pair.now + Duration::from_millis(5);
            while pair.wire.keys().next().is_some_and(|(at, _)| *at < until) {
                pair.step();
            }
            pair.now = until;
        }
        let in_time = pair.read[1].len();
        pair.run();
        assert!(pair.read[1] == sent);
        (sent.len() - in_time, pair.ends[1].repaired())
    };
    let (late, repaired) = took(quick());
    assert_eq!(repaired, 0);
    let (protected, repaired) = took(quick().fec(10, 3));
    // Of 200 groups, most have lost something.
    assert!(repaired > 80, "{repaired} repaired");
    assert!(protected <= late, "{protected} bytes late, {late} without");
}

#[test]
fn acknowledgements_of_what_is_not_on_the_way_send_nothing_again() {
    let now = Instant::now();
    let mut end = Kcp::client(CONV, &quick(), now);
    end.send(&[7; 20_000]).expect("there is room");
    end.flush(now, |_| {});
    let sent_again = |end: &mut Kcp, sn: u32| {
        let mut sent = 0;
        for _ in 0..5 {
            end.input(&head(82, sn, 0), now).expect("a datagram");
            end.flush(now, |datagram| sent += datagram.len());
        }
        sent
    };
    for sn in [100, 1 << 30, i32::MAX as u32, u32::MAX] {
        assert_eq!(sent_again(&mut end, sn), 0, "{sn}");
    }
    // One that comes again and again tells nothing anew. The second later one does.
    assert_eq!(sent_again(&mut end, 5), 0);
    assert!(sent_again(&mut end, 6) >= 5 * 1000);
}

#[test]
fn only_data_with_the_number_0_opens_a_connection() {
    let mut push = head(81, 0, 0);
    push[20..24].copy_from_slice(&3_u32.to_le_bytes());
    push.extend_from_slice(b"abc");
    assert_eq!(Kcp::opening(&push), Some(CONV));

    for command in [0, 80, 82, 83, 84, 85, 255] {
        let mut other = push.clone();
        other[4] = command;
        assert_eq!(Kcp::opening(&other), None, "command {command}");
    }
    for len in 0..push.len() {
        assert_eq!(Kcp::opening(&push[..len]), None, "cut at {len}");
    }
    assert_eq!(Kcp::opening(&head(81, 0, 0)), None, "24 bytes");
    let mut later = push.clone();
    later[12] = 1;
    assert_eq!(Kcp::opening(&later), None, "number 1");
    let mut two = push.clone();
    two.extend(head(81, 1, 0));
    assert_eq!(Kcp::opening(&two), Some(CONV));
    let conv = two.len() - 24;
    two[conv] ^= 1;
    assert_eq!(Kcp::opening(&two), None, "two connections");
}

#[test]
fn a_datagram_counts_as_a_whole_or_not_at_all() {
    let now = Instant::now();
    let mut server = Kcp::server(CONV, &quick(), now, 1);
    let mut datagram = head(81, 0, 0);
    datagram[20..24].copy_from_slice(&1_u32.to_le_bytes());
    datagram.push(b'x');
    let mut cut = datagram.clone();
    cut.extend_from_slice(&[0; 5]);
    let refused = server.input(&cut, now).expect_err("it is cut off");
    assert!(matches!(refused, InputError::Malformed(_)), "{refused}");
    assert_eq!(server.recv(), None);

    let mut other = datagram.clone();
    other[0] ^= 1;
    let refused = server.input(&other, now).expect_err("another connection");
    assert_eq!(refused, InputError::OtherConv(CONV ^ 1));
    assert_eq!(server.check(), None);

    let mut long = head(81, 0, 0);
    long[20..24].copy_from_slice(&1_477_u32.to_le_bytes());
    long.resize(1501, 0);
    assert!(server.input(&long, now).is_err(), "longer than any MTU");
    long.truncate(1500);
    long[20..24].copy_from_slice(&1_476_u32.to_le_bytes());
    server.input(&long, now).expect("as long as allowed");
}

#[test]
fn what_waits_is_bounded_in_both_directions() {
    let now = Instant::now();
    let options = quick().max_queued(1000).windows(64, 16);
    let mut end = Kcp::client(CONV, &options, now);
    end.send(&[0; 900]).expect("there is room");
    let full = end.send(&[0; 101]).expect_err("too much");
    assert_eq!(full.queued, 900);
    end.send(&[0; 100]).expect("there is room");

    // A peer that ignores the window, and an application that reads nothing.
    for sn in (0..100_000_u32).rev().chain(0..100_000) {
        let mut push = head(81, sn, 0);
        push[20..24].copy_from_slice(&1_u32.to_le_bytes());
        push.push(b'x');
        end.input(&push, now).expect("a datagram");
        let mut sent = 0;
        end.flush(now, |datagram| sent += datagram.len());
        assert!(sent <= 1000 + 2 * 24 * 16 + 100);
    }
    let mut read = 0;
    while end.recv().is_some() {
        read += 1;
    }
    assert_eq!(
        read, 32,
        "twice the window: what is ready, and what is behind it"
    );
}

#[test]
fn options_that_cannot_work_are_told() {
    for (options, name) in [
        (KcpOptions::new().mtu(49), "mtu"),
        (KcpOptions::new().mtu(65_508), "mtu"),
        (KcpOptions::new().interval(Duration::ZERO), "interval"),
        (KcpOptions::new().windows(0, 1), "windows"),
        (KcpOptions::new().windows(1, 40_000), "windows"),
    ] {
        let problem = options.check().expect_err("it cannot work");
        assert!(problem.starts_with(name), "{problem}");
    }
    KcpOptions::new().check().expect("the defaults work");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_bytes_arrive_in_order_over_any_network(
        seed: u64,
        lost in 0..30_u32,
        repeated in 0..30_u32,
        late in 0..100_u64,
        is_quick: bool,
        fec in prop_oneof![Just(None), Just(Some((10, 3))), (1..20_u8, 1..5_u8).prop_map(Some)],
        sizes in vec((0..2_usize, 1..5000_usize), 1..40),
    ) {
        let options = if is_quick { quick() } else { KcpOptions::new() };
        let options = match fec {
            Some((data, parity)) => options.fec(data, parity),
            None => options,
        };
        let mut pair = Pair::new(&options, Faults { lost, repeated, late }, seed);
        let mut sent = [b"welcome".to_vec(), Vec::new()];
        pair.send(1, b"welcome");
        while !pair.ends[1].is_proved() {
            if pair.ends[1].queued() == 0 {
                // The proof was lost, and another segment has told that the data has come.
                pair.send(1, b"again");
                sent[0].extend_from_slice(b"again");
            }
            // As a client does with its heartbeats: until its address is proved, the server sends for what it gets.
            pair.send(0, b"hello");
            sent[1].extend_from_slice(b"hello");
            let _ = pair.step() && pair.step();
        }
        for (n, (end, size)) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|i| (n * 31 + i) as u8).collect();
            sent[1 - end].extend_from_slice(&bytes);
            pair.send(end, &bytes);
        }
        pair.run();
        prop_assert!(pair.read == sent);
        prop_assert_eq!(pair.ends[0].queued() + pair.ends[1].queued(), 0);
    }

    #[test]
    fn no_input_panics_or_is_answered_with_more(
        datagrams in vec(prop_oneof![vec(any::<u8>(), 0..100), hostile(), protected()], 0..200),
        sends: bool,
    ) {
        let mut now = Instant::now();
        let mut end = Kcp::server(CONV, &quick(), now, 9);
        let (mut came, mut sent) = (0, 0);
        for datagram in datagrams {
            if end.input(&datagram, now).is_ok() {
                came += datagram.len();
            }
            now += Duration::from_millis(u64::from(datagram.first().copied().unwrap_or(0)));
            end.flush(now, |datagram| sent += datagram.len());
            if sends {
                let _ = end.send(&datagram);
            } else {
                // A repaired datagram is as long as the longest one at most.
                let repaired = 600 * end.repaired() as usize;
                prop_assert!(sent <= came + repaired, "{} bytes for {}", sent, came);
            }
            if datagram.len() % 3 == 0 {
                end.recv();
            }
            let _ = (end.check(), end.is_dead());
        }
    }
}

/// Returns datagrams of well-formed segments with any numbers.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![0..80_u32, any::<u32>(), u32::MAX - 3..=u32::MAX];
    let segment = (
        81..=84_u8,
        any::<u16>(),
        number(),
        number(),
        number(),
        0..60_usize,
    );
    vec(segment, 1..6).prop_map(|segments| {
        let mut datagram = Vec::new();
        for (command, window, ts, sn, una, len) in segments {
            let mut head = head(command, sn, una);
            head[6..8].copy_from_slice(&window.to_le_bytes());
            head[8..12].copy_from_slice(&ts.to_le_bytes());
            head[20..24].copy_from_slice(&(len as u32).to_le_bytes());
            datagram.extend(head);
            datagram.resize(datagram.len() + len, 7);
        }
        datagram
    })
}

/// Returns such datagrams with heads of FEC, which mostly fit each other.
fn protected() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..40_u32, 4_294_967_270..=u32::MAX];
    (number, hostile(), 0..40_u8).prop_map(|(number, datagram, wrong)| {
        let is_data = (number % 13 < 10) != (wrong == 0);
        let kind = if is_data { 0xf1 } else { 0xf2 };
        let mut head = number.to_le_bytes().to_vec();
        head.extend([kind, 0]);
        let size = datagram.len() as u16 + if wrong == 1 { 7 } else { 2 };
        head.extend(if is_data {
            size.to_le_bytes()
        } else {
            [wrong; 2]
        });
        [head, datagram].concat()
    })
}

/// Returns a head without data.
fn head(command: u8, sn: u32, una: u32) -> Vec<u8> {
    let mut head = CONV.to_le_bytes().to_vec();
    head.extend_from_slice(&[command, 0, 32, 0, 0, 0, 0, 0]);
    head.extend_from_slice(&sn.to_le_bytes());
    head.extend_from_slice(&una.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head
}
