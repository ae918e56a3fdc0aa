//! Programs of other projects in front of the gateway and behind it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::rig::{Client, Folder, Origin, Program};
use crate::util::{eventually, skipped, strangers};

/// A program that is killed at the end of the test.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a command of a program, if it is installed. The test is skipped without it.
fn installed(name: &str) -> Option<Command> {
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
fn free() -> SocketAddr {
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
