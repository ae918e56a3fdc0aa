//! Filters: their output, the input they accept, and the input they refuse.

use std::borrow::Cow;
use std::io::{Read, Write};

use epicycle::rpc::wire::{
    Filter, FilterError, FilterPipe, Filters, Gzip, Md5, RegistryError, WireError,
};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;

const TEXT: &[u8] = b"the same, the same, the same, and then another";

fn unpack(bytes: &[u8], max: usize) -> Result<Vec<u8>, FilterError> {
    Gzip::default()
        .unpack(bytes.into(), max)
        .map(Cow::into_owned)
}

/// As Teleport does it: flushed, and left at that.
fn flushed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(5));
    encoder.write_all(content).expect("is a vector");
    encoder.flush().expect("is a vector");
    encoder.get_ref().clone()
}

#[test]
fn gzip_is_written_complete() {
    let packed = Gzip::default().pack(TEXT.into()).expect("can be packed");
    assert!(packed.len() < TEXT.len() + 10);
    let mut text = Vec::new();
    // This one insists on the checksum at the end.
    GzDecoder::new(&packed[..])
        .read_to_end(&mut text)
        .expect("is complete");
    assert_eq!(text, TEXT);
}

#[test]
fn gzip_that_was_only_flushed_is_accepted() {
    for content in [&b""[..], TEXT, &vec![7; 100_000]] {
        let stream = flushed(content);
        assert!(stream.ends_with(&[0, 0, 0xff, 0xff]));
        assert_eq!(unpack(&stream, 1 << 20).expect("is accepted"), content);
    }
}

#[test]
fn gzip_whose_data_is_complete_may_lack_its_checksum() {
    let packed = Gzip::default().pack(TEXT.into()).expect("can be packed");
    for cut in 0..=8 {
        let stream = &packed[..packed.len() - cut];
        assert_eq!(unpack(stream, 1 << 20).expect("is accepted"), TEXT);
    }
}

#[test]
fn broken_gzip_is_refused() {
    let packed = Gzip::default().pack(TEXT.into()).expect("can be packed");
    // Cut off within its data, or within its header.
    for len in 0..packed.len() - 8 {
        unpack(&packed[..len], 1 << 20).expect_err("is cut off");
    }
    let stream = flushed(TEXT);
    for len in 0..stream.len() {
        unpack(&stream[..len], 1 << 20).expect_err("is cut off");
    }
    for at in packed.len() - 8..packed.len() {
        let mut wrong = packed.clone();
        wrong[at] ^= 1;
        unpack(&wrong, 1 << 20).expect_err("has a wrong checksum");
    }
    unpack(&[&packed[..], b"x"].concat(), 1 << 20).expect_err("has something behind it");
    unpack(b"no gzip at all", 1 << 20).expect_err("is no gzip");
}

#[test]
fn inflation_ends_at_its_bound_and_not_before() {
    for len in [0, 1, 511, 512, 513, 8191, 100_000] {
        let content = vec![b'x'; len];
        for stream in [
            flushed(&content),
            Gzip::default().pack((&content[..]).into()).unwrap(),
        ] {
            assert_eq!(unpack(&stream, len).expect("fits"), content);
            if len > 0 {
                let error = unpack(&stream, len - 1).unwrap_err();
                assert!(matches!(error, FilterError::TooLong { max } if max == len - 1));
            }
        }
    }
}

#[test]
fn a_wrong_digest_is_refused() {
    let packed = Md5.pack(TEXT.into()).expect("can be packed");
    assert_eq!(packed.len(), TEXT.len() + 16);
    let unpacked = Md5
        .unpack((&packed[..]).into(), TEXT.len())
        .expect("is sound");
    assert!(matches!(unpacked, Cow::Borrowed(TEXT)));
    for at in 0..packed.len() {
        let mut wrong = packed.clone();
        wrong[at] ^= 1;
        Md5.unpack(wrong.into(), 1 << 20).expect_err("is damaged");
    }
    Md5.unpack(packed[..15].into(), 1 << 20)
        .expect_err("is too short");
    let error = Md5.unpack(packed.into(), TEXT.len() - 1).unwrap_err();
    assert!(matches!(error, FilterError::TooLong { .. }));
}

#[test]
fn filters_are_found_by_id_and_by_name_and_duplicates_are_errors() {
    let mut filters = Filters::standard();
    assert_eq!(filters.get(b'g').map(Filter::name), Some("gzip"));
    assert_eq!(filters.by_name("md5").map(Filter::id), Some(b'm'));
    let error = filters
        .register(Gzip::named(b'm', "gzip-9", 9))
        .unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateId { id: b'm', .. }));
    assert!(error.to_string().contains("gzip-9") && error.to_string().contains("md5"));
    let error = filters.register(Gzip::named(b'9', "gzip", 9)).unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateName { .. }));
    filters
        .register(Gzip::named(b'9', "gzip-9", 9))
        .expect("is another one");
    assert_eq!(filters.iter().count(), 3);
    assert_eq!(Filters::none().iter().count(), 0);
}

#[test]
fn a_pipe_packs_from_the_last_filter_to_the_first() {
    let filters = Filters::standard();
    let mut pipe = FilterPipe::default();
    assert_eq!(pipe.pack(TEXT.into(), &filters).unwrap(), TEXT);
    pipe.append(b"gm", &filters).expect("are known");
    let digested = Md5.pack(TEXT.into()).unwrap();
    let packed = pipe.pack(TEXT.into(), &filters).expect("can be packed");
    assert_eq!(unpack(&packed, 1 << 20).unwrap(), digested);
    assert_eq!(pipe.unpack(packed, &filters, 1 << 20).unwrap(), TEXT);

    let mut more = pipe.clone();
    more.append_from(&pipe, &filters).expect("are known");
    assert_eq!(more.ids(), b"gmgm");
    let error = more.append(b"z", &filters).unwrap_err();
    assert!(matches!(error, WireError::UnknownFilter { id: b'z' }));
    let error = more.append(&[b'm'; 252], &filters).unwrap_err();
    assert!(matches!(
        error,
        WireError::TooManyFilters {
            count: 256,
            max: 255
        }
    ));
    assert_eq!(more.len(), 4);
    let unknown = FilterPipe::from_ids(b"mz");
    let names: Vec<_> = unknown.names(&filters).collect();
    assert_eq!(names, ["md5", "?"]);
    more.clear();
    assert!(more.is_empty());
}

proptest! {
    #[test]
    fn whatever_is_packed_is_unpacked(
        content in proptest::collection::vec(any::<u8>(), 0..3000),
        ids in proptest::collection::vec(prop::sample::select(b"gm".to_vec()), 0..6),
    ) {
        let filters = Filters::standard();
        let pipe = FilterPipe::from_ids(&ids);
        let packed = pipe.pack((&content[..]).into(), &filters).expect("can be packed");
        prop_assert_eq!(pipe.unpack(packed, &filters, 10_000).expect("is sound"), &content[..]);
    }

    #[test]
    fn garbage_unpacks_to_no_more_than_its_bound(
        garbage in proptest::collection::vec(any::<u8>(), 0..200), max in 0usize..2000,
    ) {
        let stream = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff][..], &garbage].concat();
        for bytes in [&garbage, &stream] {
            if let Ok(content) = unpack(bytes, max) {
                prop_assert!(content.len() <= max);
            }
        }
    }
}
