//! Body codecs.

use std::collections::BTreeMap;

use epicycle::rpc::wire::{
    BodyCodec, BodyError, Codec, Codecs, DecodeBody, Dual, EncodeBody, Kind, Message, Pb, Raw,
    RegistryError, Visit, erased_serde,
};
use serde::{Deserialize, Serialize};

fn encode<T: EncodeBody + ?Sized>(codec: Codec, value: &T) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    Codecs::standard().marshal(codec, value, &mut body)?;
    Ok(body)
}

fn decode<T: DecodeBody>(codec: Codec, body: impl AsRef<[u8]>) -> Result<T, BodyError> {
    Codecs::standard().unmarshal(codec, body.as_ref())
}

fn plain<T: EncodeBody + ?Sized>(value: &T) -> String {
    let body = encode(Codec::PLAIN, value).expect("has a plain form");
    String::from_utf8(body).expect("is text")
}

#[test]
fn plain_values_are_printed_as_go_prints_them() {
    assert_eq!(plain("hello"), "hello");
    assert_eq!(plain(&String::from("中")), "中");
    assert_eq!(plain(&true), "true");
    assert_eq!(plain(&-128i8), "-128");
    assert_eq!(plain(&u64::MAX), "18446744073709551615");
    assert_eq!(plain(&i64::MIN), "-9223372036854775808");
    assert_eq!(plain(&7u8), "7");
    assert_eq!(plain(&'x'), "x");
    // strconv.FormatFloat(v, 'f', -1, 64), or 32.
    assert_eq!(plain(&1.0), "1");
    assert_eq!(plain(&0.1), "0.1");
    assert_eq!(plain(&0.1f32), "0.1");
    assert_eq!(plain(&16_777_216f32), "16777216");
    assert_eq!(plain(&1e21), "1000000000000000000000");
    assert_eq!(plain(&1e-7), "0.0000001");
    assert_eq!(plain(&-0.0), "-0");
    assert_eq!(plain(&f64::NAN), "NaN");
    assert_eq!(plain(&f64::INFINITY), "+Inf");
    assert_eq!(plain(&f32::NEG_INFINITY), "-Inf");
    // Nothing, and something that may be nothing.
    assert_eq!(plain(&()), "");
    assert_eq!(plain(&None::<i32>), "");
    assert_eq!(plain(&Some(3)), "3");
    // Bytes are themselves.
    assert_eq!(plain(&b"abc".to_vec()), "abc");
    assert_eq!(plain(b"abc"), "abc");
    assert_eq!(plain(&Raw("abc".into())), "abc");
}

#[test]
fn plain_values_are_parsed_as_go_parses_them() {
    assert_eq!(decode::<String>(Codec::PLAIN, "hello").unwrap(), "hello");
    assert_eq!(decode::<String>(Codec::PLAIN, "").unwrap(), "");
    assert_eq!(decode::<i64>(Codec::PLAIN, "-7").unwrap(), -7);
    assert_eq!(decode::<i64>(Codec::PLAIN, "+7").unwrap(), 7);
    assert_eq!(decode::<u8>(Codec::PLAIN, "255").unwrap(), 255);
    assert_eq!(decode::<f64>(Codec::PLAIN, "1e3").unwrap(), 1000.0);
    assert_eq!(
        decode::<f64>(Codec::PLAIN, "-Inf").unwrap(),
        f64::NEG_INFINITY
    );
    for (text, value) in [
        ("1", true),
        ("T", true),
        ("true", true),
        ("0", false),
        ("False", false),
    ] {
        assert_eq!(decode::<bool>(Codec::PLAIN, text).unwrap(), value);
    }
    assert_eq!(
        decode::<Vec<u8>>(Codec::PLAIN, b"\xff\0").unwrap(),
        b"\xff\0"
    );
    assert_eq!(decode::<[u8; 2]>(Codec::PLAIN, "ab").unwrap(), *b"ab");
    assert_eq!(decode::<Option<i32>>(Codec::PLAIN, "").unwrap(), None);
    assert_eq!(decode::<Option<i32>>(Codec::PLAIN, "3").unwrap(), Some(3));
    decode::<()>(Codec::PLAIN, "").unwrap();
    #[derive(Deserialize, Debug, PartialEq)]
    struct Id(u32);
    assert_eq!(decode::<Id>(Codec::PLAIN, "5").unwrap(), Id(5));
}

#[test]
fn what_has_no_plain_form_is_refused() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Pair {
        a: i32,
    }
    encode(Codec::PLAIN, &Pair { a: 1 }).unwrap_err();
    encode(Codec::PLAIN, &[1, 2]).unwrap_err();
    encode(Codec::PLAIN, &["a"]).unwrap_err();
    encode(Codec::PLAIN, &vec![vec![1u8]]).unwrap_err();
    encode(Codec::PLAIN, &BTreeMap::from([(1, 2)])).unwrap_err();
    decode::<Pair>(Codec::PLAIN, "x").unwrap_err();
    decode::<Vec<i64>>(Codec::PLAIN, "12").unwrap_err();
    decode::<BTreeMap<String, String>>(Codec::PLAIN, "x").unwrap_err();
    decode::<u8>(Codec::PLAIN, "256").unwrap_err();
    decode::<i64>(Codec::PLAIN, "").unwrap_err();
    decode::<i64>(Codec::PLAIN, "1x").unwrap_err();
    decode::<bool>(Codec::PLAIN, "yes").unwrap_err();
    decode::<()>(Codec::PLAIN, "x").unwrap_err();
    decode::<String>(Codec::PLAIN, b"\xff").unwrap_err();
    decode::<[u8; 2]>(Codec::PLAIN, "a").unwrap_err();
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
struct Form {
    a: i32,
    #[serde(default)]
    l: Vec<String>,
    s: String,
}

#[test]
fn lists_in_forms_keep_their_order() {
    let form: Form = decode(Codec::FORM, "a=5&l=p&l=q&s=x+y").unwrap();
    let expected = Form {
        a: 5,
        l: vec!["p".into(), "q".into()],
        s: "x y".into(),
    };
    assert_eq!(form, expected);
    assert_eq!(encode(Codec::FORM, &form).unwrap(), b"a=5&l=p&l=q&s=x+y");
    let map: BTreeMap<String, Vec<String>> = decode(Codec::FORM, "b=1&a=2&b=3").unwrap();
    assert_eq!(map["b"], ["1", "3"]);
    decode::<Form>(Codec::FORM, "a=x&s=y").unwrap_err();
    assert_eq!(
        decode::<BTreeMap<String, String>>(Codec::FORM, "")
            .unwrap()
            .len(),
        0
    );
    encode(Codec::FORM, &3).unwrap_err();
}

#[test]
fn an_empty_body_reads_as_null() {
    for codec in [
        Codec::JSON,
        Codec::PROTOBUF,
        Codec::PLAIN,
        Codec::FORM,
        Codec::NONE,
        Codec(b'z'),
    ] {
        decode::<()>(codec, "").unwrap_or_else(|error| panic!("{codec:?}: {error}"));
        assert_eq!(decode::<Option<i64>>(codec, "").unwrap(), None);
        decode::<i64>(codec, "").unwrap_err();
    }
    assert_eq!(
        decode::<serde_json::Value>(Codec::JSON, "").unwrap(),
        serde_json::Value::Null
    );
    decode::<String>(Codec::JSON, "").unwrap_err();
}

#[test]
fn a_body_in_an_unknown_codec_or_in_none_is_refused_with_teleports_words() {
    let error = decode::<String>(Codec(122), "x").unwrap_err();
    assert_eq!(error.to_string(), "unsupported codec id: 122");
    let error = decode::<String>(Codec::NONE, "x").unwrap_err();
    assert_eq!(error.to_string(), "unsupported codec id: 0");
    let error = encode(Codec(122), "x").unwrap_err();
    assert!(matches!(error, BodyError::UnsupportedCodec { id: 122 }));
    // Bytes bypass the codec.
    assert_eq!(decode::<Raw>(Codec(122), "x").unwrap().0, "x");
    assert_eq!(encode(Codec(122), &Raw("x".into())).unwrap(), b"x");
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct Both {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    number: i32,
}

#[test]
fn protobuf_is_for_prosts_messages_and_for_nothing() {
    let both = Both {
        name: "OK".into(),
        number: 1,
    };
    let body = encode(Codec::PROTOBUF, &Pb(both.clone())).unwrap();
    assert_eq!(body, b"\x0a\x02OK\x10\x01");
    assert_eq!(
        decode::<Pb<Both>>(Codec::PROTOBUF, &body).unwrap(),
        Pb(both.clone())
    );
    assert_eq!(
        decode::<Pb<Both>>(Codec::PROTOBUF, "").unwrap(),
        Pb(Both::default())
    );
    decode::<Pb<Both>>(Codec::PROTOBUF, b"\x0a\x05OK").unwrap_err();
    encode(Codec::JSON, &Pb(both.clone())).unwrap_err();
    decode::<Pb<Both>>(Codec::JSON, "{}").unwrap_err();

    assert_eq!(encode(Codec::PROTOBUF, &()).unwrap(), b"");
    decode::<()>(Codec::PROTOBUF, &body).unwrap();
    encode(Codec::PROTOBUF, &both).unwrap_err();
    decode::<Both>(Codec::PROTOBUF, &body).unwrap_err();
}

#[test]
fn a_type_of_both_kinds_goes_by_every_codec() {
    let both = Both {
        name: "OK".into(),
        number: 1,
    };
    for (codec, body) in [
        (Codec::PROTOBUF, &b"\x0a\x02OK\x10\x01"[..]),
        (Codec::JSON, br#"{"name":"OK","number":1}"#),
        (Codec::FORM, b"name=OK&number=1"),
    ] {
        assert_eq!(encode(codec, &Dual(both.clone())).unwrap(), body);
        assert_eq!(decode::<Dual<Both>>(codec, body).unwrap().0, both);
    }
}

/// A codec that is told from JSON by a byte in front.
struct Marked;

impl BodyCodec for Marked {
    fn id(&self) -> Codec {
        Codec(b'!')
    }

    fn name(&self) -> &str {
        "marked"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        out.push(b'!');
        serde_json::to_writer(out, value).map_err(|error| BodyError::encode("marked", error))
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        let json = body
            .strip_prefix(b"!")
            .ok_or_else(|| BodyError::decode("marked", "no mark"))?;
        let mut json = serde_json::Deserializer::from_slice(json);
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
            .map_err(|error| BodyError::decode("marked", error))
    }
}

#[test]
fn a_codec_of_ones_own_is_found_by_id_and_by_name() {
    let mut codecs = Codecs::standard();
    codecs.register(Marked).expect("is new");
    let codec = codecs.by_name("marked").expect("is known");
    assert!(codecs.knows(codec) && !Codecs::standard().knows(codec));
    assert_eq!(codecs.by_name("form"), Some(Codec::FORM));
    assert_eq!(codecs.by_name("none"), None);
    let mut message = Message::new(Kind::Push);
    message
        .marshal(&codecs, codec, &[1, 2][..])
        .expect("has such a value");
    assert_eq!(message.body, &b"![1,2]"[..]);
    assert_eq!(message.unmarshal::<Vec<i32>>(&codecs).unwrap(), [1, 2]);
    assert_eq!(codecs.unmarshal::<Option<i32>>(codec, b"").unwrap(), None);
    let error = codecs.unmarshal::<i32>(codec, b"1").unwrap_err();
    assert_eq!(error.to_string(), "marked: no mark");
    let error = codecs.register(Marked).unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateId { id: b'!', .. }));
}

#[test]
fn codecs_that_cannot_be_told_apart_are_refused() {
    struct Named(u8, &'static str);
    impl BodyCodec for Named {
        fn id(&self) -> Codec {
            Codec(self.0)
        }
        fn name(&self) -> &str {
            self.1
        }
        fn encode(
            &self,
            _: &dyn erased_serde::Serialize,
            _: &mut Vec<u8>,
        ) -> Result<(), BodyError> {
            Ok(())
        }
        fn decode(&self, _: &[u8], _: Visit<'_>) -> Result<(), BodyError> {
            Ok(())
        }
    }
    let mut codecs = Codecs::standard();
    let error = codecs.register(Named(b'j', "mine")).unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateId { id: b'j', .. }));
    let error = codecs.register(Named(b'x', "json")).unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateName { .. }));
    let error = codecs.register(Named(0, "mine")).unwrap_err();
    assert!(matches!(error, RegistryError::ReservedId { .. }));
    // One that decodes nothing is an error of its body, and no panic.
    codecs.register(Named(b'x', "mine")).expect("is new");
    codecs.unmarshal::<i32>(Codec(b'x'), b"1").unwrap_err();
}

#[test]
fn a_body_that_cannot_be_encoded_leaves_the_message_without_one() {
    let codecs = Codecs::standard();
    let mut message = Message::call("/x");
    message
        .marshal(&codecs, Codec::JSON, "old")
        .expect("is JSON");
    message.marshal(&codecs, Codec::PLAIN, &[1, 2]).unwrap_err();
    assert!(message.body.is_empty());
    assert_eq!(message.codec, Codec::JSON);
}

#[test]
fn the_codec_of_a_reply_is_chosen_accepted_the_calls_or_the_default() {
    let codecs = Codecs::standard();
    let mut call = Message::call("/x");
    let of = |call: &Message<'_>, chosen| codecs.for_reply(call, chosen, Codec::JSON);
    assert_eq!(of(&call, None), Codec::JSON);
    call.codec = Codec::FORM;
    assert_eq!(of(&call, None), Codec::FORM);
    for (accepted, expected) in [
        ("115", Codec::PLAIN),
        ("122", Codec::FORM),
        ("abc", Codec::FORM),
        ("0", Codec::FORM),
    ] {
        call.meta.set("X-Accept-Body-Codec", accepted);
        assert_eq!(of(&call, None), expected, "{accepted}");
        assert_eq!(of(&call, Some(Codec::PROTOBUF)), Codec::PROTOBUF);
    }
}
