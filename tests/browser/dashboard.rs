//! The example `dashboard`: the page shows the engine's counters.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::{Value, json};

use crate::chromium::{Browser, Process};
use crate::util::{eventually, skipped};

/// The example: its process, where its page is, and where its echo server.
struct Dashboard {
    process: Process,
    page: SocketAddr,
    echo: SocketAddr,
}

impl Dashboard {
    fn start(page: &str) -> Option<Self> {
        // Cargo builds it together with the tests.
        let this = env::current_exe().ok()?;
        let example = this.parent()?.parent()?.join("examples/dashboard");
        if !example.exists() {
            skipped("the example dashboard is not built: run all tests, or build it");
            return None;
        }
        let mut process = Command::new(example)
            .args([
                "--page",
                page,
                "--echo",
                "tcp://127.0.0.1:0",
                "--reactors",
                "2",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .map(Process)
            .expect("starts");
        let mut lines = BufReader::new(process.0.stdout.take().expect("is piped")).lines();
        let mut addr = |word: usize| {
            let line = lines.next().expect("a line").expect("is read");
            let addr = line.split(' ').nth(word).and_then(|addr| addr.parse().ok());
            addr.unwrap_or_else(|| panic!("no address: {line}"))
        };
        let (echo, page) = (addr(6), addr(3));
        Some(Self {
            process,
            page,
            echo,
        })
    }
}

/// Clients that each send a message, wait for it to come back and send the next, until they are dropped.
struct Load {
    streams: Vec<TcpStream>,
}

impl Load {
    fn start(echo: SocketAddr, clients: usize) -> Self {
        let connect = |_| TcpStream::connect(echo).expect("connects");
        let streams: Vec<_> = (0..clients).map(connect).collect();
        for stream in &streams {
            let mut stream = stream.try_clone().expect("is duplicated");
            thread::spawn(move || {
                let mut message = [7; 100];
                while stream.write_all(&message).is_ok() && stream.read_exact(&mut message).is_ok()
                {
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        Self { streams }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn the_page_shows_what_the_engine_does() {
    const CLIENTS: usize = 40;
    let Some(dashboard) = Dashboard::start("tcp://127.0.0.1:0") else {
        return;
    };
    let Some(mut browser) = Browser::start() else {
        return;
    };
    browser.visit(&format!("http://{}/", dashboard.page));
    eventually("the page is live", || is_live(&mut browser));
    let watched = browser.text("watched");
    assert_eq!(watched, format!("{} · 2 reactors", dashboard.echo));
    eventually("nobody is connected", || {
        browser.number("connections") == Some(0.0)
    });

    let load = Load::start(dashboard.echo, CLIENTS);
    eventually("all connections are shown", || {
        browser.number("connections") == Some(CLIENTS as f64)
    });
    let of_reactors = "[...document.querySelectorAll('#reactors tr')].map(row => Number(row.cells[2].textContent))";
    let of_reactors = browser.evaluate(of_reactors);
    let of_reactors: Vec<_> = of_reactors
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(of_reactors.len(), 2, "{of_reactors:?}");
    assert_eq!(of_reactors.iter().sum::<u64>(), CLIENTS as u64);
    eventually("messages are counted", || {
        browser.number("messages") > Some(10.0)
    });
    let before = browser.number("total-messages").expect("a number");
    eventually("the numbers move", || {
        browser.number("total-messages") > Some(before + 100.0)
    });
    assert!(browser.number("memory").is_some_and(|memory| memory > 1.0));
    assert!(["KiB", "MiB"].contains(&browser.text("memory-unit").as_str()));
    eventually("there is lag", || browser.number("lag") > Some(0.0));
    eventually("a reactor is busy", || {
        let widths = "Math.max(...[...document.querySelectorAll('.bar div div')].map(bar => bar.clientWidth))";
        browser.evaluate(widths).as_f64() > Some(0.0)
    });
    let points =
        "document.querySelector('#messages-chart .line').getAttribute('d')?.split('L').length ?? 0";
    eventually("a line is drawn", || {
        browser.evaluate(points).as_u64() > Some(20)
    });
    assert_eq!(browser.number("panics"), Some(0.0));
    assert!(
        browser
            .evaluate("document.title")
            .as_str()
            .is_some_and(|title| title.starts_with("40 "))
    );
    assert!(fits(&mut browser));
    let light = browser.picture("dashboard.png");
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.ask("Emulation.setEmulatedMedia", dark);
    let dark = browser.picture("dashboard-dark.png");
    assert_ne!(fs::read(light).ok(), fs::read(dark).ok());
    let phone = json!({"width": 390, "height": 1200, "deviceScaleFactor": 2, "mobile": true});
    browser.ask("Emulation.setDeviceMetricsOverride", phone);
    assert!(fits(&mut browser));
    browser.picture("dashboard-phone.png");

    drop(load);
    eventually("those that leave are not counted", || {
        browser.number("connections") == Some(0.0)
    });
    assert_eq!(browser.complaints, [] as [&str; 0]);
}

#[test]
fn the_page_comes_back_to_life_with_the_server() {
    let Some(first) = Dashboard::start("tcp://127.0.0.1:0") else {
        return;
    };
    let Some(mut browser) = Browser::start() else {
        return;
    };
    browser.visit(&format!("http://{}/", first.page));
    eventually("the page is live", || is_live(&mut browser));
    let page = format!("tcp://{}", first.page);
    drop(first.process);
    eventually("the page tells that it is not", || {
        !is_live(&mut browser) && browser.text("state").starts_with("no connection")
    });
    let second = Dashboard::start(&page).expect("is built");
    eventually("the page is live again", || is_live(&mut browser));
    let watched = browser.text("watched");
    assert!(watched.starts_with(&second.echo.to_string()), "{watched}");
}

fn is_live(browser: &mut Browser) -> bool {
    browser.evaluate("document.body.className") == "live"
}

/// Whether nothing is wider than its place.
fn fits(browser: &mut Browser) -> bool {
    let all = "[document.documentElement, ...document.querySelectorAll('section')]";
    let fits = "every(element => element.scrollWidth <= element.clientWidth)";
    browser.evaluate(&format!("{all}.{fits}")) == true
}

#[test]
fn the_counters_of_both_engines_are_exposed() {
    let Some(dashboard) = Dashboard::start("tcp://127.0.0.1:0") else {
        return;
    };
    let load = Load::start(dashboard.echo, 3);
    let metrics = || {
        let mut stream = TcpStream::connect(dashboard.page).expect("connects");
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("is answered");
        answer
    };
    eventually("all connections are counted", || {
        metrics().contains("epicycle_accepted_total{engine=\"echo\",reactor=\"main\"} 3\n")
    });
    let answer = metrics();
    let content_type = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(answer.contains(content_type), "{answer}");
    // The connection of an earlier request may still be closing.
    eventually("the page's own connection is counted", || {
        metrics().contains("epicycle_connections{engine=\"page\",reactor=\"0\"} 1\n")
    });
    drop(load);
}
