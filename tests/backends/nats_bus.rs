use std::time::{Duration, Instant};

use epicycle::cluster::Error;
use epicycle::cluster::backends::Nats;
use epicycle::cluster::eventbus::{EventBus, NatsEventBus};
use epicycle::tls::{Roots, TlsClient};

use crate::bus::listen;
use crate::nats_server::Server;
use crate::process::free_port;
use crate::util::client::TempPath;
use crate::util::{LONG, eventually};
use crate::vectors::rows;

#[test]
fn messages_come_in_order_to_each_subscriber_of_their_topic() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (ours, theirs) = (
        NatsEventBus::new(&server.open()),
        NatsEventBus::new(&server.open()),
    );
    let (_first, one) = listen(&ours, "login");
    let (_second, two) = listen(&ours, "login");
    let (_other, other) = listen(&ours, "logout");
    for number in 0..1000 {
        theirs
            .publish("login", &number.to_string())
            .expect("publishes");
    }
    theirs.publish("logout", "end").expect("publishes");
    for number in 0..1000 {
        for receiver in [&one, &two] {
            let message = receiver.recv_timeout(LONG).expect("comes");
            assert_eq!(message.parse::<u64>().expect("is a number"), number);
            assert_eq!(message.topic, "login");
        }
    }
    assert_eq!(other.recv_timeout(LONG).expect("comes").payload, "end");
    assert!(other.try_recv().is_err());
    assert_eq!(ours.stats().delivered, 2001);
    assert_eq!(theirs.stats().published, 1001);
}

#[test]
fn messages_of_due_are_read_and_ours_have_its_form() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = NatsEventBus::new(&server.open());
    let (_subscription, messages) = listen(&bus, "login");
    let mut stranger = server.stranger();
    let recorded = rows("eventbus_nats");
    let said = recorded
        .iter()
        .filter(|row| row.dir == "c>s")
        .map(|row| serde_json::from_str::<String>(&row.data).expect("is JSON"))
        .filter(|text| text.starts_with("PUB "));
    let mut count = 0;
    for text in said {
        count += text.matches("PUB ").count();
        stranger.say(text.as_bytes());
    }
    if count == 0 {
        return;
    }
    let payloads: Vec<String> = (0..count)
        .map(|_| messages.recv_timeout(LONG).expect("comes").payload)
        .collect();
    assert_eq!(&payloads[..4], ["text", "42", "1.5", "true"]);

    stranger.say(b"SUB due:eventbus:login 1\r\n");
    stranger.settle();
    bus.publish("login", "text").expect("publishes");
    let (subject, payload) = stranger.message();
    assert_eq!(subject, "due:eventbus:login");
    let json: serde_json::Value = serde_json::from_slice(&payload).expect("is JSON");
    let mut keys: Vec<_> = json.as_object().expect("is an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["id", "payload", "timestamp", "topic"]);
}

#[test]
fn what_is_no_message_costs_nothing_but_itself() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = NatsEventBus::new(&server.open());
    let (_subscription, messages) = listen(&bus, "login");
    let mut stranger = server.stranger();
    for garbage in ["", "no JSON", "{}", "\r\n\r\nMSG x 1 1\r\n"] {
        stranger.publish("due:eventbus:login", garbage.as_bytes());
    }
    stranger.settle();
    bus.publish("login", "after").expect("publishes");
    let message = messages.recv_timeout(LONG).expect("comes");
    assert_eq!(message.payload, "after");
}

#[test]
fn a_subscription_that_is_dropped_is_ended_at_the_server() {
    let monitor = free_port().to_string();
    let Some(server) = Server::start(&["-m", &monitor]) else {
        return;
    };
    let bus = NatsEventBus::new(&server.open());
    let subscribed = || {
        let url = format!("http://127.0.0.1:{monitor}/connz?subs=1");
        let answer = epicycle::fetch::get(url).expect("answers");
        String::from_utf8_lossy(answer.body()).contains("due:eventbus:login")
    };
    let (first, _one) = listen(&bus, "login");
    let (second, two) = listen(&bus, "login");
    assert!(subscribed());
    drop(first);
    bus.publish("login", "still").expect("publishes");
    assert_eq!(two.recv_timeout(LONG).expect("comes").payload, "still");
    drop(second);
    eventually("nobody subscribes", || !subscribed());
    let (_third, three) = listen(&bus, "login");
    bus.publish("login", "again").expect("publishes");
    assert_eq!(three.recv_timeout(LONG).expect("comes").payload, "again");
}

#[test]
fn subscriptions_are_made_again_when_the_server_was_lost() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let nats = server.open();
    let bus = NatsEventBus::new(&nats);
    let (_subscription, messages) = listen(&bus, "login");
    assert!(nats.stats().is_up);
    server.kill();
    eventually("the loss is noticed", || !nats.stats().is_up);
    let error = bus.publish("login", "lost").expect_err("is lost");
    assert!(
        matches!(
            error,
            Error::Backend {
                backend: "nats",
                ..
            }
        ),
        "{error}"
    );
    server.restart();
    eventually("messages come again", || {
        let _ = bus.publish("login", "found");
        let message = messages.recv_timeout(Duration::from_millis(50));
        message.is_ok_and(|message| message.payload == "found")
    });
    assert!(nats.stats().is_up);
}

#[test]
fn a_server_that_is_not_there_fails_calls_and_is_found_when_it_comes() {
    let port = free_port();
    let nats = Nats::open(&format!("nats://127.0.0.1:{port}")).expect("is a URL");
    let bus = NatsEventBus::new(&nats);
    for _ in 0..3 {
        let error = bus
            .subscribe("login", Box::new(|_| {}))
            .expect_err("is not there");
        assert!(matches!(error, Error::Backend { .. }), "{error}");
        assert!(bus.publish("login", "lost").is_err());
    }
    assert_eq!(bus.stats().subscriptions, 0);
    let Some(_server) = Server::start_at(port, &[]) else {
        return;
    };
    eventually("it is found", || bus.publish("login", "found").is_ok());
    let (_subscription, messages) = listen(&bus, "login");
    bus.publish("login", "now").expect("publishes");
    assert_eq!(messages.recv_timeout(LONG).expect("comes").payload, "now");
}

#[test]
fn a_server_that_hangs_is_told_from_one_that_is_quiet() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let nats = server.open();
    let bus = NatsEventBus::new(&nats);
    bus.publish("login", "first").expect("publishes");
    server.pause();
    // What waits is bounded.
    let payload = "x".repeat(256 << 10);
    let mut published = 0;
    let error = loop {
        match bus.publish("login", &payload) {
            Ok(()) => published += 1,
            Err(error) => break error,
        }
        assert!(published < 1000, "there is no bound");
    };
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let began = Instant::now();
    eventually("the loss is noticed", || !nats.stats().is_up);
    assert!(began.elapsed() < Duration::from_secs(30));
    server.resume();
    eventually("it is found again", || {
        bus.publish("login", "again").is_ok()
    });
    eventually("nothing waits", || nats.stats().queue == 0);
}

#[test]
fn passwords_and_tokens_are_checked_and_not_shown() {
    let Some(server) = Server::start(&["--user", "game", "--pass", "right"]) else {
        return;
    };
    let wrong = Nats::open(&format!("nats://game:s3cret@127.0.0.1:{}", server.port));
    let bus = NatsEventBus::new(&wrong.expect("is a URL"));
    let error = bus.publish("login", "text").expect_err("is wrong");
    assert!(error.to_string().contains("Authorization"), "{error}");
    assert!(!format!("{error:?} {bus:?}").contains("s3cret"));
    let right = Nats::builder()
        .url(server.url())
        .user("game", "right")
        .build();
    let bus = NatsEventBus::new(&right.expect("is complete"));
    bus.publish("login", "text").expect("publishes");

    let Some(server) = Server::start(&["--auth", "a-token"]) else {
        return;
    };
    let nats = Nats::builder().url(server.url()).token("a-token").build();
    let bus = NatsEventBus::new(&nats.expect("is complete"));
    bus.publish("login", "text").expect("publishes");
}

#[test]
fn a_subscription_that_the_server_forbids_is_refused() {
    let config = TempPath::new();
    std::fs::write(
        &config.0,
        "authorization { users = [ { user: game, password: right, permissions: { \
           publish: \">\", subscribe: { deny: \"due:eventbus:secret\" } } } ] }",
    )
    .expect("writes");
    let Some(server) = Server::start(&["-c", &config.0.to_string_lossy()]) else {
        return;
    };
    let nats = Nats::builder()
        .url(server.url())
        .user("game", "right")
        .build();
    let bus = NatsEventBus::new(&nats.expect("is complete"));
    let error = bus
        .subscribe("secret", Box::new(|_| {}))
        .expect_err("is forbidden");
    assert!(error.to_string().contains("Permissions"), "{error}");
    let (_subscription, messages) = listen(&bus, "login");
    bus.publish("login", "open").expect("publishes");
    assert_eq!(messages.recv_timeout(LONG).expect("comes").payload, "open");
    assert_eq!(bus.stats().subscriptions, 1);
}

#[test]
fn tls_takes_certificates_of_the_authority_that_was_named() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let certificate = certificate.expect("is made");
    let (cert, key) = (TempPath::new(), TempPath::new());
    std::fs::write(&cert.0, certificate.cert.pem()).expect("writes");
    std::fs::write(&key.0, certificate.signing_key.serialize_pem()).expect("writes");
    let (cert_path, key_path) = (cert.0.to_string_lossy(), key.0.to_string_lossy());
    let args = ["--tls", "--tlscert", &*cert_path, "--tlskey", &*key_path];
    let Some(server) = Server::start(&args) else {
        return;
    };
    let roots = Roots::from_pem(certificate.cert.pem().as_bytes()).expect("is PEM");
    let tls = TlsClient::new(&roots).expect("is complete");
    let url = format!("tls://localhost:{}", server.port);
    let trusting = Nats::builder().url(&url).tls(&tls).build();
    let bus = NatsEventBus::new(&trusting.expect("is complete"));
    let (_subscription, messages) = listen(&bus, "login");
    bus.publish("login", "secret").expect("publishes");
    assert_eq!(
        messages.recv_timeout(LONG).expect("comes").payload,
        "secret"
    );
    let doubting = NatsEventBus::new(&Nats::open(&url).expect("is a URL"));
    let error = doubting
        .publish("login", "text")
        .expect_err("is not trusted");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
}

#[test]
fn a_server_without_tls_is_refused_by_those_who_require_it() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let nats = Nats::open(&format!("tls://127.0.0.1:{}", server.port)).expect("is a URL");
    let error = NatsEventBus::new(&nats)
        .publish("login", "text")
        .expect_err("has no TLS");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
}

#[test]
fn the_next_server_is_dialled_if_one_is_not_there() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let nats = Nats::builder()
        .url(format!("nats://127.0.0.1:{}", free_port()))
        .url(server.url())
        .build()
        .expect("is complete");
    let bus = NatsEventBus::new(&nats);
    eventually("it is found", || bus.publish("login", "text").is_ok());
}

#[test]
fn topics_that_are_no_subjects_and_urls_that_are_none_are_refused() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = NatsEventBus::new(&server.open());
    for topic in [
        "",
        "a b",
        "a\r\nPUB x 1\r\n",
        "a.*",
        ">",
        "tab\t",
        "a..b",
        "a.",
    ] {
        let error = bus.publish(topic, "text").expect_err("is no subject");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(bus.subscribe(topic, Box::new(|_| {})).is_err());
    }
    for url in [
        "",
        "http://127.0.0.1",
        "nats://",
        "nats://:4222",
        "nats://u:s3cret@",
    ] {
        let error = Nats::open(url).expect_err("is none");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn a_message_that_the_server_would_not_take_is_refused() {
    let config = TempPath::new();
    std::fs::write(&config.0, "max_payload: 1024").expect("writes");
    let Some(server) = Server::start(&["-c", &config.0.to_string_lossy()]) else {
        return;
    };
    let bus = NatsEventBus::new(&server.open());
    let error = bus
        .publish("login", &"x".repeat(2000))
        .expect_err("is too long");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    bus.publish("login", "short").expect("publishes");
}
