//! Thrift's binary protocol, framed.

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use rpc_bench::message::BenchmarkMessage;

use crate::canned::PLACEHOLDER;

const BOOL: u8 = 2;
const I32: u8 = 8;
const I64: u8 = 10;
const STRING: u8 = 11;
const STRUCT: u8 = 12;
const LIST: u8 = 15;
const STOP: u8 = 0;

/// Returns a message of the method `say`: `kind` 1 is a call, 2 a reply. `field` is the number of its only field.
#[must_use]
pub fn message(kind: u8, field: u16, message: &BenchmarkMessage) -> Vec<u8> {
    let mut out = vec![0x80, 1, 0, kind];
    bytes(b"say", &mut out);
    out.extend(PLACEHOLDER.to_be_bytes());
    begin(STRUCT, field, &mut out);
    fields(message, &mut out);
    out.extend([STOP, STOP]);
    let mut frame = (out.len() as u32).to_be_bytes().to_vec();
    frame.append(&mut out);
    frame
}

/// Writes the fields of the message in the order of their numbers, with the types of the schema.
fn fields(message: &BenchmarkMessage, out: &mut Vec<u8>) {
    let encoded = message.encode_to_vec();
    let mut rest = &encoded[..];
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest).expect("prost has encoded it");
        let value = decode_varint(&mut rest).expect("prost has encoded it");
        let number = u16::try_from(number).expect("numbers are small");
        if wire_type == WireType::LengthDelimited {
            let (text, behind) = rest.split_at(value as usize);
            begin(STRING, number, out);
            bytes(text, out);
            rest = behind;
        } else if number == 22 {
            begin(I64, number, out);
            out.extend(value.to_be_bytes());
        } else if value == 1 {
            begin(BOOL, number, out);
            out.push(1);
        } else {
            begin(I32, number, out);
            out.extend((value as u32).to_be_bytes());
        }
        if number == 4 {
            // Protobuf leaves out an empty list.
            begin(LIST, 5, out);
            out.push(I64);
            out.extend(0_u32.to_be_bytes());
        }
    }
}

fn begin(kind: u8, number: u16, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(number.to_be_bytes());
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}
