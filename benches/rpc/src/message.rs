//! The message of the measurements: the `BenchmarkMessage` that Teleport and rpcx are measured with, 581 bytes of protobuf.

use prost::Message;

/// The text of all string fields.
const TEXT: &str = "许多往事在眼前一幕一幕，变的那麼模糊";

/// The value of all integer fields.
const NUMBER: i32 = 100_000;

/// The fields are required, as in proto2, so that each is sent whatever its value is.
#[derive(Clone, PartialEq, Message)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct BenchmarkMessage {
    #[prost(string, required, tag = "1")]
    pub field1: String,
    #[prost(int32, required, tag = "2")]
    pub field2: i32,
    #[prost(int32, required, tag = "3")]
    pub field3: i32,
    #[prost(string, required, tag = "4")]
    pub field4: String,
    #[prost(fixed64, repeated, packed = "false", tag = "5")]
    pub field5: Vec<u64>,
    #[prost(int32, required, tag = "6")]
    pub field6: i32,
    #[prost(string, required, tag = "7")]
    pub field7: String,
    #[prost(string, required, tag = "9")]
    pub field9: String,
    #[prost(bool, required, tag = "12")]
    pub field12: bool,
    #[prost(bool, required, tag = "13")]
    pub field13: bool,
    #[prost(bool, required, tag = "14")]
    pub field14: bool,
    #[prost(int32, required, tag = "16")]
    pub field16: i32,
    #[prost(bool, required, tag = "17")]
    pub field17: bool,
    #[prost(string, required, tag = "18")]
    pub field18: String,
    #[prost(int64, required, tag = "22")]
    pub field22: i64,
    #[prost(int32, required, tag = "23")]
    pub field23: i32,
    #[prost(bool, required, tag = "24")]
    pub field24: bool,
    #[prost(int32, required, tag = "25")]
    pub field25: i32,
    #[prost(int32, required, tag = "29")]
    pub field29: i32,
    #[prost(bool, required, tag = "30")]
    pub field30: bool,
    #[prost(bool, required, tag = "59")]
    pub field59: bool,
    #[prost(int32, required, tag = "60")]
    pub field60: i32,
    #[prost(int32, required, tag = "67")]
    pub field67: i32,
    #[prost(int32, required, tag = "68")]
    pub field68: i32,
    #[prost(bool, required, tag = "78")]
    pub field78: bool,
    #[prost(bool, required, tag = "80")]
    pub field80: bool,
    #[prost(bool, required, tag = "81")]
    pub field81: bool,
    #[prost(int32, required, tag = "100")]
    pub field100: i32,
    #[prost(int32, required, tag = "101")]
    pub field101: i32,
    #[prost(string, required, tag = "102")]
    pub field102: String,
    #[prost(string, required, tag = "103")]
    pub field103: String,
    #[prost(int32, required, tag = "104")]
    pub field104: i32,
    #[prost(int32, required, tag = "128")]
    pub field128: i32,
    #[prost(string, required, tag = "129")]
    pub field129: String,
    #[prost(int32, required, tag = "130")]
    pub field130: i32,
    #[prost(int32, required, tag = "131")]
    pub field131: i32,
    #[prost(int32, required, tag = "150")]
    pub field150: i32,
    #[prost(int32, required, tag = "271")]
    pub field271: i32,
    #[prost(int32, required, tag = "272")]
    pub field272: i32,
    #[prost(int32, required, tag = "280")]
    pub field280: i32,
}

impl BenchmarkMessage {
    /// Returns the message of a call.
    #[must_use]
    pub fn request() -> Self {
        Self {
            field1: TEXT.to_owned(),
            field2: NUMBER,
            field3: NUMBER,
            field4: TEXT.to_owned(),
            field5: Vec::new(),
            field6: NUMBER,
            field7: TEXT.to_owned(),
            field9: TEXT.to_owned(),
            field12: true,
            field13: true,
            field14: true,
            field16: NUMBER,
            field17: true,
            field18: TEXT.to_owned(),
            field22: NUMBER.into(),
            field23: NUMBER,
            field24: true,
            field25: NUMBER,
            field29: NUMBER,
            field30: true,
            field59: true,
            field60: NUMBER,
            field67: NUMBER,
            field68: NUMBER,
            field78: true,
            field80: true,
            field81: true,
            field100: NUMBER,
            field101: NUMBER,
            field102: TEXT.to_owned(),
            field103: TEXT.to_owned(),
            field104: NUMBER,
            field128: NUMBER,
            field129: TEXT.to_owned(),
            field130: NUMBER,
            field131: NUMBER,
            field150: NUMBER,
            field271: NUMBER,
            field272: NUMBER,
            field280: NUMBER,
        }
    }

    /// Does the work of the handler. Returns the message of the reply.
    #[must_use]
    pub fn answered(mut self) -> Self {
        "OK".clone_into(&mut self.field1);
        self.field2 = 100;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_call_has_581_bytes() {
        assert_eq!(BenchmarkMessage::request().encoded_len(), 581);
    }
}
