//! Programs of other projects in front of the gateway and behind it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::rig::{Client, Folder, Origin, Program};
use crate::util::strangers::{self, python_websockets, spawn_serving};
use crate::util::{eventually, skipped};

/// A program that is killed at the end of the test.
pub(crate) struct Stranger(pub(crate) Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a command of a program, if it is installed. The test is skipped without it.
pub(crate) fn installed(name: &str) -> Option<Command> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    let found = folders
        .map(|folder| std::path::Path::new(folder).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        skipped(&format!("{name} is not installed"));
    }
    found.map(Command::new)
}

/// Returns an address at which nobody listens.
pub(crate) fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("has an address")
}

fn start(mut command: Command, addr: SocketAddr) -> Stranger {
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let stranger = Stranger(child);
    eventually("it listens", || TcpStream::connect(addr).is_ok());
    stranger
}

fn config(node: &str, listener: &str) -> String {
    format!(
        "[[listen]]\non = \"tcp://127.0.0.1:0\"\n{listener}\n[[route]]\npool = \"a\"\n[pool.a]\nnodes = [{node}]\n"
    )
}

#[test]
fn curl_uploads_with_and_without_expect() {
    let (Some(_), origin, folder) = (installed("curl"), Origin::start("one"), Folder::new()) else {
        return;
    };
    folder.write("gateway.toml", config(&origin.node(), ""));
    folder.write("body", vec![b'x'; 3_000_000]);
    let program = Program::start(&folder, 1);
    for expect in ["Expect: 100-continue", "Expect:"] {
        let said = Command::new("curl")
            .args(["-sS", "--max-time", "30", "-H", expect, "--data-binary"])
            .arg(format!("@{}", folder.path("body").display()))
            .arg(format!("http://{}/up", program.addrs[0]))
            .output()
            .expect("runs");
        let body = String::from_utf8_lossy(&said.stdout);
        assert_eq!(body, "one got 3000000", "{expect}: {said:?}");
    }
}

#[test]
fn curl_sees_the_certificates_that_are_exchanged() {
    let (Some(_), origin, folder) = (installed("curl"), Origin::start("one"), Folder::new()) else {
        return;
    };
    let issue = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
        folder.write(&format!("{name}.pem"), made.cert.pem());
        folder.write(&format!("{name}.key"), made.signing_key.serialize_pem());
    };
    let tls = |name: &str| format!("tls = {{ cert = \"{name}.pem\", key = \"{name}.key\" }}");
    issue("old");
    issue("new");
    folder.write("gateway.toml", config(&origin.node(), &tls("old")));
    let program = Program::start(&folder, 1);
    let fetch = |ca: &str| {
        let said = Command::new("curl")
            .args(["-sS", "--max-time", "30", "--cacert"])
            .arg(folder.path(&format!("{ca}.pem")))
            .arg(format!("https://localhost:{}/", program.addrs[0].port()))
            .output()
            .expect("runs");
        said.status.success() && said.stdout == b"one"
    };
    assert!(fetch("old") && !fetch("new"));
    folder.write("gateway.toml", config(&origin.node(), &tls("new")));
    program.signal(Signal::HUP);
    eventually("the new one is shown", || fetch("new"));
    assert!(!fetch("old"), "{}", program.log());
}

#[test]
fn nginx_is_an_origin() {
    let (Some(mut nginx), folder) = (installed("nginx"), Folder::new()) else {
        return;
    };
    let addr = free();
    fs::create_dir(folder.path("www")).expect("is made");
    fs::write(folder.path("www/page"), "0123456789".repeat(100_000)).expect("is written");
    folder.write(
        "nginx.conf",
        format!(
            "daemon off; master_process off; pid nginx.pid; error_log err; events {{}}\n\
             http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;\n\
             uwsgi_temp_path u; scgi_temp_path s; server {{ listen {addr}; root www; }} }}\n"
        ),
    );
    nginx
        .arg("-p")
        .arg(folder.path(""))
        .arg("-c")
        .arg(folder.path("nginx.conf"));
    let _nginx = start(nginx, addr);
    folder.write("gateway.toml", config(&format!("\"http://{addr}\""), ""));
    let program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    for _ in 0..5 {
        let whole = client.get("/page").expect("is answered");
        assert_eq!((whole.status, whole.body.len()), (200, 1_000_000));
        let range = "GET /page HTTP/1.1\r\nHost: a.test\r\nRange: bytes=0-9\r\n\r\n";
        let part = client.send(range).expect("is answered");
        assert_eq!((part.status, &*part.body), (206, "0123456789"));
        assert_eq!(client.get("/none").expect("is answered").status, 404);
    }
}

#[test]
fn haproxy_tells_the_client_by_both_versions_of_the_proxy_protocol() {
    for option in ["send-proxy", "send-proxy-v2"] {
        let (Some(mut haproxy), folder) = (installed("haproxy"), Folder::new()) else {
            return;
        };
        let origin = Origin::start("one");
        let listener = "proxy_protocol = [\"127.0.0.0/8\"]";
        folder.write("gateway.toml", config(&origin.node(), listener));
        let program = Program::start(&folder, 1);
        let addr = free();
        folder.write(
            "haproxy.cfg",
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
                 frontend f\n bind {addr}\n default_backend b\n\
                 backend b\n source 127.0.0.9\n server s {} {option}\n",
                program.addrs[0]
            ),
        );
        haproxy.arg("-f").arg(folder.path("haproxy.cfg"));
        let _haproxy = start(haproxy, addr);
        let response = Client::to(addr).get("/").expect("is answered");
        assert_eq!((response.status, &*response.body), (200, "one"), "{option}");
        let head = origin.heads.lock().expect("is sound").remove(0);
        // The gateway's own peer is 127.0.0.9.
        assert!(head.contains("x-real-ip: 127.0.0.1\n"), "{option}: {head}");
    }
}

#[test]
fn websockets_of_python_are_told_at_both_ends_when_the_program_ends() {
    let script = |kind: &str, argument: &str| {
        let mut python = strangers::python_websockets()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/websocket_ends.py");
        python.arg(script).args([kind, argument]);
        Some(python)
    };
    let spawn = |mut command: Command| {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        (Stranger(child), lines.map(|line| line.expect("is text")))
    };
    let (folder, node) = (Folder::new(), free());
    let Some(command) = script("node", &node.port().to_string()) else {
        return;
    };
    let (_node, mut at_node) = spawn(command);
    eventually("it listens", || TcpStream::connect(node).is_ok());
    folder.write(
        "gateway.toml",
        config(&format!("\"http://{node}\""), "")
            .replace("pool = \"a\"\n", "pool = \"a\"\nwebsocket = \"frames\"\n")
            + "[drain]\ngrace = \"0s\"\n",
    );
    let program = Program::start(&folder, 1);
    let url = format!("ws://{}/chat", program.addrs[0]);
    let (_client, mut at_client) = spawn(script("client", &url).expect("is there"));
    assert_eq!(at_client.next().as_deref(), Some("joined"));
    program.signal(Signal::TERM);
    assert_eq!(at_client.next().as_deref(), Some("1001"));
    assert_eq!(at_node.next().as_deref(), Some("1001"));
    assert!(program.ended().success());
}

#[test]
fn websockets_for_python_pass_through_the_gateway() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers");
    let Some(mut python) = python_websockets() else {
        return;
    };
    let serving = python.arg(scripts.join("server.py")).arg("deflate");
    let (server, port) = spawn_serving(serving.stdin(Stdio::piped()));
    let _server = Stranger(server);
    let folder = Folder::new();
    folder.write(
        "gateway.toml",
        config(&format!("\"http://127.0.0.1:{port}\""), ""),
    );
    let program = Program::start(&folder, 1);
    for check in ["echo", "fragments", "closed"] {
        let mut python = python_websockets().expect("was there");
        let said = python
            .arg(scripts.join("client.py"))
            .arg(format!("ws://{}/", program.addrs[0]))
            .arg(check)
            .output()
            .expect("runs");
        assert!(
            said.status.success(),
            "{check}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
}

#[test]
fn wrk_and_apachebench_see_no_failed_request() {
    let Some(mut wrk) = installed("wrk") else {
        return;
    };
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write("gateway.toml", config(&origin.node(), ""));
    let program = Program::start(&folder, 1);
    let url = format!("http://{}/", program.addrs[0]);
    let said = wrk
        .args(["-t1", "-c16", "-d1s", &url])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(" requests in "), "{said}");
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );

    // It speaks HTTP/1.0, with connections that are kept and without.
    for kept in [true, false] {
        let Some(mut ab) = installed("ab") else {
            return;
        };
        if kept {
            ab.arg("-k");
        }
        let said = ab
            .args(["-n", "500", "-c", "10", &url])
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let figure = |name: &str| {
            let line = said.lines().find(|line| line.starts_with(name));
            let figure = line.and_then(|line| line.split_whitespace().last()?.parse::<u32>().ok());
            figure.unwrap_or(0)
        };
        let kept = if kept { 500 } else { 0 };
        assert_eq!(
            (
                figure("Complete requests:"),
                figure("Failed requests:"),
                figure("Keep-Alive requests:")
            ),
            (500, 0, kept),
            "{said}"
        );
        assert!(!said.contains("Non-2xx"), "{said}");
    }
}

#[test]
fn openssl_is_shown_the_certificate_of_the_name_that_it_asks_for() {
    let (Some(_), origin, folder) = (installed("openssl"), Origin::start("one"), Folder::new())
    else {
        return;
    };
    for name in ["one.test", "two.test"] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("is made");
        folder.write(&format!("{name}.pem"), made.cert.pem());
        folder.write(&format!("{name}.key"), made.signing_key.serialize_pem());
    }
    let tls = "tls = [{ cert = \"one.test.pem\", key = \"one.test.key\" }, \
               { cert = \"two.test.pem\", key = \"two.test.key\" }]";
    folder.write("gateway.toml", config(&origin.node(), tls));
    let program = Program::start(&folder, 1);
    for (name, version) in [("one.test", "-tls1_2"), ("two.test", "-tls1_3")] {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-ign_eof", "-alpn", "h2,http/1.1", version])
            .args([
                "-verify_return_error",
                "-verify_hostname",
                name,
                "-servername",
                name,
            ])
            .arg("-CAfile")
            .arg(folder.path(&format!("{name}.pem")))
            .args(["-connect", &program.addrs[0].to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let mut input = openssl.stdin.take().expect("is piped");
        input.write_all(request.as_bytes()).expect("is taken");
        let said = openssl.wait_with_output().expect("ends");
        drop(input);
        let text = String::from_utf8_lossy(&said.stdout);
        for wanted in [
            "Verify return code: 0 (ok)",
            "ALPN protocol: http/1.1",
            "HTTP/1.1 200 OK",
        ] {
            assert!(text.contains(wanted), "{name}: {wanted} in {said:?}");
        }
    }
}
