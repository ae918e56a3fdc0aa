//! The event bus on RabbitMQ.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::{RabbitMq, RabbitMqBuilder};
use epicycle::cluster::eventbus::{EventBus, Message, RabbitMqEventBus};
use epicycle::tls::{Roots, TlsClient};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::bus::{next, payloads};
use crate::process::free_port;
use crate::util::client::TempPath;
use crate::util::{eventually, skipped};

const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A server with a folder of its own. It consists of several processes.
struct Server {
    port: u16,
    tls_port: u16,
    epmd_port: u16,
    folder: TempPath,
    process: Child,
}

impl Server {
    fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            skipped(&format!("there is no {PROGRAM}"));
            return None;
        }
        let folder = TempPath::new();
        fs::create_dir(&folder.0).expect("is made");
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certificate = certificate.expect("is made");
        let at = |name: &str| folder.0.join(name);
        fs::write(at("cert.pem"), certificate.cert.pem()).expect("writes");
        fs::write(at("key.pem"), certificate.signing_key.serialize_pem()).expect("writes");
        let (port, tls_port, epmd_port) = (free_port(), free_port(), free_port());
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls_port}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
            at("cert.pem").display(),
            at("key.pem").display()
        );
        fs::write(at("rabbitmq.conf"), config).expect("writes");
        let process = spawn(&folder, port, epmd_port);
        let server = Self {
            port,
            tls_port,
            epmd_port,
            folder,
            process,
        };
        server.await_answer();
        Some(server)
    }

    fn builder(&self) -> RabbitMqBuilder {
        let builder = RabbitMq::builder().server(format!("127.0.0.1:{}", self.port));
        builder.timeout(Duration::from_secs(10))
    }

    fn open(&self) -> RabbitMq {
        self.builder().build().expect("is complete")
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.process), signal).expect("is ours");
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait().expect("has ended");
    }

    fn restart(&mut self) {
        self.process = spawn(&self.folder, self.port, self.epmd_port);
        self.await_answer();
    }

    /// It listens before it serves.
    fn await_answer(&self) {
        let rabbitmq = self.builder().build().expect("is complete");
        let bus = RabbitMqEventBus::new(&rabbitmq);
        eventually("it serves", || bus.publish("start", "").is_ok());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
        // It ends only after it has noticed that the server is gone.
        let has_ended = || {
            let mut end = Command::new("epmd");
            end.args(["-port", &self.epmd_port.to_string(), "-kill"]);
            let ended = end.stdout(Stdio::null()).stderr(Stdio::null()).status();
            ended.is_ok_and(|status| status.success())
        };
        let mut attempts = 0..100;
        while !has_ended() && attempts.next().is_some() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&self.folder.0);
    }
}

fn spawn(folder: &TempPath, port: u16, epmd_port: u16) -> Child {
    let at = |name: &str| folder.0.join(name);
    Command::new(PROGRAM)
        .process_group(0)
        .env("HOME", &folder.0)
        .env("RABBITMQ_NODENAME", format!("epicycle{port}@localhost"))
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// One server for all of it, since it takes ten seconds to start.
#[test]
fn messages_come_in_order_and_those_of_a_group_are_kept() {
    let Some(server) = Server::start() else {
        return;
    };
    let rabbitmq = server.open();
    let (ours, theirs) = (
        RabbitMqEventBus::new(&rabbitmq),
        RabbitMqEventBus::new(&server.open()),
    );
    let (_one, one) = payloads(&ours, "login");
    let (_two, two) = payloads(&ours, "login");
    let (three_ends, three) = payloads(&theirs, "login");
    let (_other, other) = payloads(&theirs, "other");
    let long = "x".repeat(300_000);
    for n in 0..50 {
        theirs.publish("login", &n.to_string()).expect("publishes");
    }
    theirs.publish("login", &long).expect("publishes");
    for receiver in [&one, &two, &three] {
        for n in 0..50 {
            assert_eq!(next(receiver), n.to_string());
        }
        assert_eq!(next(receiver), long);
    }
    assert!(other.try_recv().is_err() && rabbitmq.stats().queue == 0);
    drop(three_ends);
    ours.publish("login", "more").expect("publishes");
    assert_eq!(next(&one), "more");
    assert!(three.recv_timeout(Duration::from_millis(200)).is_err());

    // A queue of two, and a handler that is slow: nothing is lost.
    let slow = RabbitMqEventBus::with(&server.open(), 2);
    let (sender, receiver) = mpsc::channel();
    let handler = move |message: &Message| {
        std::thread::sleep(Duration::from_millis(5));
        drop(sender.send(message.payload.clone()));
    };
    let _slow = slow
        .subscribe("slow", Box::new(handler))
        .expect("subscribes");
    for n in 0..40 {
        ours.publish("slow", &n.to_string()).expect("publishes");
    }
    for n in 0..40 {
        assert_eq!(next(&receiver), n.to_string());
    }

    // Messages that a subscription has not handled at its end hold nothing of the next one's share.
    let shared = RabbitMqEventBus::with(&server.open(), 2);
    let (_stays, stays) = payloads(&shared, "shared");
    for _ in 0..2 {
        let (hang, hung) = mpsc::channel::<()>();
        let handler = move |_: &Message| {
            let _ = hung.recv();
        };
        let ends = shared.subscribe("shared", Box::new(handler));
        for n in 0..2 {
            ours.publish("shared", &n.to_string()).expect("publishes");
        }
        assert_eq!([next(&stays), next(&stays)], ["0", "1"]);
        drop((ends.expect("subscribes"), hang));
    }
    ours.publish("shared", "more").expect("publishes");
    assert_eq!(next(&stays), "more");

    // Messages that were published while a group was away, or not handled when it went, come later.
    let group = || {
        let rabbitmq = server.builder().group("gate-1").build();
        RabbitMqEventBus::new(&rabbitmq.expect("is complete"))
    };
    let (hang, hung) = mpsc::channel::<()>();
    let (sender, begun) = mpsc::channel();
    let bus = group();
    let subscription = bus.subscribe(
        "kept",
        Box::new(move |message: &Message| {
            let _ = sender.send(message.payload.clone());
            let _ = hung.recv();
        }),
    );
    ours.publish("kept", "not handled").expect("publishes");
    assert_eq!(next(&begun), "not handled");
    drop((subscription.expect("subscribes"), bus));
    ours.publish("kept", "missed").expect("publishes");
    let bus = group();
    let (kept_ends, kept) = payloads(&bus, "kept");
    let mut found = [next(&kept), next(&kept)];
    found.sort();
    assert_eq!(found, ["missed", "not handled"]);
    drop((hang, kept_ends));

    let wrong = server.builder().user("guest", "parsley");
    assert!(!format!("{wrong:?}").contains("parsley"));
    let wrong = RabbitMqEventBus::new(&wrong.build().expect("is complete"));
    let error = wrong.publish("login", "7").expect_err("is wrong");
    assert!(error.to_string().contains("403"), "{error}");
    let error = wrong
        .subscribe("login", Box::new(|_| {}))
        .expect_err("is wrong");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let error = ours
        .publish(&"x".repeat(256), "7")
        .expect_err("is too long");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");

    let roots = Roots::from_pem_file(server.folder.0.join("cert.pem")).expect("is one");
    let tls = TlsClient::new(&roots).expect("is complete");
    let secure = RabbitMq::builder().server(format!("localhost:{}", server.tls_port));
    let secure = secure.timeout(Duration::from_secs(10)).tls(&tls).build();
    let secure = RabbitMqEventBus::new(&secure.expect("is complete"));
    let (_secure, receiver) = payloads(&secure, "secure");
    secure.publish("secure", &long).expect("publishes");
    assert_eq!(next(&receiver), long);
}

#[test]
fn a_server_that_is_lost_is_found_again() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let rabbitmq = server.builder().timeout(Duration::from_secs(2)).build();
    let rabbitmq = rabbitmq.expect("is complete");
    let bus = RabbitMqEventBus::new(&rabbitmq);
    let (_subscription, receiver) = payloads(&bus, "login");
    eventually("it is published", || bus.publish("login", "before").is_ok());
    assert_eq!(next(&receiver), "before");
    // One that only has subscriptions knows what they notice.
    let listening = server.open();
    let _listens = payloads(&RabbitMqEventBus::new(&listening), "other");
    eventually("it is up", || listening.stats().is_up);

    server.kill();
    eventually("it is down", || !listening.stats().is_up);
    eventually("it is lost", || bus.publish("login", "lost").is_err());
    assert!(!rabbitmq.stats().is_up);
    eventually("a second subscriber is told so", || {
        bus.subscribe("login", Box::new(|_| {})).is_err()
    });
    server.restart();
    let found = || {
        let _ = bus.publish("login", "after");
        receiver
            .recv_timeout(Duration::from_millis(100))
            .is_ok_and(|found| found == "after")
    };
    eventually("the subscription goes on", found);
    assert!(rabbitmq.stats().is_up);
    eventually("it is up again", || listening.stats().is_up);
    let since = || listening.stats().last_ok.expect("has answered");
    let short = Duration::from_millis(500);
    eventually("nothing comes", || since() > short);
    eventually("a heartbeat is a sign of life", || since() < short);

    // Longer than the time after which a silent server is lost.
    server.signal(Signal::STOP);
    eventually("it is lost", || bus.publish("login", "lost").is_err());
    std::thread::sleep(Duration::from_secs(12));
    server.signal(Signal::CONT);
    eventually("the subscription goes on", || {
        let _ = bus.publish("login", "again");
        receiver
            .recv_timeout(Duration::from_millis(100))
            .is_ok_and(|found| found == "again")
    });
}

#[test]
fn a_server_that_is_not_there_fails_calls() {
    let nobody = RabbitMq::open(&format!("127.0.0.1:{}", free_port())).expect("is an address");
    let bus = RabbitMqEventBus::new(&nobody);
    let error = bus.publish("login", "7").expect_err("is not there");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(bus.subscribe("login", Box::new(|_| {})).is_err());
    assert!(!nobody.stats().is_up);
    for builder in [
        RabbitMq::builder(),
        RabbitMq::builder().server(""),
        RabbitMq::builder().server("h").vhost("x".repeat(256)),
    ] {
        let error = builder.build().expect_err("is wrong");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}
