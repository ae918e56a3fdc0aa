//! The speed of each codec: decoding frames from a full buffer, and encoding items.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epicycle::codec::{
    ByteOrder, Codec, Decoded, Delimited, Encode, Fixed, LengthField, Lines, Raw, encode_to_vec,
};

/// The sizes of a frame's payload in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 16 << 10];

/// The least number of bytes decoded at once, as many as a reactor receives at once.
const BUFFER: usize = 64 << 10;

criterion_group!(benches, decode, encode);
criterion_main!(benches);

fn decode(c: &mut Criterion) {
    for size in SIZES {
        decode_one(c, "lines", size, Lines::new());
        decode_one(c, "delimited", size, delimited());
        decode_one(c, "fixed", size, fixed(size));
        decode_one(c, "length_field", size, LengthField::default());
        decode_one(c, "length_field_2_of_4_le", size, described());
    }
}

fn decode_one<C>(c: &mut Criterion, name: &str, size: usize, mut codec: C)
where
    C: for<'a> Codec<Frame<'a> = &'a [u8]> + for<'a> Encode<&'a [u8]>,
{
    let frame = encode_to_vec(&mut codec, payload(size).as_slice()).expect("a frame that fits");
    let mut buffer = frame.repeat(BUFFER.div_ceil(frame.len()));
    let mut group = c.benchmark_group(format!("decode/{name}"));
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    group.bench_function(BenchmarkId::from_parameter(size), |b| {
        b.iter(|| {
            let mut at = 0;
            while at < buffer.len() {
                let Ok(Decoded::Frame { frame, consumed }) = codec.decode(&mut buffer[at..]) else {
                    panic!("a buffer of whole frames");
                };
                black_box(frame);
                at += consumed;
            }
        });
    });
    group.finish();
}

fn encode(c: &mut Criterion) {
    for size in SIZES {
        encode_one(c, "raw", size, Raw);
        encode_one(c, "lines", size, Lines::new());
        encode_one(c, "delimited", size, delimited());
        encode_one(c, "fixed", size, fixed(size));
        encode_one(c, "length_field", size, LengthField::default());
        encode_one(c, "length_field_2_of_4_le", size, described());
    }
}

fn encode_one<C>(c: &mut Criterion, name: &str, size: usize, mut codec: C)
where
    C: for<'a> Encode<&'a [u8]>,
{
    let item = payload(size);
    let mut group = c.benchmark_group(format!("encode/{name}"));
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function(BenchmarkId::from_parameter(size), |b| {
        b.iter(|| {
            encode_to_vec(&mut codec, black_box(item.as_slice())).expect("an item that fits")
        });
    });
    group.finish();
}

fn delimited() -> Delimited {
    Delimited::new("\r\n\r\n").expect("a delimiter")
}

fn fixed(size: usize) -> Fixed {
    Fixed::new(size).expect("a size")
}

/// A frame with two bytes of type, a little-endian length of two bytes, and the rest. All of it is returned.
fn described() -> LengthField {
    LengthField::builder()
        .offset(2)
        .length(2)
        .byte_order(ByteOrder::Little)
        .strip(0)
        .build()
        .expect("a valid layout")
}

/// Text without a delimiter of any codec.
fn payload(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size).collect()
}
