//! The commands of the program `epicycle` for clusters.

use std::fs;
#[cfg(feature = "kcp")]
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

use epicycle::cluster::Cluster;
use epicycle::cluster::client::Client;
use epicycle::cluster::codec::RawRef;
use epicycle::cluster::node::HandlerError;
use serde_json::Value;

use crate::vectors::rows;

fn epicycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicycle"))
        .args(args)
        .env_remove("EPICYCLE_ADMIN_TOKEN")
        .stdin(Stdio::null())
        .output()
        .expect("starts")
}

/// Returns what a command printed. It must succeed.
fn printed(args: &[&str]) -> String {
    let output = epicycle(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("is text")
}

/// Returns the message of a command that must fail.
fn refused(args: &[&str]) -> String {
    let output = epicycle(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).expect("is text")
}

#[test]
fn packets_are_told_a_line_each() {
    let told = printed(&[
        "packet",
        "decode",
        "00000007 00 0001 0002 6869",
        "00000005 00 0003 0000",
    ]);
    assert_eq!(
        told,
        "     0  route 1, seq 2, 2 bytes: 6869 \"hi\"\n    11  route 3, push, 0 bytes\n"
    );
    let small = [
        "--route-bytes",
        "1",
        "--seq-bytes",
        "0",
        "00000004 00 01 6869",
    ];
    let told = printed(&[&["packet", "decode"], &small[..]].concat());
    assert_eq!(told, "     0  route 1, push, 2 bytes: 6869 \"hi\"\n");
    assert!(printed(&["packet", "decode", "00000001 80"]).contains("heartbeat"));
}

#[test]
fn input_that_is_cut_or_is_no_packet_is_told_with_its_place() {
    let cut = refused(&["packet", "decode", "00000005 00 0003 0000 00000007 00"]);
    assert!(
        cut.contains("at byte 9") && cut.contains("6 bytes more"),
        "{cut}"
    );
    let odd = refused(&["packet", "decode", "123"]);
    assert!(
        odd.contains("the byte 1 has one digit; write two for each byte"),
        "{odd}"
    );
    for (input, place) in [("0g", "'g', character 2"), ("00 0x01", "'x', character 5")] {
        for kind in ["packet", "drpc"] {
            let digit = refused(&[kind, "decode", input]);
            assert!(
                digit.contains(place) && digit.contains("without 0x"),
                "{digit}"
            );
        }
    }
    let none = refused(&["packet", "decode", " "]);
    assert!(none.contains("there are no digits"), "{none}");
    let long = refused(&[
        "packet",
        "decode",
        "--max-data",
        "1",
        "00000007 00 0001 0002 6869",
    ]);
    assert!(long.contains("--max-data"), "{long}");
    let width = refused(&["packet", "decode", "--route-bytes", "3", "00000001 80"]);
    assert!(width.contains("--route-bytes"), "{width}");
    let short = refused(&["drpc", "decode", "00000002 00 00"]);
    assert!(short.contains("shorter than its head"), "{short}");
}

#[test]
fn every_recorded_frame_between_servers_is_told() {
    for row in rows("drpc").iter().step_by(4) {
        if row.dir == "both" {
            continue;
        }
        let mut args = vec!["drpc", "decode"];
        if row.dir == "res" {
            args.push("--answers");
        }
        args.push(&row.data);
        let output = epicycle(&args);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("seq "),
            "{} {}: {told}",
            row.scenario,
            row.dir
        );
    }
    let told = printed(&[
        "drpc",
        "decode",
        "00000025 00 0f 0000000000000000 0000000000000007 0000000000000009 00000007 00 0001 0002 6869",
    ]);
    assert!(
        told.ends_with(
            "Deliver, seq 0: from connection 7, user 9: route 1, seq 2, 2 bytes: 6869 \"hi\"\n"
        ),
        "{told}"
    );
}

#[test]
fn bots_log_in_ask_and_tell_how_it_went() {
    let cluster = Cluster::embedded();
    let node = cluster.node().route(1, |_, cx| cx.respond("back")).route(
        2,
        |_, cx| -> Result<(), HandlerError> {
            let uid: i64 = cx.parse()?;
            cx.bind_gate(uid, |_: &mut (), cx, bound| {
                bound?;
                cx.respond("in")
            })?;
            Ok(())
        },
    );
    let _node = node.start().expect("starts");
    let gate = cluster.gate().listen("ws://127.0.0.1:0/play");
    let gate = gate.start().expect("starts");
    let addr = gate.client_addrs()[0].as_socket_addr().expect("is TCP");
    let addr = format!("ws://{addr}/play");
    let told = printed(&[
        "bots",
        "--addr",
        &addr,
        "--clients",
        "5",
        "--rate",
        "100",
        "--time",
        "500ms",
        "--first",
        "2={number}",
    ]);
    assert!(told.contains("5 of 5 clients are connected"), "{told}");
    assert!(
        told.contains("p99") && !told.contains("failed") && !told.contains("lost"),
        "{told}"
    );

    let unserved = epicycle(&[
        "bots",
        "--addr",
        &addr,
        "--clients",
        "1",
        "--rate",
        "20",
        "--time",
        "200ms",
        "--timeout",
        "300ms",
        "--route",
        "99",
    ]);
    assert!(!unserved.status.success());
    let told = String::from_utf8_lossy(&unserved.stdout);
    assert!(
        told.contains(" 0 answered") && told.contains("failed"),
        "{told}"
    );
}

#[test]
fn a_load_for_gates_counts_answers_and_what_is_wrong() {
    let cluster = Cluster::embedded();
    let node = cluster.node().route(1, |_, cx| {
        let data = RawRef(cx.data());
        cx.respond(&data)
    });
    let _node = node.start().expect("starts");
    let gate = cluster.gate().listen("tcp://127.0.0.1:0");
    #[cfg(feature = "kcp")]
    let gate = gate.listen("kcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    for (scheme, addr) in ["tcp", "kcp"].iter().zip(gate.client_addrs()) {
        let addr = addr.as_socket_addr().expect("is one of IP");
        let target = format!("{scheme}://{addr}");
        let load = |more: &str| {
            let fixed = ["load", &target, "--protocol", "cluster", "--json"];
            let more = more.split_whitespace();
            let args: Vec<_> = fixed.into_iter().chain(more).collect();
            let told: Value = serde_json::from_str(&printed(&args)).expect("is JSON");
            assert_eq!(told["transport"], *scheme, "{told}");
            assert_eq!(told["requests"]["failed"], 0, "{told}");
            told["requests"]["answered"].as_u64().expect("is a number")
        };
        // Longer than a datagram, and more at a time than a window holds.
        let closed = load("--duration 500ms --warm-up 0s -c 5 --reactors 2 --pipeline 40 -s 3000");
        assert!(closed >= 200, "{scheme}: {closed}");
        let open = load("--duration 500ms --warm-up 0s -c 20 --rate 400 --max-errors 200");
        assert!((1..=200).contains(&open), "{scheme}: {open}");
    }
}

#[cfg(feature = "kcp")]
#[test]
fn a_load_over_kcp_notices_that_nobody_answers_or_that_the_target_is_wrong() {
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let target = format!("kcp://{}", nobody.local_addr().expect("is bound"));
    let quick = "--duration 300ms --warm-up 0s --timeout 100ms -c 2 --json";
    let args: Vec<_> = ["load", &*target]
        .into_iter()
        .chain(quick.split_whitespace())
        .collect();
    let output = epicycle(&args);
    assert!(!output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!(told["requests"]["answered"], 0, "{told}");
    assert!(told["errors"].to_string().contains("no answer"), "{told}");
    let no_port = refused(&["load", "kcp://127.0.0.1"]);
    assert!(no_port.contains("kcp://"), "{no_port}");
    assert!(!no_port.contains("udp://"), "{no_port}");
    let tls = refused(&["load", &target, "--tls"]);
    assert!(tls.contains("TLS does not go over KCP"), "{tls}");
    let echo = refused(&["load", &target, "--protocol", "echo"]);
    assert!(echo.contains("speaks cluster"), "{echo}");
}

#[test]
fn the_admin_commands_act_on_a_cluster() {
    let cluster = Cluster::embedded();
    let node = cluster
        .node()
        .id("node-1")
        .route(2, |_, cx| -> Result<(), HandlerError> {
            cx.bind_gate(7, |_: &mut (), cx, bound| {
                bound?;
                cx.respond("in")
            })?;
            Ok(())
        });
    let _node = node.start().expect("starts");
    let gate = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let admin = cluster.admin().start().expect("starts");
    let addr = format!("http://{}", admin.addr());
    let dir = tempfile::tempdir().expect("is made");
    let file = dir.path().join("token");
    let token = admin.token().expect("there is one");
    fs::write(&file, format!("{token}\n")).expect("is written");
    let file = file.to_str().expect("is text");
    let ask = |args: &[&str]| {
        printed(&[&["admin", "--addr", &addr, "--token-file", file], args].concat())
    };

    let told = ask(&["instances"]);
    assert!(
        told.contains("\"gate-1\"") && told.contains("\"node-1\""),
        "{told}"
    );
    assert!(ask(&["ready"]).contains("\"ready\": true"));

    let (heard, hears) = std::sync::mpsc::channel();
    let client = Client::builder()
        .reconnect(None)
        .route(12, move |_, packet| {
            let _ = heard.send(packet.data.to_vec());
        });
    let client = client.connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    client.request(2, "").expect("logs in");
    assert!(ask(&["user", "7"]).contains("\"gate-1\""));
    assert!(ask(&["broadcast", "12", "{\"text\":\"hi\"}"]).contains("\"receivers\": 1"));
    let data = hears.recv_timeout(std::time::Duration::from_secs(30));
    assert_eq!(data.expect("comes"), b"{\"text\":\"hi\"}");
    ask(&["kick", "7", "--force"]);
    crate::util::eventually("the client is closed", || !client.is_connected());
    assert!(ask(&["state", "node-1", "busy"]).contains("\"busy\""));

    let wrong = refused(&["admin", "--addr", &addr, "instances"]);
    assert!(
        wrong.contains("401") && wrong.contains("EPICYCLE_ADMIN_TOKEN"),
        "{wrong}"
    );
    let nobody = refused(&["admin", "--addr", &addr, "--token-file", file, "user", "8"]);
    assert!(
        nobody.contains("404") && nobody.contains("user 8"),
        "{nobody}"
    );
    let nowhere = refused(&["admin", "--addr", "http://127.0.0.1:1", "ready"]);
    assert!(nowhere.contains("--addr"), "{nowhere}");
    let path = refused(&["admin", "--addr", &addr, "state", "a/b", "busy"]);
    assert!(path.contains("is no server's id"), "{path}");
}

#[test]
fn a_new_project_needs_a_name_that_is_free_and_that_rust_can_use() {
    let dir = tempfile::tempdir().expect("is made");
    let into = dir.path().to_str().expect("is text");
    let told = printed(&["new", "game", "my-game", "--into", into]);
    assert!(told.contains("cargo test"), "{told}");
    let again = refused(&["new", "game", "my-game", "--into", into]);
    assert!(again.contains("choose another name"), "{again}");
    for name in ["Game", "../game", "", "1st", "serde", "tonic-prost", "a b"] {
        let refused = refused(&["new", "game", name, "--into", into]);
        assert!(refused.contains("name"), "{name}: {refused}");
    }
    let kind = refused(&["new", "game", "another", "--grpc", "--into", into]);
    assert!(kind.contains("--grpc is for a mesh"), "{kind}");
}
