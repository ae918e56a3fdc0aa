//! The access log and the metrics of the program.

use std::sync::atomic::Ordering;

use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{Client, Folder, Origin, Program, metric};
use crate::util::{eventually, strangers};

fn config(origin: &Origin, log: &str) -> String {
    format!(
        "{log}\n[[listen]]\non = \"tcp://127.0.0.1:0\"\n\
         [[listen]]\non = \"tcp4://127.0.0.1:0\"\nkind = \"metrics\"\n\
         [[route]]\nname = \"all\"\npool = \"a\"\n[pool.a]\nnodes = [{}]\n",
        origin.node()
    )
}

#[test]
fn each_request_is_a_line_of_json() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let text = config(&origin, "log.access.to = \"access.log\"");
    let text = text.replacen("[[listen]]", "[[listen]]\nmax_body = 4000", 1);
    folder.write("gateway.toml", text);
    let program = Program::start(&folder, 2);
    let mut client = Client::to(program.addrs[0]);
    let long = "x".repeat(5000);
    client.get("/a?b=c").expect("is answered");
    client.send("POST /up HTTP/1.1\r\nHost: a.test\r\nUser-Agent: me \"1\"\r\nContent-Length: 3\r\n\r\nabc").expect("is answered");
    client.get(&format!("/{long}")).expect("is answered");
    Client::to(program.addrs[0])
        .send("BAD\u{7f} / HTTP/1.1\r\n\r\n")
        .ok();
    eventually("it is logged", || folder.read("access.log").contains("400"));
    Client::to(program.addrs[0])
        .send("POST / HTTP/1.1\r\nAccept: */*\r\nhost:b.test\r\nContent-Length: 5000\r\n\r\n")
        .ok();
    eventually("they are logged", || {
        folder.read("access.log").lines().count() == 5
    });
    let log = folder.read("access.log");
    // Those of a connection are in order. The refused request came on another one.
    let (lines, refused): (Vec<Value>, Vec<Value>) = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .partition(|line: &Value| line["status"] == 200);
    assert_eq!(refused[0]["status"], 400);
    // One whose body is announced as too long tells its host.
    assert_eq!(
        (&refused[1]["status"], &refused[1]["host"]),
        (&413.into(), &"b.test".into())
    );
    let first = &lines[0];
    let node = format!("http://{}", origin.addr);
    for (key, wanted) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "a.test"),
        ("target", "/a?b=c"),
        ("route", "all"),
        ("pool", "a"),
        ("node", &*node),
        ("ended_by", "complete"),
    ] {
        assert_eq!(first[key], wanted, "{key} in {first}");
    }
    for (key, wanted) in [
        ("status", 200),
        ("bytes_in", 0),
        ("bytes_out", 3),
        ("tries", 1),
    ] {
        assert_eq!(first[key], wanted, "{key} in {first}");
    }
    assert_eq!(
        (&first["reused"], &lines[1]["reused"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    assert!(
        first["total_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{first}"
    );
    // Nothing was in its way.
    assert_eq!(first["queue_ms"], 0.0);
    assert!(
        first["time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z')),
        "{first}"
    );
    assert_eq!(lines[1]["bytes_in"], 3);
    assert_eq!(lines[1]["user_agent"], "me \"1\"");
    assert_eq!(lines[2]["target"].as_str().map(str::len), Some(2048));
}

#[test]
fn the_line_of_a_request_without_a_route_has_its_client() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let log = "log.access = { to = \"access.log\", format = \"{client} {status} {host}\" }";
    let text = config(&origin, log)
        .replace("[[route]]", "[[route]]\nhost = \"other.test\"")
        .replacen("[[listen]]", "[[listen]]\ntrusted = [\"127.0.0.1\"]", 1);
    folder.write("gateway.toml", text);
    let program = Program::start(&folder, 2);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    Client::to(program.addrs[0]).send(request).ok();
    eventually("it is logged", || folder.read("access.log").ends_with('\n'));
    assert_eq!(folder.read("access.log"), "9.9.9.9 404 a.test\n");
}

#[test]
fn a_line_has_the_format_that_is_asked_for_and_no_control_characters() {
    for (format, begin, end) in [
        (
            "combined",
            "127.0.0.1 - - [",
            "] \"GET /%00?\" HTTP/1.1\" 200 3 \"-\" \"me \\x22\\x5c\"\n",
        ),
        (
            "{client} {status} {user_agent} [{referer}]",
            "127.0.0.1 200 me \\x22\\x5c [-]",
            "\n",
        ),
    ] {
        let (origin, folder) = (Origin::start("one"), Folder::new());
        let log = format!("log.access = {{ to = \"access.log\", format = \"{format}\" }}");
        folder.write("gateway.toml", config(&origin, &log));
        let program = Program::start(&folder, 2);
        let request = "GET /%00? HTTP/1.1\r\nHost: a.test\r\nUser-Agent: me \"\\\r\n\r\n";
        Client::to(program.addrs[0])
            .send(request)
            .expect("is answered");
        eventually("it is logged", || folder.read("access.log").ends_with('\n'));
        let line = folder.read("access.log");
        let end = end.replace("/%00?\"", "/%00?");
        assert!(line.starts_with(begin) && line.ends_with(&end), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn standard_output_can_be_the_log() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let log = "log.access = { to = \"stdout\", format = \"{method} {target} {status}\" }";
    folder.write("gateway.toml", config(&origin, log));
    let mut program = Program::start(&folder, 2);
    Client::to(program.addrs[0]).get("/x").expect("is answered");
    assert_eq!(program.line(), "GET /x 200");
}

#[test]
fn the_log_is_opened_anew_and_nothing_of_it_is_lost() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        config(&origin, "log.access.to = \"access.log\""),
    );
    let program = Program::start(&folder, 2);
    let mut client = Client::to(program.addrs[0]);
    for n in 0..100 {
        client.get(&format!("/{n}")).expect("is answered");
        if n % 25 == 24 {
            std::fs::rename(folder.path("access.log"), folder.path(&format!("old{n}")))
                .expect("is renamed");
            program.signal(Signal::USR1);
            eventually("it is there again", || folder.path("access.log").exists());
        }
    }
    program.signal(Signal::INT);
    assert!(program.ended().success());
    let names = ["old24", "old49", "old74", "old99", "access.log"];
    let all: String = names.iter().map(|name| folder.read(name)).collect();
    assert_eq!(all.lines().count(), 100);
    for n in 0..100 {
        assert!(all.contains(&format!("\"target\":\"/{n}\"")), "{n}");
    }
}

#[test]
fn a_log_that_changes_takes_the_lines_from_then_on() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write("gateway.toml", config(&origin, "log.access.to = \"a.log\""));
    let program = Program::start(&folder, 2);
    let mut client = Client::to(program.addrs[0]);
    client.get("/first").expect("is answered");
    folder.write("gateway.toml", config(&origin, "log.access.to = \"b.log\""));
    program.signal(Signal::HUP);
    eventually("the other one is open", || {
        folder.path("b.log").exists() && program.log().contains("is in force")
    });
    client.get("/second").expect("is answered");
    eventually("it is logged", || folder.read("b.log").contains("/second"));
    assert!(folder.read("a.log").contains("/first") && !folder.read("a.log").contains("/second"));
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        config(&origin, "log.access.to = \"none/access.log\""),
    );
    let config = folder.path("gateway.toml");
    let said = crate::rig::command()
        .arg("--config")
        .arg(config)
        .output()
        .expect("runs");
    assert_eq!(said.status.code(), Some(1));
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(
        why.contains("cannot open the log") && why.contains("none/access.log"),
        "{why}"
    );
}

#[test]
fn the_time_for_which_a_request_waited_is_logged_and_counted() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        config(&origin, "log.access.to = \"access.log\"") + "max_connections = 1\n",
    );
    let program = Program::start(&folder, 2);
    let addr = program.addrs[0];
    // An answer takes the origin 300 ms, and the next request waits for its connection.
    let first = std::thread::spawn(move || Client::to(addr).get("/slow"));
    eventually("it is there", || {
        origin.requests.load(Ordering::Relaxed) == 1
    });
    Client::to(addr).get("/late").expect("is answered");
    first.join().expect("ends").expect("is answered");
    eventually("they are logged", || {
        folder.read("access.log").lines().count() == 2
    });
    let log = folder.read("access.log");
    let waited = |target: &str| {
        let line = log.lines().find(|line| line.contains(target));
        let line: Value = serde_json::from_str(line.expect("is logged")).expect("is JSON");
        let ms = |key: &str| line[key].as_f64().expect("is a number");
        // The wait is a part of the time until it had a connection.
        assert!(ms("queue_ms") <= ms("connect_ms"), "{line}");
        ms("queue_ms")
    };
    assert_eq!(waited("/slow"), 0.0);
    assert!(waited("/late") > 0.0, "{log}");
    let metrics = Client::to(program.addrs[1]).get("/metrics");
    let text = metrics.expect("is answered").body;
    let count = "epicycle_gateway_pool_queue_seconds_count{pool=\"a\"}";
    assert_eq!(metric(&text, count), Some(1.0));
}

#[test]
fn the_metrics_count_requests_by_route_and_node_and_a_parser_reads_them() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        config(&origin, "log.access.to = \"access.log\""),
    );
    let program = Program::start(&folder, 2);
    let mut client = Client::to(program.addrs[0]);
    for _ in 0..3 {
        client
            .send("POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nabcde")
            .expect("is answered");
    }
    client
        .send("TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .expect("is answered");
    let mut metrics = Client::to(program.addrs[1]);
    let response = metrics.get("/metrics").expect("is answered");
    assert_eq!(
        response.fields["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = response.body;
    let node = format!("http://{}", origin.addr);
    for (name, wanted) in [
        (
            "epicycle_gateway_route_requests_total{route=\"all\",class=\"2xx\"}".to_owned(),
            3.0,
        ),
        (
            "epicycle_gateway_route_bytes_in_total{route=\"all\"}".to_owned(),
            15.0,
        ),
        (
            "epicycle_gateway_route_bytes_out_total{route=\"all\"}".to_owned(),
            27.0,
        ),
        (
            "epicycle_gateway_route_requests_total{route=\"none\",class=\"4xx\"}".to_owned(),
            1.0,
        ),
        (
            format!(
                "epicycle_gateway_node_requests_total{{pool=\"a\",node=\"{node}\",outcome=\"complete\"}}"
            ),
            3.0,
        ),
        (
            format!("epicycle_gateway_node_up{{pool=\"a\",node=\"{node}\"}}"),
            1.0,
        ),
        (
            "epicycle_gateway_pool_hits_total{pool=\"a\"}".to_owned(),
            2.0,
        ),
        (
            "epicycle_gateway_pool_opens_total{pool=\"a\"}".to_owned(),
            1.0,
        ),
        ("epicycle_gateway_pool_idle{pool=\"a\"}".to_owned(), 1.0),
        (
            "epicycle_gateway_pool_retries_total{pool=\"a\"}".to_owned(),
            0.0,
        ),
        (
            "epicycle_gateway_pool_total_seconds_count{pool=\"a\"}".to_owned(),
            3.0,
        ),
        (
            "epicycle_gateway_pool_first_byte_seconds_count{pool=\"a\"}".to_owned(),
            3.0,
        ),
        // The request for the metrics itself.
        ("epicycle_gateway_in_flight".to_owned(), 1.0),
        ("epicycle_gateway_tunnels".to_owned(), 0.0),
    ] {
        assert_eq!(metric(&text, &name), Some(wanted), "{name} in {text}");
    }
    assert_eq!(metrics.get("/healthz").expect("is answered").body, "ok");
    assert_eq!(metrics.get("/other").expect("is answered").status, 404);
    assert_eq!(
        metrics
            .send("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("is answered")
            .status,
        405
    );

    if let Some(families) = strangers::prometheus_families(&text) {
        assert!(families > 40, "{families}");
    }
}
