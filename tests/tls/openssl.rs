//! `openssl s_client` and `s_server` as the other end.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use epicycle::{Connect, Running};

use crate::client::{News, call};
use crate::pki::{TRUSTED, client_tls, local, server_tls};
use crate::util::app::{App, start};
use crate::util::client::TempPath;
use crate::util::{eventually, skipped};

/// A running `openssl`.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    fn to(server: &Running<App>, flags: &[&str]) -> Self {
        let addr = server.local_addrs()[0].to_string();
        Self::run(&[&["s_client", "-connect", &addr], flags].concat())
    }

    fn run(arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl runs");
        let said = Arc::<Mutex<String>>::default();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("is piped")),
            Box::new(child.stderr.take().expect("is piped")),
        ];
        let read = |mut output: Box<dyn Read + Send>| {
            let said = said.clone();
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(n @ 1..) = output.read(&mut chunk) {
                    let text = String::from_utf8_lossy(&chunk[..n]);
                    said.lock().expect("no panics").push_str(&text);
                }
            })
        };
        Self {
            readers: outputs.map(read).into(),
            input: child.stdin.take(),
            child,
            said,
        }
    }

    fn say(&mut self, text: &str) {
        let input = self.input.as_mut().expect("has not ended");
        input.write_all(text.as_bytes()).expect("it listens");
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panics").clone()
    }

    fn hear(&self, text: &str) {
        let wait = || self.said().contains(text);
        eventually(&format!("openssl says {text:?}"), wait);
    }

    /// Sends a line and waits for its echo.
    fn round_trip(&mut self, line: &str) {
        self.say(&format!("{line}\n"));
        self.hear(line);
    }

    /// Ends the input; all that it has said, once it has ended well.
    fn end(mut self) -> String {
        self.input = None;
        eventually("openssl ends", || {
            self.child.try_wait().expect("is a child").is_some()
        });
        let status = self.child.wait().expect("is a child");
        for reader in self.readers.drain(..) {
            reader.join().expect("no panics");
        }
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }
}

/// Whether the program is there; says loudly when not.
fn have_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output();
    let there = found.is_ok_and(|output| output.status.success());
    if !there {
        skipped("openssl is not installed, so nothing was tested against it");
    }
    there
}

fn ca_file() -> TempPath {
    let path = TempPath::new();
    std::fs::write(&path.0, TRUSTED.pem()).expect("is written");
    path
}

#[test]
fn both_versions_echo_and_verify() {
    if !have_openssl() {
        return;
    }
    let ca = ca_file();
    let ca = ca.0.to_str().expect("is text");
    let tls = server_tls().alpn(&["h2", "http/1.1"]);
    let (running, log) = start(local(&tls), |app| app);
    for (n, version) in ["TLSv1.2", "TLSv1.3"].into_iter().enumerate() {
        let flag = format!(
            "-{}",
            version
                .to_lowercase()
                .replace("tlsv", "tls")
                .replace('.', "_")
        );
        let mut session = Session::to(
            &running,
            &[
                &flag,
                "-CAfile",
                ca,
                "-verify_return_error",
                "-verify_hostname",
                "localhost",
                "-servername",
                "localhost",
                "-alpn",
                "http/1.1,h2",
            ],
        );
        session.hear("Verification: OK");
        session.round_trip("a line to be echoed");
        let said = session.end();
        assert!(said.contains("ALPN protocol: h2"), "{said}");
        assert!(said.contains(&format!("New, {version}")), "{said}");
        // It ends with close_notify.
        let (_, reason) = log.await_close(n);
        assert!(matches!(*reason, epicycle::CloseReason::Peer), "{reason}");
    }
}

#[test]
fn the_certificate_follows_the_name() {
    if !have_openssl() {
        return;
    }
    let tls = server_tls().identity(TRUSTED.issue(&["other.test"]).identity());
    let (running, _) = start(local(&tls), |app| app);
    for (name, subject) in [
        ("other.test", "other.test"),
        ("localhost", "localhost"),
        ("unknown.test", "localhost"),
    ] {
        let mut session = Session::to(&running, &["-servername", name]);
        session.round_trip("a line");
        let said = session.end();
        assert!(said.contains(&format!("CN = {subject}")), "{name}: {said}");
    }
}

#[test]
fn sessions_are_resumed() {
    if !have_openssl() {
        return;
    }
    let (running, _) = start(local(&server_tls()), |app| app);
    for version in ["-tls1_2", "-tls1_3"] {
        let file = TempPath::new();
        let path = file.0.to_str().expect("is text");
        let mut session = Session::to(&running, &[version, "-sess_out", path]);
        session.round_trip("something new");
        let said = session.end();
        assert!(said.contains("New, "), "{version}: {said}");
        let mut session = Session::to(&running, &[version, "-sess_in", path]);
        session.round_trip("something more");
        let said = session.end();
        assert!(said.contains("Reused, "), "{version}: {said}");
    }
}

#[test]
fn keys_are_updated() {
    if !have_openssl() {
        return;
    }
    let (running, _) = start(local(&server_tls()), |app| app);
    let mut session = Session::to(&running, &["-tls1_3"]);
    session.round_trip("with the old keys");
    // With and without asking for the same from the server.
    for (n, command) in ["K\n", "k\n", "K\n"].into_iter().enumerate() {
        session.say(command);
        let done = || session.said().matches("KEYUPDATE").count() == n + 1;
        eventually("the command is carried out", done);
        session.round_trip(&format!("with new keys {n}"));
    }
    session.end();
}

#[test]
fn a_client_certificate_is_shown() {
    if !have_openssl() {
        return;
    }
    let tls = server_tls()
        .require_client_certificate(&TRUSTED.roots())
        .expect("is set up");
    let (running, log) = start(local(&tls), |app| app);
    let issued = TRUSTED.issue(&["client.test"]);
    let (certificate, key) = (TempPath::new(), TempPath::new());
    std::fs::write(&certificate.0, &issued.certificate).expect("is written");
    std::fs::write(&key.0, &issued.key).expect("is written");
    for version in ["-tls1_2", "-tls1_3"] {
        let mut session = Session::to(
            &running,
            &[
                version,
                "-cert",
                certificate.0.to_str().expect("is text"),
                "-key",
                key.0.to_str().expect("is text"),
            ],
        );
        session.round_trip("a friend");
        session.end();
        let stranger = Session::to(&running, &[version]);
        // Its name differs between versions; the number is 116 for both but the oldest.
        stranger.hear("alert");
    }
    assert_eq!(log.opened(), 2);
}

#[test]
fn the_engine_talks_to_a_server_of_openssls() {
    if !have_openssl() {
        return;
    }
    let write = |text: String| {
        let path = TempPath::new();
        std::fs::write(&path.0, text).expect("is written");
        path
    };
    let issued = TRUSTED.issue(&["127.0.0.1"]);
    let (certificate, key) = (write(issued.certificate), write(issued.key));
    let ca = ca_file();
    for (version, shown) in [("-tls1_2", "V1_2"), ("-tls1_3", "V1_3")] {
        // It sends back each line in reverse.
        let server = Session::run(&[
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-rev",
            "-cert",
            certificate.0.to_str().expect("is text"),
            "-key",
            key.0.to_str().expect("is text"),
            "-CAfile",
            ca.0.to_str().expect("is text"),
            "-verify_return_error",
            "-Verify",
            "1",
            version,
        ]);
        server.hear("ACCEPT 127.0.0.1:");
        let said = server.said();
        let port = said.split("ACCEPT 127.0.0.1:").nth(1).expect("is there");
        let port = port.lines().next().expect("is there").trim();
        let tls = client_tls().identity(TRUSTED.issue(&["client.test"]).identity());
        let connect = Connect::to(format!("tcp://127.0.0.1:{port}")).tls(&tls);
        let news = call(connect, b"racecar\n".to_vec());
        let [News::Open(info), News::Echoed(8), News::Closed(_)] = &news[..] else {
            panic!("{news:?}; {}", server.said());
        };
        assert!(info.contains(shown), "{info}");
        server.hear("CN = client.test");
    }
}
