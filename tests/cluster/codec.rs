//! The codecs of the data in packets.

use std::fmt::Debug;

use epicycle::cluster::Error;
use epicycle::cluster::codec::{BodyCodec, BodyError, Codec, Dual, Pb, Raw, Visit};
use epicycle::rpc::wire::{self, erased_serde};
use serde::{Deserialize, Serialize};

use crate::vectors::{hex, rows};

/// The value of the recordings.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
struct Player {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    tags: Vec<String>,
}

fn player() -> Player {
    Player {
        id: 7,
        name: "a<b>&频".to_owned(),
        tags: vec!["x".to_owned(), "y".to_owned()],
    }
}

fn is_codec_error(result: Result<impl Debug, Error>) -> bool {
    matches!(result, Err(Error::Codec(_)))
}

#[test]
fn json_has_the_bytes_that_due_writes() {
    for row in rows("codec") {
        if row.scenario.starts_with("json ") {
            let data = Codec::Json.encode(&player()).expect("is JSON");
            assert_eq!(hex(&data), row.data);
            let read: Player = Codec::Json.decode(&row.bytes()).expect("is a player");
            assert_eq!(read, player());
        }
    }
}

#[test]
fn a_message_of_prost_is_protobuf() {
    let data = Codec::Protobuf.encode(&Pb(player())).expect("is protobuf");
    assert_eq!(hex(&data), "08071208613c623e26e9a2911a01781a0179");
    let read: Pb<Player> = Codec::Protobuf.decode(&data).expect("is a player");
    assert_eq!(read.0, player());

    assert!(is_codec_error(Codec::Json.encode(&Pb(player()))));
    assert!(is_codec_error(Codec::Protobuf.encode(&player())));
}

#[test]
fn a_type_that_is_both_and_bytes_are_for_any_codec() {
    for codec in [Codec::Json, Codec::Protobuf] {
        let data = codec.encode(&Dual(player())).expect("is a value");
        let read: Dual<Player> = codec.decode(&data).expect("is a player");
        assert_eq!(read.0, player());

        let Raw(bytes) = codec.decode(&data).expect("are bytes");
        assert_eq!(codec.encode(&Raw(bytes)).expect("are bytes"), data);
    }
}

#[test]
fn data_that_is_no_such_value_is_an_error() {
    for garbage in [&b"{\"id\":7"[..], b"[]", b"", b"\xff\xff"] {
        assert!(is_codec_error(Codec::Json.decode::<Player>(garbage)));
    }
    assert!(is_codec_error(
        Codec::Protobuf.decode::<Pb<Player>>(b"\x08")
    ));
}

#[test]
fn what_cannot_be_encoded_leaves_nothing_behind() {
    let mut out = b"before".to_vec();
    // JSON has no keys that are lists. The first key and value have been written by then.
    let value = [(vec![1], 1)]
        .into_iter()
        .collect::<std::collections::HashMap<_, _>>();
    assert!(is_codec_error(
        Codec::Json.encode_into(&(1, value), &mut out).map(|()| 0)
    ));
    assert_eq!(out, b"before");
}

#[test]
fn an_application_can_have_a_codec_of_its_own() {
    let codec = Codec::own(Indented);
    assert_eq!(codec.name(), "indented");
    let data = codec.encode(&[1]).expect("is a list");
    assert_eq!(data, b"[\n  1\n]");
    assert_eq!(codec.decode::<Vec<u8>>(&data).expect("is a list"), [1]);
}

#[test]
fn the_names_are_those_of_due() {
    assert_eq!(Codec::default().name(), "json");
    assert_eq!(Codec::Protobuf.name(), "proto");
}

/// JSON with white space.
struct Indented;

impl BodyCodec for Indented {
    fn id(&self) -> wire::Codec {
        wire::Codec(b'i')
    }

    fn name(&self) -> &str {
        "indented"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        serde_json::to_writer_pretty(out, value)
            .map_err(|error| BodyError::encode(self.name(), error))
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
            .map_err(|error| BodyError::decode(self.name(), error))
    }
}
