//! The example `rpc_websocket`: a page calls over a WebSocket and by HTTP, and is called.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::chromium::{Browser, Process};
use crate::util::{eventually, skipped};

#[test]
fn a_page_calls_and_is_called() {
    // Cargo builds it together with the tests.
    let this = env::current_exe().expect("a path");
    let built = this
        .parent()
        .and_then(|deps| deps.parent())
        .expect("a folder");
    let example = built.join("examples/rpc_websocket");
    if !example.exists() {
        return skipped("the example rpc_websocket is not built: run all tests, or build it");
    }
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let mut process = Command::new(example)
        .args(["--listen", "tcp4://127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Process)
        .expect("starts");
    let mut lines = BufReader::new(process.0.stdout.take().expect("is piped")).lines();
    let mut line = || lines.next().expect("a line").expect("is read");
    let first = line();
    let addr = first.split(' ').nth(3).expect("an address").to_owned();
    browser.visit(&format!("http://{addr}/"));
    // The push of the page arrives, and so do pushes to it.
    assert!(line().ends_with(" notes: the page is open"));
    eventually("the server pushes", || {
        browser.text("state").ends_with("sessions are open")
    });
    let mut answer = |form: &str, output: &str| {
        browser.evaluate(&format!("document.querySelector('#{form} button').click()"));
        let mut text = String::new();
        eventually("the answer is shown", || {
            text = browser.text(output);
            !text.is_empty()
        });
        text
    };
    assert_eq!(answer("add", "sum"), "6");
    assert_eq!(answer("fetch", "sum-by-http"), "6");
    // The server asks the page for the name.
    assert_eq!(answer("greet", "greeting"), "hello, page");
}
