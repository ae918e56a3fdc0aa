//! Programs of other projects as clients of the forward and the SOCKS proxy.

use std::fs::File;
use std::process::{Command, Output};

use crate::peers::{Origin, ok};
use crate::rig::{Folder, Program};
use crate::socks::Target;
use crate::strangers::{Stranger, free, installed};
use crate::udp::Echo;
use crate::util::strangers::python_socks;
use crate::util::{eventually, noise, skipped};

const MIB: usize = 1 << 20;

/// The user `alice` with the password `secret`.
const USERS: &str = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG\n";

/// Starts a proxy whose second listener asks for a user.
fn proxy(folder: &Folder, kind: &str) -> Program {
    let listener = |host: &str| {
        format!(
            "[[listen]]\non = \"tcp://{host}:0\"\nkind = \"{kind}\"\n\
             egress = {{ allow = [\"127.0.0.0/8:*\", \"localhost:*\"] }}\n"
        )
    };
    let (open, closed) = (listener("127.0.0.1"), listener("127.0.0.2"));
    folder.write("users.txt", USERS);
    folder.write(
        "gateway.toml",
        format!(
            "log.access = {{ to = \"access.log\", format = \"{{method}} {{target}} {{user}} {{status}}\" }}\n\
             {open}{closed}users = \"users.txt\"\n"
        ),
    );
    Program::start(folder, 2)
}

/// A SOCKS proxy and a proxy for HTTP.
struct Proxies {
    socks_folder: Folder,
    socks: Program,
    http_folder: Folder,
    http: Program,
}

impl Proxies {
    fn start() -> Self {
        let (socks_folder, http_folder) = (Folder::new(), Folder::new());
        Self {
            socks: proxy(&socks_folder, "socks5"),
            http: proxy(&http_folder, "forward"),
            socks_folder,
            http_folder,
        }
    }

    /// Returns curl's options for each way through the listeners with that number. `user` is empty, or `NAME:PASSWORD@`.
    fn ways(&self, listener: usize, user: &str) -> [String; 8] {
        let http = format!("{user}{}", self.http.addrs[listener]);
        let socks = format!("{user}{}", self.socks.addrs[listener]);
        [
            format!("--proxy http://{http}"),
            format!("--proxy http://{http} --proxytunnel"),
            format!("--proxy1.0 {http}"),
            format!("--proxy1.0 {http} --proxytunnel"),
            format!("--socks5 {socks}"),
            format!("--socks5-hostname {socks}"),
            format!("--preproxy socks5h://{socks} --proxy http://{http}"),
            format!("--preproxy socks5h://{socks} --proxy http://{http} --proxytunnel"),
        ]
    }
}

/// Runs curl without the options that its user has. It sends no `Expect`, as the origin does not answer that.
fn curl(way: &str, more: &[&str], url: &str) -> Output {
    Command::new("curl")
        .args(["-q", "-sS4", "--noproxy", "", "--fail"])
        .args(["--max-time", "30", "-H", "Expect:"])
        .args(way.split(' '))
        .args(more)
        .arg(url)
        .output()
        .expect("runs")
}

fn complaint(said: &Output) -> String {
    String::from_utf8_lossy(&said.stderr).into_owned()
}

#[test]
fn curl_moves_the_same_bytes_by_every_way_through_the_proxies() {
    if installed("curl").is_none() {
        return;
    }
    let (page, upload) = (noise(1, MIB), noise(2, MIB));
    let sent = page.clone();
    let origin = Origin::start(move |_, request| match request.body.is_empty() {
        true => ok(&sent),
        false => ok(&request.body),
    });
    let (proxies, folder) = (Proxies::start(), Folder::new());
    folder.write("upload", &upload);
    let upload_path = folder.path("upload").display().to_string();
    let port = origin.addr.port();
    let url = format!("http://localhost:{port}/page");
    for (listener, user) in [(0, ""), (1, "alice:secret@")] {
        for way in proxies.ways(listener, user) {
            let said = curl(&way, &[], &url);
            assert!(said.stdout == page, "{way}: {}", complaint(&said));
            let said = curl(&way, &["-T", &upload_path], &url);
            assert!(said.stdout == upload, "{way}: {}", complaint(&said));
        }
    }
    // The proxy looks names up where curl leaves that to it.
    for (folder, lines) in [
        (
            &proxies.socks_folder,
            [
                format!("SOCKS5 127.0.0.1:{port} - 200"),
                format!("SOCKS5 localhost:{port} - 200"),
                format!("SOCKS5 127.0.0.1:{port} alice 200"),
                format!("SOCKS5 localhost:{port} alice 200"),
            ],
        ),
        (
            &proxies.http_folder,
            [
                format!("GET {url} - 200"),
                format!("CONNECT localhost:{port} - 200"),
                format!("GET {url} alice 200"),
                format!("CONNECT localhost:{port} alice 200"),
            ],
        ),
    ] {
        eventually("all is logged", || {
            let log = folder.read("access.log");
            lines
                .iter()
                .all(|line| log.lines().any(|other| other == line))
        });
    }
}

#[test]
fn curl_gets_nothing_without_the_right_password() {
    if installed("curl").is_none() {
        return;
    }
    let (origin, proxies) = (Origin::start(|_, _| ok("page")), Proxies::start());
    let url = format!("http://localhost:{}/", origin.addr.port());
    for user in ["", "alice:Secret@", "bob:secret@"] {
        for way in proxies.ways(1, user) {
            let said = curl(&way, &[], &url);
            assert!(
                !said.status.success() && said.stdout.is_empty(),
                "{way}: {said:?}"
            );
        }
    }
    assert_eq!(origin.accepted(), 0);
    let said = curl(&proxies.ways(1, "alice:secret@")[0], &[], &url);
    assert_eq!(said.stdout, b"page", "{said:?}");
}

#[test]
fn curl_is_told_that_the_policy_refuses_a_target() {
    if installed("curl").is_none() {
        return;
    }
    let proxies = Proxies::start();
    for way in proxies.ways(0, "") {
        let said = curl(&way, &[], "http://169.254.169.254/latest/meta-data/");
        let told = if way.starts_with("--socks5") {
            "(2)"
        } else {
            "403"
        };
        assert!(complaint(&said).contains(told), "{way}: {said:?}");
        assert!(said.stdout.is_empty(), "{way}: {said:?}");
    }
}

#[test]
fn curl_speaks_tls_with_the_proxy_and_with_the_target() {
    if installed("curl").is_none() {
        return;
    }
    let (origin, folder, far_folder) = (
        Origin::start(|_, _| ok("page")),
        Folder::new(),
        Folder::new(),
    );
    let issue = |folder: &Folder| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
        folder.write("site.pem", made.cert.pem());
        folder.write("site.key", made.signing_key.serialize_pem());
        folder.path("site.pem").display().to_string()
    };
    let listener = "[[listen]]\non = \"tcp://127.0.0.1:0\"\ntls = { cert = \"site.pem\", key = \"site.key\" }\n";
    let (certificate, far_certificate) = (issue(&folder), issue(&far_folder));
    far_folder.write(
        "gateway.toml",
        format!(
            "{listener}[[route]]\npool = \"a\"\n[pool.a]\nnodes = [\"{}\"]\n",
            origin.url()
        ),
    );
    folder.write("users.txt", USERS);
    folder.write(
        "gateway.toml",
        format!(
            "{listener}kind = \"forward\"\nusers = \"users.txt\"\negress = {{ allow = [\"127.0.0.0/8:*\", \"localhost:*\"] }}\n"
        ),
    );
    let (proxy, target) = (Program::start(&folder, 1), Program::start(&far_folder, 1));
    let url = |addr: std::net::SocketAddr| format!("https://localhost:{}", addr.port());
    let way = format!(
        "--proxy {} --proxy-user alice:secret --proxy-cacert {certificate} --cacert {far_certificate}",
        url(proxy.addrs[0])
    );
    let said = curl(&way, &[], &url(target.addrs[0]));
    assert_eq!(said.stdout, b"page", "{said:?}");
    let said = curl(&way, &[], &origin.url());
    assert_eq!(said.stdout, b"page", "{said:?}");
}

#[test]
fn ssh_reaches_its_server_through_netcat_and_the_proxies() {
    let (Some(ssh), Some(mut sshd), Some(mut keygen), Some(mut netcat)) = (
        installed("ssh"),
        installed("sshd"),
        installed("ssh-keygen"),
        installed("nc"),
    ) else {
        return;
    };
    let help = netcat.arg("-h").output().expect("runs");
    if !complaint(&help).contains("OpenBSD") {
        return skipped("nc is not OpenBSD's: apt-get install netcat-openbsd");
    }
    let (folder, proxies, addr) = (Folder::new(), Proxies::start(), free());
    let file = |name: &str| folder.path(name).display().to_string();
    // Both sides have the same key.
    let made = keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &file("key")])
        .output();
    assert!(made.expect("runs").status.success());
    folder.write(
        "sshd_config",
        format!(
            "ListenAddress {addr}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            file("key"),
            file("key.pub")
        ),
    );
    sshd.args(["-D", "-e", "-f", &file("sshd_config")]);
    let server = sshd
        .stderr(File::create(file("log")).expect("is made"))
        .spawn();
    let mut server = Stranger(server.expect("starts"));
    eventually("sshd listens, or says why not", || {
        folder.read("log").contains("Server listening")
            || server.0.try_wait().expect("is a child").is_some()
    });
    if folder
        .read("log")
        .contains("privilege separation directory")
    {
        return skipped("sshd lacks a directory: mkdir /run/sshd");
    }
    let sent = noise(3, MIB);
    folder.write("sent", &sent);
    for (protocol, proxy) in [("5", &proxies.socks), ("connect", &proxies.http)] {
        let through = format!("ProxyCommand=nc -X {protocol} -x {} %h %p", proxy.addrs[0]);
        let said = Command::new(ssh.get_program())
            .args([
                "-F",
                "none",
                "-i",
                &file("key"),
                "-p",
                &addr.port().to_string(),
            ])
            .args([
                "-o",
                &through,
                "-o",
                "BatchMode=yes",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"])
            .args([
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "ConnectTimeout=30",
            ])
            .args(["localhost", "cat"])
            .stdin(File::open(file("sent")).expect("is there"))
            .output()
            .expect("runs");
        let (log, complaint) = (folder.read("log"), complaint(&said));
        assert!(said.stdout == sent, "{protocol}: {complaint}\n{log}");
    }
}

#[test]
fn pysocks_reaches_targets_by_connections_and_by_datagrams() {
    let (Some(mut python), target, echo, folder) = (
        python_socks(),
        Target::start(),
        Echo::start("udp"),
        Folder::new(),
    ) else {
        return;
    };
    folder.write("users.txt", USERS);
    folder.write(
        "gateway.toml",
        "[[listen]]\non = \"tcp://127.0.0.1:0\"\nkind = \"socks5\"\nudp = true\nusers = \"users.txt\"\n\
         egress = { allow = [\"127.0.0.0/8:*\", \"localhost:*\"] }\n",
    );
    let program = Program::start(&folder, 1);
    let script = r#"
import socket, socks, sys
port, tcp, udp = map(int, sys.argv[1:])
def made(kind, password="secret"):
    made = socks.socksocket(socket.AF_INET, kind)
    made.set_proxy(socks.SOCKS5, "127.0.0.1", port, True, "alice", password)
    made.settimeout(30)
    return made
for host in ["127.0.0.1", "localhost"]:
    stream = made(socket.SOCK_STREAM)
    stream.connect((host, tcp))
    stream.sendall(b"ping")
    print(stream.recv(4))
    datagrams = made(socket.SOCK_DGRAM)
    for n in range(3):
        datagrams.sendto(b"%d" % n, (host, udp))
        print(*datagrams.recvfrom(100))
    datagrams.close()
try:
    made(socket.SOCK_STREAM, "wrong").connect(("127.0.0.1", tcp))
except socks.ProxyError:
    print("refused")
"#;
    let ports = [
        program.addrs[0].port(),
        target.addr.port(),
        echo.addr.port(),
    ];
    let said = python
        .args(["-c", script])
        .args(ports.map(|port| port.to_string()))
        .output()
        .expect("runs");
    let from = format!("('127.0.0.1', {})", echo.addr.port());
    let each = format!("b'ping'\nb'udp:0' {from}\nb'udp:1' {from}\nb'udp:2' {from}\n");
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        format!("{each}{each}refused\n"),
        "{said:?}"
    );
}
