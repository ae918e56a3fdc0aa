//! Metadata, URIs, statuses, and the paths made from names.

use epicycle::rpc::wire::{Dialect, Kind, Message, Meta, Status, Uri, code, uri_path};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

#[test]
fn names_become_the_paths_that_teleport_documents() {
    let documented = [
        ("AaBb", "/aa_bb"),
        ("Aa_Bb", "/aa/bb"),
        ("aa_bb", "/aa/bb"),
        ("Aa__Bb", "/aa_bb"),
        ("aa__bb", "/aa_bb"),
        ("ABC_XYZ", "/abc/xyz"),
        ("ABcXYz", "/abc_xyz"),
        ("ABC__XYZ", "/abc_xyz"),
        ("Add__2", "/add_2"),
        // Beyond the table.
        ("Math", "/math"),
        ("math/Add", "/math/add"),
        ("/math/add", "/math/add"),
        ("Add2Numbers", "/add2_numbers"),
        ("_Aa", "/aa"),
        ("", "/"),
    ];
    for (name, path) in documented {
        assert_eq!(uri_path(name), path, "{name}");
    }
}

#[test]
fn a_uri_is_routed_by_its_decoded_path() {
    let paths = [
        ("/a/b?c=d", Some("/a/b")),
        ("/%61", Some("/a")),
        ("/a+b", Some("/a+b")),
        ("/ä", Some("/ä")),
        ("/%C3%A4", Some("/ä")),
        ("/a:b", Some("/a:b")),
        ("tp://host:1/a?b", Some("/a")),
        ("tp:/a", Some("/a")),
        ("/a#b?c", Some("/a")),
        ("tp://host", None),
        ("tp:a", None),
        (":a", None),
        ("1:a", None),
        ("//host", None),
        ("?a", None),
        ("#a", None),
        ("", None),
        ("/a%", None),
        ("/a%4", None),
        ("/a%4g", None),
        ("/%ff", None),
        ("/a\nb", None),
    ];
    for (uri, path) in paths {
        let parsed = Uri::parse(uri).ok();
        assert_eq!(parsed.as_ref().map(Uri::path), path, "{uri}");
    }
    assert!(Uri::parse(b"/\xff").is_err());
}

#[test]
fn a_query_is_read_by_key_as_a_whole_and_as_a_type() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Query {
        author: String,
        id: Vec<u32>,
    }
    let uri = Uri::parse("/x?id=1&author=a+%62&id=2#id=3").unwrap();
    assert_eq!(uri.query(), b"id=1&author=a+%62&id=2");
    assert_eq!(uri.args().get_str("author").unwrap(), "a b");
    assert_eq!(uri.args().get_all("id").count(), 2);
    let author = "a b".to_owned();
    assert_eq!(
        uri.args_as::<Query>().unwrap(),
        Query {
            author,
            id: vec![1, 2]
        }
    );
    let reason = |dialect| Uri::parse("").unwrap_err().text(dialect);
    assert_eq!(reason(Dialect::V4_1), "invalid URI for message");
    assert_eq!(reason(Dialect::V4_0), "invalid URI for packet");
}

#[test]
fn metadata_keeps_its_order_and_its_repeated_keys() {
    let mut meta = Meta::default();
    assert!(meta.is_empty());
    for (key, value) in [
        ("a", "1"),
        ("b", "ü"),
        ("a", "2"),
        ("", "x"),
        ("c", ""),
        ("", ""),
    ] {
        meta.add(key, value);
    }
    assert_eq!(meta.encoded(), b"a=1&b=%C3%BC&a=2&=x&c");
    let values: Vec<_> = meta.get_all("a").collect();
    assert_eq!(values, [&b"1"[..], b"2"]);
    meta.set("a", "3");
    meta.set("d", "4");
    assert_eq!(meta.encoded(), b"a=3&b=%C3%BC&=x&c&d=4");
    assert!(meta.remove("b"));
    assert!(!meta.remove("b"));
    assert_eq!(meta.get_str("b"), None);
    assert_eq!(meta.get_str("c").unwrap(), "");
    let mut copy = Meta::from_encoded(b"z=%ff");
    assert_eq!(copy.get_str("z"), None);
    assert_eq!(copy.get("z").unwrap(), &b"\xff"[..]);
    copy.add_all(&meta);
    assert_eq!(copy.encoded(), b"z=%ff&a=3&=x&c&d=4");
    assert_eq!(copy, Meta::from_encoded(b"z=%FF&a=3&=%78&c=&&d=4"));
    // What is not plain in a key is found by what it stands for.
    assert_eq!(Meta::from_encoded(b"a%62=1").get_str("ab").unwrap(), "1");
}

#[test]
fn a_reply_tells_its_status_and_a_call_has_none() {
    let mut reply = Message::new(Kind::Reply);
    assert_eq!(reply.status(), None);
    reply.meta.add("K", "v");
    let status = Status::new(1234, "custom").with_reason("a \"b\" <&> 中文");
    reply.set_status(&status, usize::MAX);
    reply.set_status(&status, usize::MAX);
    let expected = "K=v&X-Reply-Error=%7B%22code%22%3A1234%2C%22message%22%3A%22custom%22%2C%22reason%22%3A%22a%20\
        %5C%22b%5C%22%20%3C%26%3E%20%E4%B8%AD%E6%96%87%22%7D";
    assert_eq!(String::from_utf8_lossy(reply.meta.encoded()), expected);
    assert_eq!(reply.status(), Some(status));
    reply.kind = Kind::Call;
    assert_eq!(reply.status(), None);
}

#[test]
fn a_status_that_is_no_json_is_a_failure_all_the_same() {
    let meta = Meta::from_encoded(b"X-Reply-Error=oops");
    let status = Status::read(&meta).expect("is a failure");
    assert_eq!(
        (status.code, &*status.reason),
        (code::UNKNOWN_ERROR, "oops")
    );
    let meta = Meta::from_encoded(b"X-Reply-Error=%7B%22code%22%3A7%2C%22more%22%3A1%7D");
    assert_eq!(Status::read(&meta), Some(Status::new(7, "")));
    assert_eq!(Status::read(&Meta::from_encoded(b"X-Reply-Error=")), None);
}

proptest! {
    #[test]
    fn any_metadata_is_read_as_it_was_written(pairs in vec((bytes(), bytes()), 0..8)) {
        let mut meta = Meta::default();
        for (key, value) in &pairs {
            meta.add(key, value);
        }
        let kept = pairs.iter().filter(|(key, value)| !key.is_empty() || !value.is_empty());
        let read: Vec<_> = meta.iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        prop_assert!(read.iter().eq(kept));
        for (key, _) in &read {
            let first = read.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..]);
            let got = meta.get(key);
            prop_assert_eq!(got.as_deref(), first);
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"*._-%=&".contains(byte);
        prop_assert!(meta.encoded().iter().all(plain));
    }

    #[test]
    fn any_bytes_are_metadata_and_stay_the_same_once_normalised(encoded in bytes()) {
        let mut once = Meta::default();
        once.add_all(&Meta::from_encoded(&encoded));
        let mut twice = Meta::default();
        twice.add_all(&once);
        prop_assert_eq!(once.encoded(), twice.encoded());
        prop_assert_eq!(Meta::from_encoded(&encoded), once);
    }

    #[test]
    fn a_status_is_shortened_no_further_than_it_has_to_be(
        message in text(), reason in text(), code: i32, key in "[a-z]{0,9}", max in 40usize..400,
    ) {
        let status = Status::new(code, message).with_reason(reason);
        let mut whole = Meta::default();
        whole.add(&key, &key);
        let before = whole.encoded().len();
        status.write(&mut whole, usize::MAX);
        prop_assert_eq!(Status::read(&whole), Some(status.clone()));

        let mut short = Meta::default();
        short.add(&key, &key);
        status.write(&mut short, max);
        let read = Status::read(&short).expect("is there");
        prop_assert_eq!(read.code, code);
        if whole.encoded().len() <= max {
            // A few bytes are counted for keys that may not be there.
            let is_close = whole.encoded().len() + 60 > max;
            prop_assert!(read == status || is_close, "{read:?}");
        } else {
            prop_assert!(short.encoded().len() <= max.max(before + 120), "{} > {max}", short.encoded().len());
            prop_assert!(read != status);
        }
        for (read, all) in [(&read.message, &status.message), (&read.reason, &status.reason)] {
            let kept = read.strip_suffix('…').unwrap_or(read);
            prop_assert!(all.starts_with(kept));
        }
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(b"%&=+ aZ0*._-\xff\0".to_vec());
    vec(prop_oneof![odd, any::<u8>()], 0..12)
}

fn text() -> impl Strategy<Value = String> {
    "[a-z\"\\\\\n\u{1}é中\u{7f}&]{0,80}"
}
