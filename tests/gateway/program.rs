//! `epicycle gateway` as a user runs it.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;

use crate::rig::{Client, Folder, Origin, Program, command};
use crate::util::eventually;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("is text")
}

/// Sends bytes on a connection of its own, and returns the beginning of the answer.
fn answer_to(addr: std::net::SocketAddr, bytes: &[u8], len: usize) -> Vec<u8> {
    use std::io::{Read, Write};

    let mut stream = std::net::TcpStream::connect(addr).expect("connects");
    stream.write_all(bytes).expect("is sent");
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).expect("is answered");
    answer
}

#[test]
fn flags_alone_make_a_socks_or_a_forward_proxy_with_users_or_without() {
    let folder = Folder::new();
    let users = fs::read("tests/gateway/users.txt").expect("is there");
    folder.write("users", users);
    let users = folder.path("users").display().to_string();
    let start = |kind: &str, more: &[&str]| {
        let args = ["--listen", "tcp://127.0.0.1:0", "--reactors", "1", kind];
        Program::start_with(command().args(args).args(more), &folder, 1)
    };
    let open = start("--socks5", &[]);
    assert_eq!(answer_to(open.addrs[0], &[5, 1, 0], 2), [5, 0]);
    // Addresses that are not public are refused by the default policy.
    let to_itself = [5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80];
    assert_eq!(answer_to(open.addrs[0], &to_itself, 4)[2..], [5, 2]);
    let closed = start("--socks5", &["--users", &users]);
    assert_eq!(answer_to(closed.addrs[0], &[5, 1, 0], 2), [5, 255]);
    let connect = b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n";
    let open = start("--forward", &[]);
    assert_eq!(answer_to(open.addrs[0], connect, 12), *b"HTTP/1.1 403");
    let closed = start("--forward", &["--users", &users]);
    assert_eq!(answer_to(closed.addrs[0], connect, 12), *b"HTTP/1.1 407");
    for wrong in [
        &["--socks5"][..],
        &["--listen", "tcp://:1"],
        &["--listen", "tcp://:1", "--socks5", "--forward"],
        &["--listen", "tcp://:1", "--socks5", "--to", "http://a"],
        &["--listen", "tcp://:1", "--to", "http://a", "--users", "x"],
        &["--config", "x", "--socks5"],
    ] {
        let output = command().args(wrong).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
    let missing = [
        "--listen", "tcp://:1", "--socks5", "--users", "/none", "--check",
    ];
    let output = command().args(missing).output().expect("runs");
    assert!(!output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--users"),
        "{output:?}"
    );
}

#[test]
fn flags_alone_make_a_reverse_proxy() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let node = format!("http://{}", origin.addr);
    let args = [
        "--listen",
        "tcp://127.0.0.1:0",
        "--to",
        &node,
        "--reactors",
        "1",
    ];
    let program = Program::start_with(command().args(args), &folder, 1);
    let response = Client::to(program.addrs[0])
        .get("/a?b=c")
        .expect("is answered");
    assert_eq!((response.status, &*response.body), (200, "one"));
    let head = origin.heads.lock().expect("is sound").remove(0);
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\n"), "{head}");
    for field in [
        "x-forwarded-for: 127.0.0.1",
        "x-real-ip: 127.0.0.1",
        "via: 1.1 epicycle",
        "host: a.test",
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    program.signal(Signal::INT);
    assert!(program.ended().success());
}

#[test]
fn a_check_prints_every_fault_or_says_that_there_is_none() {
    let folder = Folder::new();
    let config = folder.path("gateway.toml");
    let check = || {
        let args = ["--check".as_ref(), "--config".as_ref(), config.as_os_str()];
        command().args(args).output().expect("runs")
    };
    folder.write(
        "gateway.toml",
        "tipo = 1\n[[listen]]\non = \"nowhere\"\n[[route]]\npool = \"b\"\n",
    );
    let said = check();
    assert_eq!(said.status.code(), Some(1));
    let lines: Vec<_> = text(&said.stderr).lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, wanted) in lines.iter().zip([
        ":1:1: tipo: ",
        ":3:6: listen[0].on: ",
        ":5:8: route[0].pool: ",
    ]) {
        assert!(line.contains(wanted), "{wanted} in {line}");
    }
    folder.write(
        "gateway.toml",
        "[[listen]]\non = \"tcp://:80\"\n[[route]]\npool = \"b\"\n[pool.b]\nnodes = [\"http://10.0.0.1\"]\n",
    );
    let said = check();
    assert!(said.status.success(), "{said:?}");
    assert!(text(&said.stdout).contains("is sound"), "{said:?}");
}

#[test]
fn a_check_warns_of_what_is_most_likely_a_mistake() {
    let folder = Folder::new();
    let config = folder.path("gateway.toml");
    let warnings = |text: &str| {
        folder.write("gateway.toml", text);
        let args = ["--check".as_ref(), "--config".as_ref(), config.as_os_str()];
        let said = command().args(args).output().expect("runs");
        assert!(said.status.success(), "{said:?}");
        text_of(&said.stderr)
    };
    let listen = "[[listen]]\non = \"tcp://:80\"\n";
    let pool = "[pool.b]\nnodes = [\"http://10.0.0.1\"]\n";
    let route = "[[route]]\npool = \"b\"\n";
    assert_eq!(
        warnings(&format!("{listen}{route}{pool}")),
        Vec::<String>::new()
    );
    let nodes = "nodes = [{ to = \"http://10.0.0.1\", weight = 0 }, { to = \"http://10.0.0.1\", weight = 0 }]";
    for (text, wanted) in [
        (
            format!("{listen}{pool}"),
            "1:1: listen[0]: there is no route",
        ),
        (
            format!("{listen}{route}{pool}{}", pool.replace("pool.b", "pool.c")),
            "7:1: pool.c: no route and no listener",
        ),
        (
            format!("{listen}{route}[pool.b]\n{nodes}\n"),
            "6:9: pool.b.nodes: all weights are 0",
        ),
        (
            format!("{listen}{route}[pool.b]\n{nodes}\n"),
            "6:50: pool.b.nodes[1]: the node is in the list already",
        ),
        (
            format!("{listen}{route}{pool}tls = {{ verify = false }}\n"),
            "6:10: pool.b.nodes[0]: it speaks TLS",
        ),
        (
            format!("{listen}{route}path = \"/a/*\"\nstrip_prefix = \"/b\"\n{pool}"),
            "6:16: route[0].strip_prefix: no path",
        ),
        (
            format!("log.access.to = \"none/access.log\"\n{listen}{route}{pool}"),
            "1:17: log.access.to: its folder is not there",
        ),
        (
            "[[listen]]\non = \"tcp://:1080\"\nkind = \"socks5\"\n".to_owned(),
            "2:6: listen[0].on: whoever reaches it can use it as a proxy",
        ),
        (
            "[[listen]]\non = \"tcp://192.0.2.1:3128\"\nkind = \"forward\"\n".to_owned(),
            "2:6: listen[0].on: whoever reaches it can use it as a proxy",
        ),
    ] {
        let said = warnings(&text);
        assert!(
            said.iter()
                .any(|line| line.starts_with(&format!("warning: {}:{wanted}", config.display()))),
            "{wanted}: {said:?}"
        );
    }
    let fits = format!("{listen}{route}path = \"/a/*\"\nstrip_prefix = \"/a\"\n{pool}");
    let proxy = |on: &str, more: &str| {
        format!("[[listen]]\non = \"tcp://{on}:1080\"\nkind = \"socks5\"\n{more}")
    };
    for fits in [
        fits,
        proxy("127.0.0.1", ""),
        proxy("[fd00::1]", ""),
        proxy("10.0.0.1", ""),
        proxy("0.0.0.0", "allow = [\"10.0.0.0/8\"]\n"),
    ] {
        assert_eq!(warnings(&fits), Vec::<String>::new());
    }
}

fn text_of(lines: &[u8]) -> Vec<String> {
    text(lines).lines().map(str::to_owned).collect()
}

#[test]
fn an_explanation_tells_the_way_of_a_request() {
    let folder = Folder::new();
    folder.write(
        "gateway.toml",
        r#"
[[listen]]
on = "tcp://127.0.0.1:8080"

[[route]]
host = "*.example.org"
path = "/api/*"
pool = "api"
strip_prefix = "/api"
host_field = "node"
request = { set = { "X-Env" = "prod", "Authorization" = "Basic c2VjcmV0" }, remove = ["Cookie"] }
response.add = { "X-Api-Key" = "c2VjcmV0" }

[pool.api]
balance = { hash = "path", ring = "crc32" }
nodes = ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
"#,
    );
    let config = folder.path("gateway.toml");
    let explain = |request: &str| {
        let args = [
            "--config".as_ref(),
            config.as_os_str(),
            "--explain".as_ref(),
            request.as_ref(),
        ];
        let said = command().args(args).output().expect("runs");
        (
            said.status.code(),
            format!("{}{}", text(&said.stdout), text(&said.stderr)),
        )
    };
    let (code, said) = explain("GET http://app.example.org/api/users?id=1");
    assert_eq!(code, Some(0), "{said}");
    for wanted in [
        "listener  tcp://127.0.0.1:8080",
        "route     *.example.org/api/*",
        "pool      api: 2 nodes, by a hash of the path",
        "node      http://10.0.0.",
        "request   GET /users?id=1 HTTP/1.1, Host: 10.0.0.",
        "Cookie",
        "X-Env: prod",
        "Authorization: (redacted)",
        "adds X-Api-Key: (redacted)",
        "X-Forwarded-Host: app.example.org",
        "Via: 1.1 epicycle",
    ] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
    assert!(!said.contains("c2VjcmV0"), "{said}");
    let (code, said) = explain("GET http://other.test/");
    assert_eq!(
        (code, said.contains("the answer is 404")),
        (Some(0), true),
        "{said}"
    );
    let (_, said) = explain("GET https://app.example.org/");
    assert!(
        said.contains("no listener speaks TLS on port 443"),
        "{said}"
    );
    let (code, said) = explain("nonsense");
    assert_eq!(
        (code, said.contains("write 'GET http://")),
        (Some(1), true),
        "{said}"
    );
}

#[test]
fn failures_of_the_gateway_have_exit_codes_and_reasons() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = format!("tcp://{}", taken.local_addr().expect("has an address"));
    let missing = folder.path("none.toml").display().to_string();
    for (args, code, wanted) in [
        (&["--config", &missing][..], 1, "No such file"),
        (&[], 2, "--config"),
        (&["--listen", "tcp://:0"], 2, "--to"),
        (
            &["--listen", "nowhere", "--to", "http://127.0.0.1:1"],
            1,
            "--listen: bad address \"nowhere\"",
        ),
        (
            &["--listen", "tcp://:0", "--to", "gopher://a"],
            1,
            "--to: \"gopher",
        ),
        (
            &["--listen", &taken, "--to", "http://127.0.0.1:1"],
            1,
            "in use",
        ),
        (
            &[
                "--listen",
                "tcp://:0",
                "--to",
                "http://127.0.0.1:1",
                "--reactors",
                "0",
            ],
            1,
            "0 reactors",
        ),
    ] {
        let said = command().args(args).output().expect("runs");
        assert_eq!(said.status.code(), Some(code), "{args:?}: {said:?}");
        assert!(text(&said.stderr).contains(wanted), "{args:?}: {said:?}");
    }
}

#[test]
fn an_end_lets_health_checks_fail_first_and_exchanges_end() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        format!(
            "drain.grace = \"500ms\"\n[[listen]]\non = \"tcp://127.0.0.1:0\"\nhealth = \"/alive\"\n\
             [[route]]\npool = \"a\"\n[pool.a]\nnodes = [{}]\n",
            origin.node()
        ),
    );
    let program = Program::start(&folder, 1);
    let addr = program.addrs[0];
    let alive = || {
        Client::to(addr)
            .get("/alive")
            .map(|response| response.status)
    };
    assert_eq!(alive().expect("is answered"), 200);
    assert_eq!(origin.requests.load(Ordering::Relaxed), 0);
    program.signal(Signal::TERM);
    eventually("health checks fail", || {
        alive().is_ok_and(|status| status == 503)
    });
    // It goes on serving.
    let mut client = Client::to(addr);
    let slow = client.get("/fast").expect("is answered");
    assert_eq!((slow.status, &*slow.body), (200, "one"));
    // A request that is under way when the end begins is answered.
    let slow = std::thread::spawn(move || client.get("/slow"));
    std::thread::sleep(Duration::from_millis(50));
    program.signal(Signal::HUP);
    let slow = slow.join().expect("does not panic").expect("is answered");
    assert_eq!((slow.status, &*slow.body), (200, "one"));
    assert!(program.ended().success());
    assert!(Client::to(addr).get("/").is_err());
}
