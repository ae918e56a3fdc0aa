//! Sources of the nodes of pools.

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use epicycle::gateway::discover::{Discover, DiscoverError, NodesFile, Stop};
use epicycle::gateway::settings::{NodeSettings, RouteSettings};

use crate::peers::{Asker, Origin, builder, ok, pool_of, start};
use crate::rig::Folder;
use crate::util::eventually;

/// A source that passes on what the test sends.
struct Told(Receiver<Result<Vec<NodeSettings>, String>>);

impl Discover for Told {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        loop {
            match self.0.recv_timeout(Duration::from_millis(10)) {
                Ok(list) => return list.map(Some).map_err(DiscoverError::from),
                Err(RecvTimeoutError::Timeout) if !stop.is_set() => {}
                Err(_) => return Ok(None),
            }
        }
    }
}

fn node(origin: &Origin) -> NodeSettings {
    NodeSettings::new(origin.url())
}

fn named(name: &'static str) -> Origin {
    Origin::start(move |_, _| ok(name))
}

#[test]
fn requests_go_to_the_nodes_that_a_source_tells_and_stay_if_it_fails() {
    let (first, second, third) = (named("first"), named("second"), named("third"));
    let gateway = builder(pool_of(&first))
        .route(RouteSettings::to("app"))
        .build();
    let gateway = gateway.expect("it is sound");
    let running = gateway.start_plain().expect("it starts");
    let (tell, told) = channel();
    running
        .control()
        .discover("app", Told(told))
        .expect("there is such a pool");
    let mut client = Asker::to(&running);
    assert_eq!(client.get("/").text(), "first");
    tell.send(Ok(vec![node(&second)])).expect("it listens");
    eventually("the second one is asked", || {
        client.get("/").text() == "second"
    });
    // A source that fails, and lists that cannot be, change nothing.
    tell.send(Err("out of order".to_owned()))
        .expect("it listens");
    tell.send(Ok(vec![NodeSettings::new("ftp://127.0.0.1")]))
        .expect("it listens");
    // Other settings keep the nodes of the source.
    running.reload(&gateway).expect("they are sound");
    assert_eq!(client.get("/").text(), "second");
    tell.send(Ok(vec![node(&third)])).expect("it listens");
    eventually("the third one is asked", || {
        client.get("/").text() == "third"
    });
    running.shutdown();
    eventually("the source has ended", || {
        tell.send(Ok(Vec::new())).is_err()
    });
}

#[test]
fn a_source_for_a_pool_that_is_not_there_is_an_error() {
    let origin = named("one");
    let running = start(pool_of(&origin));
    let (_tell, told) = channel();
    let error = running
        .control()
        .discover("other", Told(told))
        .expect_err("there is none");
    assert!(
        error
            .to_string()
            .contains("pools.other: there is no such pool"),
        "{error}"
    );
}

#[test]
fn a_file_of_nodes_is_a_source() {
    let (first, second) = (named("first"), named("second"));
    let folder = Folder::new();
    let path = folder.path("nodes");
    fs::write(&path, format!("{},5\n", second.addr)).expect("is written");
    let running = start(pool_of(&first));
    running
        .control()
        .discover("app", NodesFile::new(&path))
        .expect("there is such a pool");
    let mut client = Asker::to(&running);
    eventually("the file is read", || client.get("/").text() == "second");
    fs::write(&path, format!("{}\n", first.addr)).expect("is written");
    eventually("its change is noticed", || {
        client.get("/").text() == "first"
    });
}
