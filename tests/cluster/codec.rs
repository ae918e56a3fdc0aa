//! The codecs of the data in packets.

use std::fmt::Debug;

use epicycle::cluster::Error;
use epicycle::cluster::codec::{BodyCodec, BodyError, Codec, Dual, Pb, Raw, Visit};
use epicycle::rpc::wire::{self, erased_serde};
use serde::{Deserialize, Serialize};

use crate::vectors::{hex, rows};

/// The value of the recordings.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(rename = "P")]
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

/// Returns the codecs for types of serde that the program was built with.
fn text_codecs() -> Vec<Codec> {
    let known = [
        ("json", true),
        ("msgpack", cfg!(feature = "codec-msgpack")),
        ("toml", cfg!(feature = "codec-toml")),
        ("xml", cfg!(feature = "codec-xml")),
        ("yaml", cfg!(feature = "codec-yaml")),
    ];
    let mut codecs = Vec::new();
    for (name, is_there) in known {
        match name.parse::<Codec>() {
            Ok(codec) => {
                assert!(is_there, "{name}");
                assert_eq!(codec.name(), name);
                codecs.push(codec);
            }
            Err(error) => {
                assert!(!is_there, "{error}");
                let remedy = format!("the feature codec-{name}; build with it");
                assert!(error.to_string().contains(&remedy), "{error}");
            }
        }
    }
    codecs
}

#[test]
fn every_codec_has_the_bytes_that_due_writes() {
    for codec in text_codecs() {
        let of_codec = format!("{} ", codec.name());
        let rows: Vec<_> = rows("codec")
            .into_iter()
            .filter(|row| row.scenario.starts_with(&of_codec))
            .collect();
        assert!(!rows.is_empty(), "{codec:?}");
        for row in rows {
            let data = codec.encode(&player()).expect("is a player");
            assert_eq!(hex(&data), row.data, "{}", String::from_utf8_lossy(&data));
            let read: Player = codec.decode(&row.bytes()).expect("is a player");
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
fn no_codec_takes_what_is_cut_or_garbage() {
    for codec in text_codecs() {
        let data = codec.encode(&player()).expect("is a player");
        assert!(is_codec_error(codec.decode::<Player>(b"\xff\xfe\xc1")));
        // Not at the end, where the text formats have a line feed that may be missing.
        for cut in 1..data.len() - 2 {
            let read = codec.decode::<Player>(&data[..cut]);
            assert_ne!(read.ok(), Some(player()), "{codec:?}, {cut} bytes");
        }
    }
}

#[test]
fn a_second_value_after_the_first_is_an_error() {
    for codec in text_codecs().iter().filter(|codec| codec.name() != "xml") {
        let mut data = codec.encode(&player()).expect("is a player");
        data.extend_from_within(..);
        assert!(is_codec_error(codec.decode::<Player>(&data)), "{codec:?}");
    }
}

#[test]
fn what_is_deep_or_multiplies_is_refused() {
    /// A tree that is as deep as its sender likes.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Tree {
        t: Vec<Tree>,
    }
    const DEPTH: usize = 20_000;
    let around = |before: &str, after: &str| before.repeat(DEPTH) + &after.repeat(DEPTH);
    for codec in text_codecs() {
        let data = match codec.name() {
            "json" => around("{\"t\":[", "]}").into_bytes(),
            "msgpack" => b"\x81\xa1t\x91".repeat(DEPTH),
            "toml" => (around("{t=[", "]}")).replacen("{t=", "t=", 1).into_bytes(),
            "xml" => around("<t>", "</t>").into_bytes(),
            "yaml" => around("{t: [", "]}").into_bytes(),
            other => panic!("{other}"),
        };
        assert!(
            is_codec_error(codec.decode::<Tree>(&data).map(|_| 0)),
            "{codec:?}"
        );
    }
    // Other ways to be deep, into a value that takes all of them.
    for codec in text_codecs() {
        let data = match codec.name() {
            "json" => around("[", "]"),
            "toml" => format!("{}t=1", "t.".repeat(DEPTH)),
            "xml" => around("<t><u/>", "</t>"),
            "yaml" => (0..DEPTH / 10).map(|n| " ".repeat(n) + "t:\n").collect(),
            _ => continue,
        };
        let read = codec.decode::<serde_json::Value>(data.as_bytes());
        assert!(is_codec_error(read.map(|_| 0)), "{codec:?}");
        if codec.name() == "toml" {
            let table = format!("[{}t]\nn=1", "t.".repeat(DEPTH));
            let read = codec.decode::<serde_json::Value>(table.as_bytes());
            assert!(is_codec_error(read.map(|_| 0)));
        }
    }
    if let Ok(yaml) = "yaml".parse::<Codec>() {
        let mut bomb = "t0: &t0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let list = vec![format!("*t{}", n - 1); 8].join(", ");
            bomb += &format!("t{n}: &t{n} [{list}]\n");
        }
        let read = yaml.decode::<serde_json::Value>(bomb.as_bytes());
        assert!(is_codec_error(read));
    }
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
