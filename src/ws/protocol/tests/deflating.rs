use flate2::{Compress, Compression, FlushCompress};

use super::*;

/// Compresses without limits.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 100);
    Compress::new(Compression::best(), false)
        .compress_vec(bytes, &mut out, FlushCompress::Sync)
        .expect("compresses");
    out.truncate(out.len() - 4);
    out
}

fn limited(max: usize) -> ServerCodec {
    let limits = Limits::default().max_message(max);
    deflating(DeflateOptions::default(), limits).1
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    for (size, fits) in [(100_000, true), (100_001, false), (10_000_000, false)] {
        let bomb = compressed(&vec![0; size]);
        let whole = raw(0xC2, &bomb);
        let third = bomb.len() / 3;
        let fragments = [
            raw(0x42, &bomb[..third]),
            raw(0x00, &bomb[third..2 * third]),
            raw(0x80, &bomb[2 * third..]),
        ];
        for bytes in [whole, fragments.concat()] {
            let mut codec = limited(100_000);
            let (seen, error) = feed(&mut codec, &bytes, &[]);
            if fits {
                assert!(error.is_none() && seen == [Seen::binary(&vec![0; size])]);
            } else {
                assert_eq!(seen, []);
                assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1009);
            }
        }
    }
}

#[test]
fn compressed_text_is_judged_as_it_is_inflated() {
    let mut text = "ä".repeat(50_000).into_bytes();
    assert!(matches!(
        &feed_all(&mut limited(1 << 20), &raw(0xC1, &compressed(&text)))[..],
        [Seen::Message(Message::Text(_))]
    ));
    text[777] = b'.';
    let mut codec = limited(1 << 20);
    let (_, error) = feed(&mut codec, &raw(0xC1, &compressed(&text)), &[]);
    assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1007);
    // The wrong byte is in the first fragment, so the second is not awaited.
    let packed = compressed(&[&[0xFF][..], &vec![b'a'; 100_000]].concat());
    let mut codec = limited(1 << 20);
    let (_, error) = feed(&mut codec, &raw(0x41, &packed[..packed.len() / 2]), &[]);
    assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1007);
}

#[test]
fn what_cannot_be_inflated_is_refused() {
    let mut codec = limited(1000);
    let (_, error) = feed(&mut codec, &raw(0xC2, b"\xFF\xFF\xFF\xFF"), &[]);
    assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1007);
}

#[test]
fn the_bit_stands_on_the_first_frame_only() {
    let part = compressed(b"hello");
    for bytes in [
        [raw(0x41, &part[..2]), raw(0xC0, &part[2..])].concat(),
        raw(0xC9, b"ping"),
        [raw(0x01, b"a"), raw(0xC0, &part)].concat(),
    ] {
        let mut codec = limited(1000);
        let (_, error) = feed(&mut codec, &bytes, &[]);
        assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1002);
    }
    let fragments = [
        raw(0x41, &part[..2]),
        raw(0x89, b"?"),
        raw(0x80, &part[2..]),
    ]
    .concat();
    assert_eq!(
        feed_all(&mut limited(1000), &fragments),
        [Seen::text("hello")]
    );
    // A message may arrive uncompressed.
    assert_eq!(
        feed_all(&mut limited(1000), &raw(0x81, b"plain")),
        [Seen::text("plain")]
    );
}

#[test]
fn short_messages_are_sent_as_they_are() {
    let options = DeflateOptions::default().threshold(100);
    let (_, mut server) = deflating(options, Limits::default());
    let first = |codec: &mut ServerCodec, len: usize| sent(codec, "a".repeat(len))[0];
    assert_eq!(first(&mut server, 99), 0x81);
    assert_eq!(first(&mut server, 100), 0xC1);
    let (_, mut server) = deflating(options.threshold(0), Limits::default());
    assert_eq!(first(&mut server, 0), 0x81);
}
