//! The configuration of an application, from each of its sources.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::{Consul, Etcd, Nacos};
use epicycle::cluster::center::{
    Center, Configuration, ConsulSource, EtcdSource, FileSource, Mode, NacosSource, Source,
};
use log::Level;
use serde_json::{Value, json};

use crate::etcd_server;
use crate::standin::{Reply, Standin};
use crate::util::client::TempPath;
use crate::util::logs::logs;
use crate::util::{LONG, eventually, expect_panics};

fn folder() -> TempPath {
    let folder = TempPath::new();
    fs::create_dir(&folder.0).expect("is new");
    folder
}

fn start(source: impl Source) -> Center {
    Center::start(vec![Box::new(source)]).expect("is read")
}

/// The folder is removed with all that is in it.
struct Emptied<'f>(&'f Path);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

#[test]
fn values_are_found_by_their_paths_and_converted() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    let text =
        r#"{"a": {"b": [1, "2", {"c": true}]}, "t": "10s", "n": 1500, "f": 1.5, "none": null}"#;
    fs::write(folder.0.join("game.json"), text).expect("writes");
    fs::create_dir(folder.0.join("more")).expect("is made");
    fs::write(folder.0.join("more/v1.2.json"), r#"{"x": "dots"}"#).expect("writes");
    fs::write(folder.0.join(".hidden.json"), "1").expect("writes");
    let center = start(FileSource::new(&folder.0));
    assert_eq!(center.integer("game.a.b.0", 7), 1);
    assert_eq!(center.integer("game.a.b.1", 7), 2);
    assert_eq!(center.text("game.a.b.0", "none"), "1");
    assert!(center.boolean("game.a.b.2.c", false));
    assert_eq!(
        center.duration("game.t", Duration::ZERO),
        Duration::from_secs(10)
    );
    assert_eq!(
        center.duration("game.n", Duration::ZERO),
        Duration::from_nanos(1500)
    );
    assert!((center.float("game.f", 0.0) - 1.5).abs() < f64::EPSILON);
    assert_eq!(center.text("v1.2.x", "none"), "dots");
    assert_eq!(
        center
            .scan::<BTreeMap<String, Value>>("game")
            .expect("is one")
            .len(),
        5
    );
    for nothing in [
        "game.a.b.3",
        "game.a.b.x",
        "game.t.x",
        "other",
        "",
        ".",
        "game.",
    ] {
        assert!(!center.has(nothing), "{nothing}");
        assert_eq!(center.integer(nothing, 7), 7);
    }
    assert!(center.has("game.none") && !center.has(".hidden"));
    let error = center.scan::<Vec<u8>>("game.t").expect_err("is text");
    assert!(matches!(error, Error::Codec(_)), "{error}");
    let error = center.scan::<u8>("game.x").expect_err("is nothing");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn values_are_set_and_deleted_in_memory_until_their_file_changes() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    let file = folder.0.join("game.json");
    fs::write(&file, r#"{"a": [1, 2], "b": 3}"#).expect("writes");
    let center = start(FileSource::new(&folder.0));
    center.set("game.a.1", 9).expect("sets");
    center.set("game.a.2", "new").expect("sets");
    center.set("own.deep.key", true).expect("sets");
    center.delete("game.b");
    center.delete("game.a.0");
    center.delete("nowhere.x");
    assert_eq!(center.get("game"), Some(json!({"a": [9, "new"]})));
    assert!(center.boolean("own.deep.key", false));
    for wrong in ["", "game.a.7", "game.a.x", "own.deep.key.more"] {
        let error = center.set(wrong, 1).expect_err("is wrong");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    fs::write(&file, r#"{"b": 4}"#).expect("writes");
    eventually("the file is read again", || {
        center.get("game") == Some(json!({"b": 4}))
    });
}

#[test]
fn files_are_read_again_however_they_are_changed() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    let file = folder.0.join("game.json");
    let is = |center: &Center, value: i64| center.integer("game.n", -1) == value;
    fs::write(&file, r#"{"n": 1}"#).expect("writes");
    let center = start(FileSource::new(&folder.0));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let own = seen.clone();
    let watching = center.watch(
        &["game"],
        Box::new(move |name| own.lock().expect("is whole").push(name.to_owned())),
    );
    let watching = watching.expect("watches");
    assert!(is(&center, 1));

    fs::write(&file, r#"{"n": 2}"#).expect("writes");
    eventually("written in place", || is(&center, 2));
    let beside = folder.0.join("beside");
    fs::write(&beside, r#"{"n": 3}"#).expect("writes");
    fs::rename(&beside, &file).expect("renames");
    eventually("renamed over", || is(&center, 3));
    fs::remove_file(&file).expect("removes");
    eventually("deleted", || !center.has("game"));
    fs::write(&file, r#"{"n": 4}"#).expect("writes");
    eventually("made anew", || is(&center, 4));
    fs::write(&file, "{\"n\": ").expect("writes");
    fs::write(folder.0.join("other.json"), "5").expect("writes");
    eventually("another one is read", || center.integer("other", 0) == 5);
    // A file that does not parse leaves the last values.
    assert!(is(&center, 4));
    assert!(
        seen.lock()
            .expect("is whole")
            .iter()
            .all(|name| name == "game")
    );
    assert!(seen.lock().expect("is whole").len() >= 4);

    drop(watching);
    let before = seen.lock().expect("is whole").len();
    fs::write(&file, r#"{"n": 6}"#).expect("writes");
    eventually("written in place", || is(&center, 6));
    assert_eq!(seen.lock().expect("is whole").len(), before);
}

#[test]
fn a_config_map_is_read_again_when_its_link_is_changed() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    for (version, text) in [("..1", r#"{"n": 1}"#), ("..2", r#"{"n": 2}"#)] {
        fs::create_dir(folder.0.join(version)).expect("is made");
        fs::write(folder.0.join(version).join("game.json"), text).expect("writes");
    }
    symlink("..1", folder.0.join("..data")).expect("links");
    symlink("..data/game.json", folder.0.join("game.json")).expect("links");
    let center = start(FileSource::new(&folder.0));
    assert_eq!(center.integer("game.n", 0), 1);
    symlink("..2", folder.0.join("..new")).expect("links");
    fs::rename(folder.0.join("..new"), folder.0.join("..data")).expect("renames");
    eventually("the link is followed", || center.integer("game.n", 0) == 2);
    // A link to a folder that it is in leads nowhere.
    symlink(".", folder.0.join("loop")).expect("links");
    fs::write(folder.0.join("last.json"), "1").expect("writes");
    eventually("the next one is read", || center.has("last"));
}

#[test]
fn later_sources_have_precedence_and_watches_that_panic_harm_nobody() {
    expect_panics();
    let (one, other) = (folder(), folder());
    let (_first, _second) = (Emptied(&one.0), Emptied(&other.0));
    fs::write(
        one.0.join("game.json"),
        r#"{"a": 1, "t": {"x": 1, "y": 1}}"#,
    )
    .expect("writes");
    fs::write(other.0.join("game.json"), r#"{"t": {"y": 2}}"#).expect("writes");
    let center = Center::start(vec![
        Box::new(FileSource::new(&one.0)),
        Box::new(FileSource::new(&other.0)),
    ])
    .expect("is read");
    assert_eq!(
        center.get("game"),
        Some(json!({"a": 1, "t": {"x": 1, "y": 2}}))
    );
    let _watching = center.watch(&[], Box::new(|_| panic!("of the application")));
    fs::remove_file(other.0.join("game.json")).expect("removes");
    eventually("the first one shows again", || {
        center.integer("game.t.y", 0) == 1
    });
    fs::write(one.0.join("game.json"), "{}").expect("writes");
    eventually("it is still read", || !center.has("game.a"));
}

#[test]
fn a_file_that_is_empty_while_it_is_written_keeps_its_values() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    let logs = logs();
    let file = folder.0.join("emptied.json");
    fs::write(&file, r#"{"n": 1}"#).expect("writes");
    let center = start(FileSource::new(&folder.0).mode(Mode::ReadWrite));
    fs::write(&file, "").expect("writes");
    eventually("it is read", || {
        logs.have(Level::Warn, &["emptied.json", "it is empty"])
    });
    assert_eq!(center.integer("emptied.n", 0), 1);
    let error = center.store("file", "emptied.json", b"");
    assert!(matches!(error, Err(Error::InvalidArgument { .. })));
    fs::write(&file, r#"{"n": 2}"#).expect("writes");
    eventually("it is read again", || center.integer("emptied.n", 0) == 2);
}

#[test]
fn a_handler_can_set_values_and_end_the_center() {
    let (one, other) = (folder(), folder());
    let (_first, _second) = (Emptied(&one.0), Emptied(&other.0));
    for folder in [&one, &other] {
        fs::write(folder.0.join("game.json"), r#"{"n": 1}"#).expect("writes");
    }
    let center = Center::start(vec![
        Box::new(FileSource::new(&one.0)),
        Box::new(FileSource::new(&other.0)),
    ]);
    let center = Arc::new(Mutex::new(Some(center.expect("is read"))));
    let (sender, heard) = mpsc::channel();
    let own = center.clone();
    let handler = move |name: &str| {
        let mut center = own.lock().expect("is whole");
        if let Some(known) = &*center {
            known
                .set("derived.n", known.integer("game.n", 0))
                .expect("is a path");
            if known.integer("game.n", 0) == 3 {
                *center = None;
            }
        }
        let _ = sender.send(name.to_owned());
    };
    let watching = {
        let center = center.lock().expect("is whole");
        let center = center.as_ref().expect("is there");
        center.watch(&[], Box::new(handler)).expect("has room")
    };
    let next = || heard.recv_timeout(LONG).expect("the handler goes on");
    fs::write(other.0.join("game.json"), r#"{"n": 2}"#).expect("writes");
    assert_eq!([next(), next()], ["game", "derived"]);
    // A value that does not change is not told.
    assert!(heard.recv_timeout(Duration::from_millis(200)).is_err());
    fs::write(other.0.join("game.json"), r#"{"n": 3}"#).expect("writes");
    assert_eq!(next(), "game");
    assert!(center.lock().expect("is whole").is_none());
    drop(watching);
}

#[test]
fn files_are_stored_where_that_is_allowed() {
    let folder = folder();
    let _emptied = Emptied(&folder.0);
    let center = start(FileSource::new(&folder.0));
    let error = center
        .store("file", "game.json", b"1")
        .expect_err("is for reading");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("file is only for reading") && text.contains("Mode::ReadWrite"),
        "{text}"
    );
    let error = center
        .store("etcd", "game.json", b"1")
        .expect_err("is not there");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");

    let center = start(FileSource::new(&folder.0).mode(Mode::ReadWrite));
    center
        .store("file", "/b/game.json", b"7")
        .expect("is stored");
    eventually("it is read", || center.integer("game", 0) == 7);
    assert_eq!(
        fs::read(folder.0.join("b/game.json")).expect("is there"),
        b"7"
    );
    for wrong in ["", "../game.json", "a//b", "a/./b", "a\nb"] {
        let error = center.store("file", wrong, b"1").expect_err("is no path");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    let error = center.store("file", "b/game.json", br#"{"n": }"#);
    let error = error.expect_err("does not parse");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert!(error.to_string().contains("b/game.json"), "{error}");
    assert_eq!(
        fs::read(folder.0.join("b/game.json")).expect("is as it was"),
        b"7"
    );
    center
        .store("file", "notes.txt", b"{")
        .expect("has a format of its own");
    let only_written = FileSource::new(&folder.0).mode(Mode::WriteOnly);
    let error = only_written.load().expect_err("is for writing");
    assert!(error.to_string().contains("only for writing"), "{error}");
    let center = start(only_written);
    assert!(!center.has("game"));
    center.store("file", "more.json", b"8").expect("is stored");
}

/// Stores, reads and follows files at a backend. `put` puts one as others do, `get` reads one.
fn files_are_those_of_due(
    source: impl Source + Clone,
    put: impl Fn(&str, &str),
    get: impl Fn(&str) -> String,
) {
    let name = source.name().to_owned();
    put("game.json", r#"{"n": 1}"#);
    put("b/more.json", r#"{"n": "1"}"#);
    let mut loaded = source.load().expect("answers");
    loaded.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0], Configuration::new("game.json", r#"{"n": 1}"#));
    assert_eq!(
        (&*loaded[1].path, &*loaded[1].file),
        ("b/more.json", "more.json")
    );

    let center = start(source);
    assert_eq!(
        (center.integer("game.n", 0), center.integer("more.n", 0)),
        (1, 1)
    );
    put("game.json", r#"{"n": 2}"#);
    eventually("the change is known", || center.integer("game.n", 0) == 2);
    let error = center.store(&name, "game.json", b"{").expect_err("is none");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(get("game.json"), r#"{"n": 2}"#);
    center
        .store(&name, "game.json", br#"{"n": 3}"#)
        .expect("is stored");
    assert_eq!(get("game.json"), r#"{"n": 3}"#);
    eventually("the change is known", || center.integer("game.n", 0) == 3);
}

#[test]
fn etcd_holds_files_under_the_keys_of_due() {
    let Some(mut server) = etcd_server::Server::start() else {
        return;
    };
    let etcd: Etcd = server.open();
    let source = EtcdSource::new(&etcd).mode(Mode::ReadWrite);
    files_are_those_of_due(
        source.clone(),
        |file, text| drop(server.ctl(&["put", &format!("/config/{file}"), text])),
        |file| {
            let key = format!("/config/{file}");
            server
                .ctl(&["get", &key, "--print-value-only"])
                .trim()
                .to_owned()
        },
    );
    let center = start(source);
    server.kill();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(center.integer("game.n", 0), 3);
    server.restart();
    eventually("it is written again", || {
        center.store("etcd", "game.json", br#"{"n": 4}"#).is_ok()
    });
    eventually("the watch goes on", || center.integer("game.n", 0) == 4);
}

type Files = Arc<Mutex<(u64, BTreeMap<String, String>)>>;

#[test]
fn consul_holds_files_under_the_keys_of_due() {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    let files = Files::default();
    let own = files.clone();
    let mut server = Standin::start(move |request| {
        let key = request.path.strip_prefix("/v1/kv/").expect("is a key");
        if request.method == "PUT" {
            let text = String::from_utf8(request.body.clone()).expect("is text");
            let mut files = own.lock().expect("is whole");
            files.0 += 1;
            files.1.insert(key.to_owned(), text);
            return Reply::new(200, "true");
        }
        assert_eq!(key, "config/");
        let index: u64 = request.params["index"].parse().expect("is a number");
        for _ in 0..100 {
            if own.lock().expect("is whole").0 != index {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let files = own.lock().expect("is whole");
        let pairs: Vec<_> = (files.1.iter())
            .map(|(key, text)| json!({"Key": key, "Value": BASE64_STANDARD.encode(text)}))
            .chain([json!({"Key": "config/b/", "Value": null})])
            .collect();
        let mut reply = Reply::new(200, Value::from(pairs).to_string());
        reply.headers = vec![("X-Consul-Index", files.0.max(1).to_string())];
        reply
    });
    let consul = Consul::open(&server.url()).expect("is a URL");
    let put = |file: &str, text: &str| {
        let mut files = files.lock().expect("is whole");
        files.0 += 1;
        files.1.insert(format!("config/{file}"), text.to_owned());
    };
    let source = ConsulSource::new(&consul).mode(Mode::ReadWrite);
    files_are_those_of_due(source.clone(), put, |file| {
        files.lock().expect("is whole").1[&format!("config/{file}")].clone()
    });
    let center = start(source);
    server.kill();
    put("game.json", r#"{"n": 5}"#);
    server.restart();
    eventually("the watch goes on", || center.integer("game.n", 0) == 5);
}

#[test]
fn nacos_holds_files_by_their_data_ids() {
    let files = Arc::new(Mutex::new(BTreeMap::<String, String>::new()));
    let own = files.clone();
    let server = Standin::start(move |request| {
        assert_eq!(request.path, "/nacos/v1/cs/configs");
        assert_eq!(request.params["group"], "DEFAULT_GROUP");
        let mut files = own.lock().expect("is whole");
        if request.method == "POST" {
            let (id, text) = (&request.params["dataId"], &request.params["content"]);
            files.insert(id.clone(), text.clone());
            return Reply::new(200, "true");
        }
        // One on each page.
        let number: usize = request.params["pageNo"].parse().expect("is a number");
        let items: Vec<_> = (files.iter().skip(number - 1).take(1))
            .map(|(id, text)| json!({"dataId": id, "group": "DEFAULT_GROUP", "content": text}))
            .collect();
        let page = json!({"pageNumber": number, "pagesAvailable": files.len(), "pageItems": items});
        Reply::new(200, page.to_string())
    });
    let nacos = Nacos::open(&format!("{}/nacos", server.url())).expect("is a URL");
    let source = NacosSource::new(&nacos).mode(Mode::ReadWrite);
    files_are_those_of_due(
        source,
        |file, text| {
            let mut files = files.lock().expect("is whole");
            files.insert(file.to_owned(), text.to_owned());
        },
        |file| files.lock().expect("is whole")[file].clone(),
    );
}

#[test]
fn a_source_that_is_not_there_at_the_start_is_an_error() {
    let nobody = crate::process::free_port();
    let etcd = Etcd::open(&format!("http://127.0.0.1:{nobody}")).expect("is a URL");
    let error = Center::start(vec![Box::new(EtcdSource::new(&etcd))]).expect_err("is lost");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let nowhere = FileSource::new("/nowhere/at/all");
    assert!(Center::start(vec![Box::new(nowhere)]).is_err());
}
