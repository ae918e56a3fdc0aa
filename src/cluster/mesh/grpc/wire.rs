//! The form of calls in gRPC: bodies as bytes, the content types of codecs, and statuses.

use std::time::Duration;

use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status as GrpcStatus};

use crate::Bytes;
use crate::cluster::codec::Codec;
use crate::rpc::wire::{Status, code};

/// The metadata with the exact code of a status.
const CODE: &str = "epicycle-code";
/// The metadata with the reason of a status.
const REASON: &str = "epicycle-reason-bin";

/// The most bytes of a message or a reason. Longer ones would fail the call as a connection that is broken.
const MAX_TEXT: usize = 1024;

/// Bodies as they are.
#[derive(Clone, Copy, Default)]
pub(super) struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = GrpcStatus;

    fn encode(&mut self, body: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), GrpcStatus> {
        bytes::BufMut::put(out, body);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = GrpcStatus;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, GrpcStatus> {
        let len = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, len)))
    }
}

/// Returns the content type of a codec.
pub(super) fn content_type(codec: &Codec) -> String {
    match codec {
        // The one that every implementation takes.
        Codec::Protobuf => "application/grpc".to_owned(),
        codec => format!("application/grpc+{}", codec.name()),
    }
}

/// Returns the name of the codec in a content type, or `None` if it is not one of gRPC.
pub(super) fn codec_name(content_type: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content_type).ok()?;
    let text = text.split(';').next().unwrap_or_default().trim();
    match text.strip_prefix("application/grpc")? {
        "" | "+proto" => Some("proto"),
        other => other.strip_prefix('+'),
    }
}

/// Returns the time that a request gives its answer, as `grpc-timeout` has it: up to eight digits and a unit.
pub(super) fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Returns the status that gRPC has for one of rpc.
pub(super) fn to_grpc(status: &Status) -> GrpcStatus {
    let known = match status.code {
        code::BAD_MESSAGE => Code::InvalidArgument,
        code::UNAUTHORIZED => Code::Unauthenticated,
        code::NOT_FOUND => Code::NotFound,
        code::HANDLE_TIMEOUT => Code::DeadlineExceeded,
        code::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        code::CANCELLED => Code::Cancelled,
        code::INTERNAL_SERVER_ERROR => Code::Internal,
        code::SERVICE_UNAVAILABLE => Code::Unavailable,
        // An error must not look like success, which is 0.
        code @ 1..=16 => Code::from_i32(code),
        _ => Code::Unknown,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE, MetadataValue::from(status.code));
    if !status.reason.is_empty() {
        let reason = cut(&status.reason);
        metadata.insert_bin(REASON, MetadataValue::from_bytes(reason.as_bytes()));
    }
    GrpcStatus::with_metadata(known, cut(&status.message), metadata)
}

/// Returns as much of a text as trailers have room for, which other implementations bound at 8 KiB, three bytes for each of the text.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Returns the status of rpc for one that a server has sent.
pub(super) fn from_grpc(status: &GrpcStatus) -> Status {
    let metadata = status.metadata();
    let exact = metadata.get(CODE).and_then(|code| code.to_str().ok());
    let code = exact.and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| match status.code() {
        Code::InvalidArgument => code::BAD_MESSAGE,
        Code::Unauthenticated => code::UNAUTHORIZED,
        Code::NotFound | Code::Unimplemented => code::NOT_FOUND,
        Code::DeadlineExceeded => code::HANDLE_TIMEOUT,
        Code::ResourceExhausted => code::TOO_MANY_REQUESTS,
        Code::Cancelled => code::CANCELLED,
        Code::Internal => code::INTERNAL_SERVER_ERROR,
        Code::Unavailable => code::SERVICE_UNAVAILABLE,
        Code::Unknown => code::UNKNOWN_ERROR,
        other => i32::from(other),
    });
    let reason = metadata.get_bin(REASON).and_then(|reason| {
        let bytes = reason.to_bytes().ok()?;
        String::from_utf8(bytes.to_vec()).ok()
    });
    Status::new(code, status.message().to_owned()).with_reason(reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_codecs_both_ways() {
        for codec in [Codec::Json, Codec::Protobuf] {
            let text = content_type(&codec);
            assert_eq!(codec_name(text.as_bytes()), Some(codec.name()), "{text}");
        }
        assert_eq!(codec_name(b"application/grpc+proto"), Some("proto"));
        assert_eq!(
            codec_name(b"application/grpc; charset=utf-8"),
            Some("proto")
        );
        for wrong in [
            &b"application/json"[..],
            b"application/grpc-web",
            b"",
            b"\xff",
        ] {
            assert_eq!(codec_name(wrong), None);
        }
    }

    #[test]
    fn times_have_up_to_eight_digits_and_a_unit() {
        assert_eq!(
            timeout(b"99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(timeout(b"2M"), Some(Duration::from_secs(120)));
        assert_eq!(timeout(b"3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout(b"200m"), Some(Duration::from_millis(200)));
        assert_eq!(timeout(b"5u"), Some(Duration::from_micros(5)));
        assert_eq!(timeout(b"0n"), Some(Duration::ZERO));
        for wrong in [
            &b""[..],
            b"S",
            b"1",
            b"1s",
            b"-1S",
            b"123456789S",
            b"1.5S",
            b"\xff",
        ] {
            assert_eq!(timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_status_comes_back_as_it_was() {
        for code in [
            -1, 1, 7, 16, 17, 102, 400, 401, 404, 408, 429, 499, 500, 503, 1001,
        ] {
            let status = Status::new(code, "kein Geld: 0 €").with_reason("ü");
            let sent = to_grpc(&status);
            assert_ne!(sent.code(), Code::Ok);
            assert_eq!(from_grpc(&sent), status);
        }
    }

    #[test]
    fn no_status_of_a_stranger_is_a_success() {
        for code in 1..=16 {
            let status = from_grpc(&GrpcStatus::new(Code::from_i32(code), "no"));
            assert_ne!(status.code, 0, "{code}");
            assert_eq!(status.message, "no");
        }
    }
}
