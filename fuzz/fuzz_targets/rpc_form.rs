//! Bodies as forms and as plain text: a decoded value is encoded to bytes that decode to the same value.
#![no_main]

use std::collections::BTreeMap;
use std::fmt::Debug;

use epicycle::rpc::wire::{Body, Codec, Codecs};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Form {
    a: i32,
    b: Option<bool>,
    #[serde(default)]
    list: Vec<String>,
}

fuzz_target!(|data: &[u8]| {
    check::<Form>(Codec::FORM, data);
    check::<BTreeMap<String, Vec<String>>>(Codec::FORM, data);
    check::<Vec<(String, String)>>(Codec::FORM, data);
    check::<String>(Codec::PLAIN, data);
    check::<Vec<u8>>(Codec::PLAIN, data);
    check::<bool>(Codec::PLAIN, data);
    check::<i8>(Codec::PLAIN, data);
    check::<u64>(Codec::PLAIN, data);
    check::<Option<f32>>(Codec::PLAIN, data);
    check::<f64>(Codec::PLAIN, data);
});

fn check<T: Body + Debug>(codec: Codec, body: &[u8]) {
    let codecs = Codecs::standard();
    let Ok(value) = codecs.unmarshal::<T>(codec, body) else {
        return;
    };
    let mut written = Vec::new();
    codecs
        .marshal(codec, &value, &mut written)
        .expect("has a form");
    let again = codecs
        .unmarshal::<T>(codec, &written)
        .expect("is read again");
    // Compared as text, because NaN does not equal itself.
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}
