//! Options from a file.

use std::time::Duration;

use epicycle::rpc::{Config, Network, Peer, Responder, Router, code};
use proptest::prelude::*;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::ends::{dial, start};

fn read(json: &str) -> Result<Config, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// Reads and writes a duration.
fn rewritten(text: &str) -> Result<String, String> {
    let config = read(&serde_json::json!({ "default_session_age": text }).to_string())?;
    let json = serde_json::to_value(config).expect("can be written");
    Ok(json["default_session_age"]
        .as_str()
        .expect("is a text")
        .to_owned())
}

#[test]
fn a_file_has_the_keys_of_teleport_in_any_format() {
    let toml = r#"
        network = "tcp4"
        local_ip = "127.0.0.1"
        listen_port = 9090
        default_dial_timeout = "1.5s"
        redial_times = -1
        default_body_codec = "protobuf"
        default_session_age = "1h"
        default_context_age = "1m30s"
        slow_comet_duration = "10µs"
        print_detail = true
        count_time = true
        message_size_limit = 65536
        keepalive = true
        keepalive_period = "30s"
        nodelay = false
        read_buffer = 4096
        write_buffer = 8192
    "#;
    let config: Config = toml::from_str(toml).expect("is read");
    assert_eq!(config.network, Network::Tcp4);
    assert_eq!((&*config.local_ip, config.listen_port), ("127.0.0.1", 9090));
    assert_eq!(config.default_dial_timeout, Duration::from_millis(1500));
    assert_eq!(config.redial_times, -1);
    assert_eq!(config.default_body_codec, "protobuf");
    assert_eq!(config.default_session_age, Duration::from_secs(3600));
    assert_eq!(config.default_context_age, Duration::from_secs(90));
    assert_eq!(config.slow_comet_duration, Duration::from_micros(10));
    assert!(config.print_detail && config.count_time && config.keepalive && !config.nodelay);
    assert_eq!(config.message_size_limit, 65_536);
    assert_eq!(config.keepalive_period, Duration::from_secs(30));
    assert_eq!((config.read_buffer, config.write_buffer), (4096, 8192));
    // Written and read again, also by a format that has nothing but texts.
    let written = toml::to_string(&config).expect("can be written");
    assert_eq!(toml::from_str(&written), Ok(config.clone()));
    let mut json = serde_json::to_value(&config).expect("can be written");
    let keys = json.as_object_mut().expect("has keys");
    assert_eq!(keys.len(), toml.trim().lines().count());
    for value in keys.values_mut().filter(|value| !value.is_string()) {
        *value = value.to_string().into();
    }
    assert_eq!(read(&json.to_string()), Ok(config));
    // A value that is missing or null has its default.
    assert_eq!(read("{}"), Ok(Config::default()));
    assert_eq!(
        read(r#"{"local_ip": null, "default_session_age": 0}"#),
        Ok(Config::default())
    );
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_what_is_allowed() {
    for (json, message) in [
        (
            r#"{"listn_port": 1}"#,
            "there is no key `listn_port`; the keys are network, local_ip, ",
        ),
        (
            r#"{"listen_port": 65536}"#,
            "`listen_port` is 65536; use a whole number from 0 to 65535",
        ),
        (
            r#"{"listen_port": 1.5}"#,
            "`listen_port` is 1.5; use a whole number",
        ),
        (
            r#"{"network": "udp"}"#,
            r#"`network` is "udp"; use tcp, tcp4, tcp6, unix or unixpacket"#,
        ),
        (
            r#"{"count_time": "yes"}"#,
            r#"`count_time` is "yes"; use true or false"#,
        ),
        (r#"{"local_ip": 127}"#, "`local_ip` is 127; use a text"),
        (
            r#"{"default_session_age": 30}"#,
            "`default_session_age` is 30; use a number with a unit",
        ),
        (
            r#"{"default_context_age": "30"}"#,
            r#"`default_context_age` is "30"; use a number with"#,
        ),
        (
            r#"{"nodelay": true, "nodelay": true}"#,
            "`nodelay`: it is given twice",
        ),
        (
            r#"{"nodelay": []}"#,
            "`nodelay`: invalid type: sequence, expected a text, a number, true",
        ),
        (
            r#"[]"#,
            "invalid type: sequence, expected the options of a peer by their keys",
        ),
    ] {
        let error = read(json).expect_err(json);
        assert!(error.starts_with(message), "{json}: {error}");
    }
    // The rest shows when the options are taken.
    for (json, message) in [
        (
            r#"{"default_body_codec": "thrift"}"#,
            r#"bad option default_body_codec: there is no codec "thrift"; use one of json, protobuf, plain, form"#,
        ),
        (
            r#"{"local_ip": "here"}"#,
            r#"bad option local_ip: "here" is no IP address"#,
        ),
        (
            r#"{"keepalive": true, "keepalive_period": "1.5s"}"#,
            "bad option keepalive_period: it is 1.5s; use whole seconds from 1s to 9h6m7s",
        ),
    ] {
        let config = read(json).expect(json);
        let error = Peer::builder().config(&config).expect_err(json).to_string();
        assert!(error.starts_with(message), "{json}: {error}");
    }
}

#[test]
fn an_error_of_a_file_in_toml_names_the_line() {
    for (line, message) in [
        ("listen_port = 65536", "`listen_port` is 65536; use a whole"),
        (
            "listn_port = 1",
            "there is no key `listn_port`; the keys are",
        ),
        ("nodelay = []", "`nodelay`: invalid type: sequence"),
        (
            "default_session_age = \"30\"",
            "`default_session_age` is \"30\"; use a number with a unit",
        ),
    ] {
        let file = format!("# a comment\nnetwork = \"tcp\"\n{line}\ncount_time = true\n");
        let error = toml::from_str::<Config>(&file).expect_err(line).to_string();
        assert!(error.contains("at line 3, column"), "{line}: {error}");
        assert!(error.contains(message), "{line}: {error}");
        assert_eq!(error.matches(" at line ").count(), 1, "{line}: {error}");
    }
}

#[test]
fn the_address_to_listen_on_is_made_of_its_parts() {
    for (json, endpoint) in [
        (r#"{"listen_port": 9090}"#, Some("tcp://:9090")),
        (
            r#"{"local_ip": "::1", "listen_port": 9090, "network": "tcp6"}"#,
            Some("tcp6://[::1]:9090"),
        ),
        (r#"{"local_ip": "127.0.0.1"}"#, None),
        (
            r#"{"network": "unix", "local_ip": "/run/a"}"#,
            Some("unix:///run/a"),
        ),
        (
            r#"{"network": "unixpacket", "local_ip": "/run/a", "listen_port": 1}"#,
            Some("unixpacket:///run/a:1"),
        ),
        (r#"{"network": "unix", "listen_port": 1}"#, None),
    ] {
        let config = read(json).expect(json);
        let made = config.endpoint().map(|endpoint| endpoint.to_string());
        assert_eq!(made.as_deref(), endpoint, "{json}");
    }
}

#[test]
fn the_options_of_a_file_are_those_of_the_peer() {
    let dir = tempfile::tempdir().expect("can be made");
    let path = dir.path().join("peer.sock");
    let config = serde_json::json!({
        "network": "unix",
        "local_ip": path,
        "default_body_codec": "plain",
        "default_context_age": "50ms",
        "default_session_age": "1h",
        "message_size_limit": 1000,
        "count_time": true,
    });
    let config = read(&config.to_string()).expect("is read");
    let mut routes = Router::new();
    routes.call("codec", |ctx, _: String| Ok(ctx.body_codec().0));
    // The responder is never used, and never dropped.
    routes.call_later("never", |_ctx, _: (), responder: Responder<()>| {
        std::mem::forget(responder);
    });
    let builder = Peer::builder().reactors(1).routes(routes);
    let server = start(builder.config(&config).expect("can be used"));

    let own = read(r#"{"default_body_codec": "plain", "default_dial_timeout": "5s"}"#);
    let client = Peer::builder().reactors(1).config(&own.expect("is read"));
    let client = start(client.expect("can be used"));
    let session = client
        .dial(format!("unix://{}", path.display()))
        .expect("connects");
    assert_eq!(session.call("/codec", "x").wait(), Ok(b's'));
    let status = session.call::<_, ()>("/never", &()).wait();
    assert_eq!(status.expect_err("is too late").code, code::HANDLE_TIMEOUT);
    let accepted = server.sessions().pop().expect("is open");
    let age = accepted.age().expect("is set");
    assert!(age <= Duration::from_secs(3600), "{age:?}");
    assert!(
        server
            .stats()
            .call("/codec")
            .expect("is a route")
            .times
            .is_some()
    );
    // The limit of a message.
    let status = session.call::<_, u8>("/codec", &"x".repeat(1000)).wait();
    assert_eq!(
        status.expect_err("is too long").code,
        code::CONNECTION_CLOSED
    );
}

#[test]
fn dials_have_the_peers_timeout_and_local_address_unless_they_set_their_own() {
    let server = start(crate::ends::listening());
    let config = read(r#"{"local_ip": "127.0.0.2"}"#).expect("is read");
    let client = start(
        Peer::builder()
            .reactors(1)
            .config(&config)
            .expect("can be used"),
    );
    let session = dial(&client, &server);
    assert_eq!(session.local_addr().ip(), "127.0.0.2".parse().ok());

    // A listener whose queue is full takes nobody.
    let dir = tempfile::tempdir().expect("can be made");
    let path = dir.path().join("full.sock");
    let addr = SockAddr::unix(&path).expect("an address");
    let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let listener = socket();
    listener.bind(&addr).expect("binds");
    listener.listen(1).expect("listens");
    let next = || {
        let socket = socket();
        socket.set_nonblocking(true).expect("is set");
        socket.connect(&addr).ok().map(|()| socket)
    };
    let _queued: Vec<_> = std::iter::from_fn(next).collect();
    let impatient = Peer::builder()
        .reactors(1)
        .dial_timeout(Duration::from_millis(50));
    let impatient = start(impatient);
    let status = impatient
        .dial(format!("unix://{}", path.display()))
        .expect_err("is too late");
    assert_eq!(status.code, code::DIAL_FAILED);
    assert!(status.reason.contains("time"), "{status}");
}

#[test]
fn sessions_redial_as_often_as_the_file_says() {
    for (times, comes_back) in [(0, false), (-1, true)] {
        let server = start(crate::ends::listening().routes(breaking()));
        let config = read(&serde_json::json!({ "redial_times": times }).to_string());
        let client = Peer::builder()
            .reactors(1)
            .config(&config.expect("is read"));
        let client = start(client.expect("can be used"));
        let session = dial(&client, &server);
        let broken = session.call::<_, ()>("/break", &()).wait();
        let code = broken.expect_err("is broken").code;
        assert_eq!(code, code::CONNECTION_CLOSED);
        let again = session.call::<_, u8>("/one", &()).wait();
        assert_eq!(again.is_ok(), comes_back, "{times}: {again:?}");
    }
}

/// The routes of a server that breaks connections.
fn breaking() -> Router {
    let mut routes = Router::new();
    routes.call("break", |ctx, _: ()| {
        ctx.session().abort();
        Ok(())
    });
    routes.call("one", |_ctx, _: ()| Ok(1));
    routes
}

#[test]
fn durations_are_read_and_written_as_go_does_it() {
    // From the documentation and the tests of Go's package `time`.
    for (text, nanos) in [
        ("0", 0),
        ("5s", 5_000_000_000),
        ("-5s", 0),
        ("+5s", 5_000_000_000),
        ("5.s", 5_000_000_000),
        (".5s", 500_000_000),
        ("1.004s", 1_004_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12µs", 12_000),
        ("12μs", 12_000),
        ("3h30m", 12_600_000_000_000),
        ("10.5s4m", 250_500_000_000),
        ("-2m3.4s", 0),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006),
        ("52763797000ns", 52_763_797_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ("9223372036854775.807us", 9_223_372_036_854_775_807),
        ("0.100000000000000000000h", 360_000_000_000),
        ("0.830103483285477580700h", 2_988_372_539_827),
        ("-9223372036854775808ns", 0),
    ] {
        let json = serde_json::json!({ "default_session_age": text }).to_string();
        let config = read(&json).expect(text);
        assert_eq!(
            config.default_session_age,
            Duration::from_nanos(nanos),
            "{text}"
        );
    }
    for text in [
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "1d",
        "\u{85}\u{85}",
        "hello \u{ffff} world",
        " 1s",
        "1s ",
        "9223372036854775808ns",
        "9223372036854775.808us",
        "3000000h",
        "--5s",
        "1e3s",
    ] {
        assert!(rewritten(text).is_err(), "{text:?}");
    }
    for (text, written) in [
        ("0ms", "0s"),
        ("1.1us", "1.1µs"),
        ("2.2ms", "2.2ms"),
        ("3300ms", "3.3s"),
        ("90s", "1m30s"),
        ("4m5.001s", "4m5.001s"),
        ("1h", "1h0m0s"),
        ("5h6m7.001s", "5h6m7.001s"),
        ("8m0.000000001s", "8m0.000000001s"),
        ("2562047h47m16.854775807s", "2562047h47m16.854775807s"),
    ] {
        assert_eq!(rewritten(text).as_deref(), Ok(written));
    }
}

proptest! {
    #[test]
    fn any_duration_is_read_as_it_was_written(nanos in 0..=i64::MAX as u64, shift in 0u32..63) {
        let mut config = Config::default();
        config.default_session_age = Duration::from_nanos(nanos >> shift);
        let json = serde_json::to_string(&config).expect("can be written");
        prop_assert_eq!(read(&json), Ok(config));
    }

    #[test]
    fn any_text_is_a_duration_or_an_error(text in "[-+]?([0-9]{0,20}(\\.[0-9]{0,25})?(ns|us|µs|ms|s|m|h|x)?){0,4}|.*") {
        if let Ok(written) = rewritten(&text) {
            let again = rewritten(&written);
            prop_assert_eq!(again, Ok(written));
        }
    }
}
