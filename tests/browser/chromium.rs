//! Drives Chromium from a test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::util::client::TempPath;
use crate::util::{LONG, eventually, skipped};

/// A browser without a window, driven by the Chrome DevTools Protocol: JSON, each message with a NUL behind it.
pub(crate) struct Browser {
    process: Process,
    _profile: Profile,
    requests: ChildStdin,
    messages: Receiver<Value>,
    /// What the page has complained of.
    pub(crate) complaints: Vec<String>,
    session: Option<String>,
    asked: u64,
}

/// A directory that is removed at the end.
struct Profile(PathBuf);

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Browser {
    /// Starts it; says so when there is none.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts it with more options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let found = |name: &&str| {
            let version = Command::new(name).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let Some(program) = names.into_iter().find(found) else {
            skipped("chromium is not installed: apt-get install chromium");
            return None;
        };
        let profile = Profile(TempPath::new().0.with_extension("profile"));
        // The protocol is spoken over the descriptors 3 and 4.
        let mut process = Command::new("sh")
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 0</dev/null 1>&2",
                "sh",
                program,
            ])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--window-size=1280,960",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.0.display()))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It complains about what a container lacks.
            .stderr(Stdio::null())
            .spawn()
            .map(Process)
            .expect("starts");
        let (said, messages) = channel();
        let from = process.0.stdout.take().expect("is piped");
        thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).expect("is JSON");
                if said.send(message).is_err() {
                    return;
                }
            }
        });
        let mut this = Self {
            requests: process.0.stdin.take().expect("is piped"),
            process,
            _profile: profile,
            messages,
            complaints: Vec::new(),
            session: None,
            asked: 0,
        };
        let target = this.ask("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = this.ask("Target.attachToTarget", target);
        this.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Page"] {
            this.ask(&format!("{domain}.enable"), json!({}));
        }
        Some(this)
    }

    /// Asks the browser for something; gives its answer.
    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let mut request = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.requests.write_all(&bytes).expect("is taken");
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self
                .messages
                .recv_timeout(left)
                .expect("the browser answers");
            if message["id"] == self.asked {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.listen(&message);
        }
    }

    /// Notes what is wrong with the page.
    fn listen(&mut self, event: &Value) {
        let params = &event["params"];
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                matches!(
                    params["type"].as_str(),
                    Some("error" | "warning" | "assert")
                )
            }
            Some("Log.entryAdded") => {
                matches!(params["entry"]["level"].as_str(), Some("error" | "warning"))
            }
            _ => false,
        };
        if is_complaint {
            self.complaints.push(params.to_string());
        }
    }

    /// Goes to a page.
    pub(crate) fn visit(&mut self, url: &str) {
        self.ask("Page.navigate", json!({"url": url}));
        eventually("the page is loaded", || {
            let loaded = format!("document.readyState == 'complete' && location.href == {url:?}");
            self.evaluate(&loaded) == true
        });
    }

    /// What an expression comes to on the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let result = self.ask("Runtime.evaluate", params);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// The text of an element.
    pub(crate) fn text(&mut self, id: &str) -> String {
        let text = self.evaluate(&format!("document.getElementById({id:?}).textContent"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The number that an element shows, without the spaces between thousands.
    pub(crate) fn number(&mut self, id: &str) -> Option<f64> {
        let text = self.text(id).replace('\u{202f}', "");
        text.parse().ok()
    }

    /// Takes a picture of the page.
    pub(crate) fn picture(&mut self, name: &str) -> PathBuf {
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.ask("Page.captureScreenshot", params);
        let data = picture["data"].as_str().expect("a picture");
        let data = base64::engine::general_purpose::STANDARD.decode(data);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, data.expect("is base64")).expect("is written");
        path
    }
}

impl Drop for Browser {
    /// Lets it end in its own way, which leaves neither processes nor files behind.
    fn drop(&mut self) {
        let _ = self
            .requests
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.process.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process that is killed when the test ends.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
