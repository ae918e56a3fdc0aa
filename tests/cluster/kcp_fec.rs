//! Forward error correction of KCP: recorded parity of due, and a second implementation that is checked against it.

use std::time::{Duration, Instant};

use epicycle::kcp::{Kcp, KcpOptions};

use crate::vectors::rows;

const CONV: u32 = 7;

/// The datagrams of a recorded client of due, by their numbers, up to the parity of its first group and beyond.
fn recorded() -> Vec<Vec<u8>> {
    let rows = rows("kcp").into_iter();
    let ups = rows.filter(|row| row.dir == "c>s");
    ups.map(|row| row.bytes()).collect()
}

/// Returns what a server reads of datagrams, and the number of those that it has repaired.
fn read(datagrams: &[Vec<u8>], is_lost: impl Fn(usize) -> bool) -> (Vec<u8>, u64) {
    let now = Instant::now();
    let first = datagrams[0][8..12].try_into().expect("are four");
    let mut server = Kcp::server(u32::from_le_bytes(first), &KcpOptions::new(), now, 1);
    let mut read = Vec::new();
    for (number, datagram) in datagrams.iter().enumerate() {
        if is_lost(number) {
            continue;
        }
        server.input(datagram, now).expect("a datagram");
        read.extend(std::iter::from_fn(|| server.recv()).flatten());
    }
    (read, server.repaired())
}

#[test]
fn data_of_due_that_is_lost_is_repaired_by_its_parity() {
    let datagrams = recorded();
    if datagrams.is_empty() {
        return;
    }
    let (whole, repaired) = read(&datagrams, |_| false);
    assert_eq!(repaired, 0);
    let is_parity = |number| (10..13).contains(&number);
    let mut tried = 0;
    // All sets of up to four of the first group.
    for set in (0..1_u32 << 13).filter(|set| (1..=4).contains(&set.count_ones())) {
        let is_lost = |number: usize| number < 13 && set >> number & 1 == 1;
        let data = (0..10).filter(|number| is_lost(*number)).count();
        let (read, repaired) = read(&datagrams, is_lost);
        // It has to see where a group's data and parity end.
        let is_sure = ![9, 10, 12].iter().any(|number| is_lost(*number));
        let enough = set.count_ones() <= 3;
        assert_eq!(
            repaired,
            if is_sure && enough { data as u64 } else { 0 },
            "{set:013b}"
        );
        let parity_only = (0..13).all(|number| !is_lost(number) || is_parity(number));
        if (is_sure && enough) || parity_only {
            assert_eq!(read, whole, "{set:013b}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn parity_is_that_of_due() {
    let datagrams = recorded();
    if !datagrams.is_empty() {
        let data: Vec<&[u8]> = datagrams[..10].iter().map(|data| &data[6..]).collect();
        for (n, datagram) in datagrams[10..13].iter().enumerate() {
            let number = (10 + n as u32).to_le_bytes();
            let expected = [&number[..], &[0xf2, 0], &parity(&data, 3)[n]].concat();
            assert_eq!(*datagram, expected, "parity {n}");
        }
    }

    // So the second implementation is right, and the first one agrees with it, in any sizes.
    for (data, parity_len) in [(10, 3), (1, 1), (5, 2), (20, 7), (64, 64)] {
        let options = KcpOptions::new()
            .no_delay(true)
            .congestion_control(false)
            .windows(256, 256)
            .fec(data, parity_len);
        options.check().expect("works");
        let mut now = Instant::now();
        let mut client = Kcp::client(CONV, &options, now);
        let mut server = Kcp::server(CONV, &options, now, 9);
        let (mut group, mut expected) = (Vec::new(), Vec::new());
        let mut count = 0_u32;
        for n in 0..3 * usize::from(data) {
            now += Duration::from_millis(1);
            client.send(&vec![n as u8; 1 + 17 * n % 800]).expect("room");
            let mut sent = Vec::new();
            client.flush(now, |datagram| sent.push(datagram.to_vec()));
            for datagram in sent {
                assert_eq!(datagram[..4], count.to_le_bytes());
                count += 1;
                server.input(&datagram, now).expect("a datagram");
                while server.recv().is_some() {}
                if !expected.is_empty() {
                    assert_eq!(datagram[4..6], [0xf2, 0]);
                    let parity: Vec<u8> = expected.remove(0);
                    assert_eq!(datagram[6..], parity);
                    continue;
                }
                assert_eq!(datagram[4..6], [0xf1, 0]);
                group.push(datagram[6..].to_vec());
                if group.len() == usize::from(data) {
                    let group: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
                    expected = parity(&group, parity_len.into());
                }
                if !expected.is_empty() {
                    group.clear();
                }
            }
            server.flush(now, |datagram| {
                client.input(datagram, now).expect("a datagram");
            });
        }
        assert!(
            count >= 3 * (u32::from(data) + u32::from(parity_len)),
            "{count}"
        );
    }
}

#[test]
fn parity_of_what_was_sent_again_long_ago_is_not_sent() {
    let options = KcpOptions::new().fec(2, 2);
    let mut now = Instant::now();
    let mut client = Kcp::client(CONV, &options, now);
    let mut kinds = Vec::new();
    let mut server = Kcp::server(CONV, &options, now, 9);
    for pause in [0, 10, 5000, 5000, 10, 10] {
        now += Duration::from_millis(pause);
        client.send(b"move").expect("room");
        client.flush(now, |datagram| {
            kinds.push((datagram[0], datagram[4] & 0xf));
            server.input(datagram, now).expect("a datagram");
        });
        let later = now + Duration::from_millis(500);
        server.flush(later, |datagram| {
            client.input(datagram, later).expect("a datagram");
        });
        client.flush(later, |_| panic!("all of it is acknowledged"));
    }
    let expected = [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 1),
        (5, 1),
        (8, 1),
        (9, 1),
        (10, 2),
        (11, 2),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn groups_of_other_sizes_are_not_repaired_and_lose_nothing() {
    for (data, parity) in [(9, 4), (5, 2), (20, 6), (10, 16), (12, 1), (11, 2)] {
        let options = KcpOptions::new()
            .no_delay(true)
            .congestion_control(false)
            .windows(64, 64);
        let mut now = Instant::now();
        let mut client = Kcp::client(CONV, &options.clone().fec(data, parity), now);
        let mut server = Kcp::server(CONV, &options, now, 9);
        let mut random = fastrand::Rng::with_seed(u64::from(data));
        let (mut sent, mut read) = (Vec::new(), Vec::new());
        for n in 0..100_000_u32 {
            now += Duration::from_millis(5);
            if n >= 1000 && client.queued() == 0 {
                break;
            }
            if n < 1000 {
                let bytes = n.to_le_bytes();
                client.send(&bytes).expect("room");
                sent.extend(bytes);
            }
            client.flush(now, |datagram| {
                if random.u8(..5) > 0 {
                    server.input(datagram, now).expect("a datagram");
                }
            });
            read.extend(std::iter::from_fn(|| server.recv()).flatten());
            server.flush(now, |datagram| {
                client.input(datagram, now).expect("a datagram");
            });
        }
        assert_eq!(server.repaired(), 0, "{data} and {parity}");
        assert!(read == sent, "{data} and {parity}");
    }
}

/// Returns parity as the encoder of kcp-go makes it: Reed-Solomon over GF(2⁸) with the polynomial 0x11d, by the Vandermonde matrix
/// `rᶜ` whose upper square was made the identity. Shorter shards end in zeros.
fn parity(data: &[&[u8]], parity: usize) -> Vec<Vec<u8>> {
    let longest = data.iter().map(|shard| shard.len()).max().unwrap_or(0);
    let matrix: Vec<Vec<u8>> = (0..data.len() + parity)
        .map(|row| {
            (0..data.len())
                .map(|column| power(row as u8, column))
                .collect()
        })
        .collect();
    let upper = inverse(&matrix[..data.len()]);
    let rows = matrix[data.len()..].iter().map(|row| {
        let column = |column: usize| {
            let terms = row
                .iter()
                .zip(&upper)
                .map(|(a, row)| times(*a, row[column]));
            terms.fold(0, |sum, term| sum ^ term)
        };
        (0..data.len()).map(column).collect::<Vec<u8>>()
    });
    rows.map(|row| {
        let byte = |at: usize| {
            let terms = data.iter().zip(&row);
            let terms = terms.map(|(shard, a)| times(*a, shard.get(at).copied().unwrap_or(0)));
            terms.fold(0, |sum, term| sum ^ term)
        };
        (0..longest).map(byte).collect()
    })
    .collect()
}

fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b > 0 {
        product ^= if b & 1 == 1 { a } else { 0 };
        a = a << 1 ^ if a & 0x80 > 0 { 0x1d } else { 0 };
        b >>= 1;
    }
    product
}

fn power(a: u8, n: usize) -> u8 {
    (0..n).fold(1, |power, _| times(power, a))
}

/// Returns the inverse by Gauss and Jordan.
fn inverse(matrix: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let len = matrix.len();
    let mut rows: Vec<Vec<u8>> = matrix
        .iter()
        .enumerate()
        .map(|(n, row)| {
            let unit = (0..len).map(|column| u8::from(column == n));
            row.iter().copied().chain(unit).collect()
        })
        .collect();
    for n in 0..len {
        let pivot = (n..len).find(|row| rows[*row][n] > 0);
        rows.swap(n, pivot.expect("the matrix is regular"));
        // In this field, the 254th power is the inverse.
        let scale = power(rows[n][n], 254);
        for value in &mut rows[n] {
            *value = times(*value, scale);
        }
        let unit = rows[n].clone();
        for (other, row) in rows.iter_mut().enumerate() {
            let factor = row[n];
            if other != n && factor > 0 {
                for (value, own) in row.iter_mut().zip(&unit) {
                    *value ^= times(factor, *own);
                }
            }
        }
    }
    rows.into_iter().map(|row| row[len..].to_vec()).collect()
}
