//! The page of a gateway's admin interface: it shows the nodes, and its controls work.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use epicycle::gateway::settings::{AdminSettings, NodeState, PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Running};
use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::util::eventually;

/// A name that would run a script if it became markup.
const EVIL: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";

const TOKEN: &str = "0123456789abcdef-token";

/// Starts an origin that answers each connection once.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    addr
}

fn start(nodes: &[String], admin: AdminSettings) -> Running<NoHooks> {
    let gateway = Gateway::builder()
        .listen("tcp://127.0.0.1:0")
        .pool("app", PoolSettings::of(nodes.iter().cloned()))
        .pool(EVIL, PoolSettings::of([format!("unix:///tmp/{EVIL}")]))
        .route(RouteSettings::to("app"))
        .route(RouteSettings::to(EVIL).path("/evil"))
        .reactors(2)
        .admin(admin)
        .build();
    gateway.expect("is sound").start_plain().expect("starts")
}

fn admin_url(running: &Running<NoHooks>) -> String {
    let addr = running.control().admin_addr().expect("is open");
    format!("http://{}/", addr.as_socket_addr().expect("is TCP"))
}

fn ask(running: &Running<NoHooks>, requests: usize) {
    let to = running.local_addrs()[0].as_socket_addr().expect("is TCP");
    for _ in 0..requests {
        let mut stream = TcpStream::connect(to).expect("connects");
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("is answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Returns the text of a cell of a node.
fn cell(browser: &mut Browser, node: usize, label: &str) -> String {
    let cell = format!(
        "document.querySelectorAll('tbody tr')[{node}]?.querySelector('[data-label=\"{label}\"]')?.textContent ?? ''"
    );
    let text = browser.evaluate(&cell);
    text.as_str().unwrap_or_default().to_owned()
}

fn click(browser: &mut Browser, node: usize, button: &str) {
    let buttons =
        format!("[...document.querySelectorAll('tbody tr')[{node}].querySelectorAll('button')]");
    let found = format!("{buttons}.find(one => one.textContent.startsWith('{button}')).click()");
    browser.evaluate(&found);
}

/// Returns what is wider than its place.
fn too_wide(browser: &mut Browser) -> Value {
    browser.evaluate(
        "[document.documentElement, ...document.querySelectorAll('section, td, form, header')]
           .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0)
           .map(one => one.outerHTML.slice(0, 100))",
    )
}

/// Returns texts and controls whose contrast with the page is below 4.5, as WCAG asks for.
fn too_faint(browser: &mut Browser) -> Value {
    browser.evaluate(
        "(() => {
           const channels = text => text.match(/[\\d.]+/g).map(Number);
           const light = text => {
             const [r, g, b] = channels(text).map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
             return 0.2126 * r + 0.7152 * g + 0.0722 * b;
           };
           const behind = element => {
             for (let one = element; one; one = one.parentElement) {
               const color = getComputedStyle(one).backgroundColor;
               if ((channels(color)[3] ?? 1) > 0) return color;
             }
             return 'rgb(255, 255, 255)';
           };
           const texts = [...document.querySelectorAll('body *')].filter(one =>
             one.checkVisibility() && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
           return texts.filter(one => {
             const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
             return (a + 0.05) / (b + 0.05) < 4.5;
           }).map(one => one.outerHTML.slice(0, 120));
         })()",
    )
}

#[test]
fn the_page_of_a_gateway_shows_its_nodes_and_changes_them() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let nodes = [origin(), origin()].map(|addr| format!("http://{addr}"));
    let running = start(&nodes, AdminSettings::new("tcp://127.0.0.1:0"));
    let control = running.control().clone();
    let state = |number: usize| control.pool("app").expect("is there").nodes[number].set;
    browser.visit(&admin_url(&running));
    ask(&running, 10);
    eventually("the requests are shown", || {
        cell(&mut browser, 1, "Requests") == "5" && cell(&mut browser, 2, "Requests") == "5"
    });
    // Names are in the order of bytes: the evil one is the first, and is a text.
    assert!(cell(&mut browser, 0, "Node").contains(EVIL));
    assert_eq!(
        browser.evaluate("document.querySelectorAll('img, tbody script').length"),
        0
    );
    assert_eq!(cell(&mut browser, 1, "Node"), nodes[0]);
    assert_eq!(cell(&mut browser, 1, "State"), "● up");
    assert_eq!(cell(&mut browser, 1, "Share"), "50 %");
    assert!(cell(&mut browser, 1, "Latency").ends_with("ms"));
    assert!(
        browser.text("state").ends_with("ok"),
        "{}",
        browser.text("state")
    );
    assert!(
        browser.text("classes").contains("2xx"),
        "{}",
        browser.text("classes")
    );

    click(&mut browser, 2, "Drain");
    eventually("it drains", || state(1) == NodeState::Drain);
    eventually("that is shown", || {
        cell(&mut browser, 2, "State") == "◐ drain"
    });
    assert!(
        browser.text("told").contains("not changed"),
        "{}",
        browser.text("told")
    );
    eventually("it is in the history", || {
        browser.text("history").contains("is put to drain")
    });
    let pressed = "[...document.querySelectorAll('tbody tr')[2].querySelectorAll('[aria-pressed=true]')].map(one => one.textContent).join()";
    assert_eq!(browser.evaluate(pressed), format!("Drain {}", nodes[1]));
    ask(&running, 4);
    eventually("the other one gets all", || {
        cell(&mut browser, 1, "Requests") == "9"
    });
    click(&mut browser, 2, "Up");
    eventually("it is up", || state(1) == NodeState::Up);
    browser.evaluate(
        "(() => { const input = document.querySelectorAll('tbody tr')[2].querySelector('input');
                  input.value = 7; input.dispatchEvent(new Event('input')); })()",
    );
    click(&mut browser, 2, "Set");
    eventually("it has the weight", || {
        control.pool("app").expect("is there").nodes[1].weight == 7
    });
    // A script of the page's own cannot make markup of texts either.
    browser.evaluate("document.getElementById('reload').click()");
    eventually("a refusal is told, once", || {
        browser.text("told").matches("no file").count() == 1
    });
    assert_eq!(
        browser.evaluate("document.getElementById('told').className"),
        "wrong"
    );

    let unlabelled = "[...document.querySelectorAll('input, button')].filter(one =>
        !one.textContent.trim() && !one.labels?.length).length";
    assert_eq!(browser.evaluate(unlabelled), 0);
    let mut pictures = Vec::new();
    for (width, name) in [(1280, "wide"), (360, "phone")] {
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        browser.ask("Emulation.setDeviceMetricsOverride", size);
        for scheme in ["light", "dark"] {
            let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            browser.ask("Emulation.setEmulatedMedia", media);
            assert_eq!(too_wide(&mut browser), json!([]), "{name} {scheme}");
            assert_eq!(too_faint(&mut browser), json!([]), "{name} {scheme}");
            let picture = browser.picture(&format!("gateway-{name}-{scheme}.png"));
            pictures.push(fs::read(picture).expect("is there"));
        }
    }
    pictures.dedup();
    assert_eq!(pictures.len(), 4);
    // The refused reload is an answer with an error, which the browser notes.
    browser
        .complaints
        .retain(|complaint| !complaint.contains("409"));
    assert_eq!(browser.complaints, [] as [&str; 0]);
    running.shutdown();
}

#[test]
fn the_page_of_a_gateway_asks_for_the_token_and_keeps_it_for_the_tab() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let nodes = [format!("http://{}", origin())];
    let admin = AdminSettings::new("tcp://127.0.0.1:0").token(TOKEN);
    let running = start(&nodes, admin);
    browser.visit(&admin_url(&running));
    let asks = "!document.getElementById('token-section').hidden";
    eventually("the token is asked for", || browser.evaluate(asks) == true);
    assert_eq!(cell(&mut browser, 0, "Node"), "");
    let enter = |browser: &mut Browser, token: &str| {
        browser.evaluate(&format!(
            "document.getElementById('token').value = '{token}'"
        ));
        browser.evaluate("document.getElementById('token-form').requestSubmit()");
    };
    enter(&mut browser, "wrong");
    eventually("it is refused", || browser.text("told").contains("wrong"));
    enter(&mut browser, TOKEN);
    eventually("the nodes are shown", || {
        cell(&mut browser, 1, "Node") == nodes[0]
    });
    assert_eq!(browser.evaluate(asks), false);
    click(&mut browser, 1, "Down");
    let control = running.control().clone();
    eventually("it is down", || {
        control.pool("app").expect("is there").nodes[0].set == NodeState::Down
    });
    browser.ask("Page.reload", json!({}));
    eventually("the tab has it still", || {
        cell(&mut browser, 1, "State") == "✕ down"
    });
    let kept = "Object.keys(localStorage).length + document.cookie.length";
    assert_eq!(browser.evaluate(kept), 0);
    running.shutdown();
}
