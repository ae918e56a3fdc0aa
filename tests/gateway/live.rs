//! Changes while the program serves: its configuration, its nodes, its log, its process.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::Signal;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::rig::{Client, Crowd, Folder, Origin, Program, metric};
use crate::util::eventually;

/// Returns a configuration with a listener for metrics, and more.
fn config(nodes: &[&Origin], more: &str) -> String {
    let nodes: Vec<_> = nodes.iter().map(|origin| origin.node()).collect();
    format!(
        "{more}\n[[listen]]\non = \"tcp://127.0.0.1:0\"\n\
         [[listen]]\non = \"tcp4://127.0.0.1:0\"\nkind = \"metrics\"\n\
         [[route]]\npool = \"a\"\n[pool.a]\nnodes = [{}]\n",
        nodes.join(", ")
    )
}

/// Returns the number of configurations that were taken over, and that of those that were refused.
fn reloads(program: &Program) -> (u64, u64) {
    let text = Client::to(program.addrs[1])
        .get("/metrics")
        .expect("is answered")
        .body;
    let count =
        |name: &str| metric(&text, name).unwrap_or_else(|| panic!("no {name} in {text}")) as u64;
    (
        count("epicycle_gateway_reloads_total"),
        count("epicycle_gateway_failed_reloads_total"),
    )
}

/// Returns the number of changes under load: 200, or what `EPICYCLE_GATEWAY_CHANGES` says.
fn changes() -> usize {
    match std::env::var("EPICYCLE_GATEWAY_CHANGES") {
        Ok(changes) => changes.parse().expect("is a whole number"),
        Err(_) => 200,
    }
}

/// Sends SIGHUP and waits until the new configuration is in force.
fn reload(program: &Program) {
    let before = reloads(program);
    program.signal(Signal::HUP);
    eventually("it is in force", || reloads(program).0 > before.0);
    assert_eq!(reloads(program).1, before.1, "{}", program.log());
}

#[test]
fn two_hundred_changes_under_load_lose_no_request() {
    let origins = ["one", "two", "three"].map(Origin::start);
    let [one, two, three] = &origins;
    let folder = Folder::new();
    folder.write("gateway.toml", config(&[one], ""));
    let program = Program::start(&folder, 2);
    let crowd = Crowd::start(64, program.addrs[0]);
    let extra = "[[listen]]\non = \"tcp://127.0.0.2:0\"\nmax_head = 20000\n";
    for n in 0..changes() {
        let nodes: &[&Origin] = match n % 4 {
            0 => &[one, two],
            1 => &[two, three],
            2 => &[three],
            _ => &[one, two, three],
        };
        let text = config(nodes, "").replace(
            "[[route]]\npool = \"a\"",
            match n % 3 {
                0 => "[[route]]\npool = \"a\"\nrequest.set = { \"X-N\" = \"0\" }\n",
                1 => "[[route]]\npool = \"a\"\nhost = \"a.test\"\n",
                _ => "[[route]]\npool = \"a\"\n",
            },
        );
        let text = match n % 5 {
            // A listener has other options, or there is one more.
            0 => text.replacen("[[listen]]", "[[listen]]\ntimeout.idle = \"70s\"", 1),
            1 => format!("{text}balance = \"least\"\n"),
            2 => format!("{text}\n{extra}"),
            _ => text,
        };
        folder.write("gateway.toml", text);
        reload(&program);
    }
    crowd.answered(64);
    let failures = crowd.stop();
    assert!(
        failures.is_empty(),
        "{}: {:?}\n{}",
        failures.len(),
        failures[0],
        program.log()
    );
    for origin in &origins {
        assert!(origin.requests.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn listeners_come_and_go() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let extra = free.local_addr().expect("has an address");
    folder.write("gateway.toml", config(&[&origin], ""));
    let program = Program::start(&folder, 2);
    let with = config(&[&origin], "") + &format!("[[listen]]\non = \"tcp://{extra}\"\n");

    // An address that is taken changes nothing.
    folder.write("gateway.toml", &with);
    program.signal(Signal::HUP);
    eventually("it is refused", || reloads(&program).1 == 1);
    assert!(program.log().contains("in use"), "{}", program.log());
    assert_eq!(
        Client::to(program.addrs[0])
            .get("/")
            .expect("is answered")
            .body,
        "one"
    );

    drop(free);
    reload(&program);
    let mut client = Client::to(extra);
    assert_eq!(client.get("/").expect("is answered").body, "one");
    folder.write("gateway.toml", config(&[&origin], ""));
    reload(&program);
    // A connection that is open stays.
    assert_eq!(client.get("/").expect("is answered").body, "one");
    eventually("nobody listens", || Client::to(extra).get("/").is_err());
}

#[test]
fn a_bad_change_is_logged_and_changes_nothing() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write("gateway.toml", config(&[&origin], ""));
    let program = Program::start(&folder, 2);
    for (bad, wanted) in [
        ("tipo = 1\n", "gateway.toml:1:1: tipo: the key is unknown"),
        ("[[listen]\n", "this is no TOML"),
    ] {
        let before = reloads(&program).1;
        folder.write("gateway.toml", bad);
        program.signal(Signal::HUP);
        eventually("it is refused", || reloads(&program).1 > before);
        eventually("it is logged", || program.log().contains(wanted));
        assert!(
            program
                .log()
                .contains("the old configuration stays in force")
        );
        assert_eq!(
            Client::to(program.addrs[0])
                .get("/")
                .expect("is answered")
                .body,
            "one"
        );
    }
    assert_eq!(reloads(&program).0, 0);
}

#[test]
fn changes_of_the_file_and_of_a_file_of_nodes_are_noticed() {
    let (one, two, folder) = (Origin::start("one"), Origin::start("two"), Folder::new());
    let text = config(&[&one], "");
    let from_file = text.replace("nodes = ", "nodes_file = \"nodes.txt\" #");
    folder.write("gateway.toml", &text);
    folder.write("nodes.txt", format!("{}\n", two.addr));
    let program = Program::start(&folder, 2);
    let who = || {
        Client::to(program.addrs[0])
            .get("/")
            .expect("is answered")
            .body
    };
    assert_eq!(who(), "one");
    folder.write("gateway.toml", from_file);
    eventually("the other node serves", || who() == "two");
    folder.write("nodes.txt", format!("{},3\n", one.addr));
    eventually("the first node serves", || who() == "one");
    // A source that fails leaves the last good list.
    let before = reloads(&program).1;
    folder.write("nodes.txt", "nonsense\n");
    eventually("it is refused", || reloads(&program).1 > before);
    assert_eq!(who(), "one");
}

#[test]
fn a_node_that_is_killed_costs_only_its_requests_under_way() {
    let (one, two, folder) = (Origin::start("one"), Origin::start("two"), Folder::new());
    folder.write("gateway.toml", config(&[&one, &two], ""));
    let program = Program::start(&folder, 2);
    let crowd = Crowd::start(32, program.addrs[0]);
    crowd.answered(500);
    one.kill();
    crowd.answered(500);
    // From now on nobody may fail.
    let under_way = crowd.failures.lock().expect("is sound").len();
    assert!(under_way <= 32, "{under_way}");
    crowd.answered(1000);
    let failures = crowd.stop();
    assert!(
        failures.len() <= 32,
        "{}: {:?}",
        failures.len(),
        failures.last()
    );
    assert_eq!(failures.len(), under_way, "{:?}", failures.last());
}

#[test]
fn a_node_that_closes_every_connection_is_ejected_and_costs_nothing_from_then_on() {
    let (one, two, folder) = (Origin::start("one"), Origin::start("two"), Folder::new());
    folder.write("gateway.toml", config(&[&one, &two], ""));
    let program = Program::start(&folder, 2);
    let crowd = Crowd::start(32, program.addrs[0]);
    crowd.answered(500);
    one.sicken();
    eventually("it is ejected", || {
        program.log().contains("gets no requests for")
    });
    // Those that were under way may still fail.
    crowd.answered(500);
    let before = crowd.failures.lock().expect("is sound").len();
    assert!((1..100).contains(&before), "{before}");
    crowd.answered(2000);
    let failures = crowd.stop();
    assert_eq!(failures.len(), before, "{:?}", failures.last());
    assert!(
        failures
            .iter()
            .all(|failure| failure.contains("status: 502")),
        "{failures:?}"
    );
}

#[test]
fn certificates_that_are_exchanged_under_load_fail_no_handshake_and_no_request() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
        folder.write(&format!("{name}.pem"), made.cert.pem());
        folder.write(&format!("{name}.key"), made.signing_key.serialize_pem());
        roots.add(made.cert.der().clone()).expect("is sound");
        certificates.push(made.cert.der().to_vec());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("are known")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = Arc::new(tls);
    let text = |name: &str| {
        let tls = format!("tls = {{ cert = \"{name}.pem\", key = \"{name}.key\" }}\n");
        config(&[&origin], "").replacen("[[listen]]\n", &format!("[[listen]]\n{tls}"), 1)
    };
    folder.write("gateway.toml", text("a"));
    let program = Program::start(&folder, 2);
    let (addr, config) = (program.addrs[0], tls.clone());
    // A few requests a connection, so that there are many handshakes.
    let crowd = Crowd::of(16, move || Client::to(addr).over_tls(&config, 5));
    // A session that is resumed shows no certificate.
    let mut afresh = (*tls).clone();
    afresh.resumption = Resumption::disabled();
    let afresh = Arc::new(afresh);
    let shows = || {
        let name = "localhost".try_into().expect("is a name");
        let connection = ClientConnection::new(afresh.clone(), name).expect("is sound");
        let mut stream = StreamOwned::new(connection, TcpStream::connect(addr).expect("is there"));
        stream.flush().expect("shakes hands");
        stream.conn.peer_certificates().expect("has one")[0].to_vec()
    };
    for n in 0..changes() / 5 {
        folder.write("gateway.toml", text(["b", "a"][n % 2]));
        program.signal(Signal::HUP);
        let new = &certificates[(n + 1) % 2];
        eventually("the new one is shown", || shows() == *new);
    }
    crowd.answered(64);
    let failures = crowd.stop();
    assert!(
        failures.is_empty(),
        "{}: {:?}\n{}",
        failures.len(),
        failures[0],
        program.log()
    );
}

#[test]
fn another_process_takes_over_without_a_lost_request() {
    let (origin, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        config(
            &[&origin],
            "log.access.to = \"access.log\"\ndrain.grace = \"1s\"",
        ),
    );
    // The port must stay the same, as the new process takes sockets by their addresses.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = free.local_addr().expect("has an address");
    drop(free);
    let text = folder.read("gateway.toml");
    folder.write(
        "gateway.toml",
        text.replacen("127.0.0.1:0", &addr.to_string(), 1),
    );
    let mut program = Program::start(&folder, 2);
    // They send nothing again.
    let crowd = Crowd::of(16, || Client::to(addr));
    crowd.answered(200);
    program.signal(Signal::USR2);
    let line = program.line();
    assert!(line.contains(&format!("listens on {addr} ")), "{line}");
    let metrics = program.line();
    let metrics = metrics.split(' ').nth(4).and_then(|addr| addr.parse().ok());
    // The first process ends; its clients go over to the second one.
    assert!(program.line().contains("epicycle gateway ends"));
    crowd.answered(500);
    let failures = crowd.stop();
    let text = Client::to(metrics.expect("has an address"))
        .get("/metrics")
        .expect("is answered")
        .body;
    let served = metric(
        &text,
        "epicycle_gateway_route_requests_total{route=\"*/*\",class=\"2xx\"}",
    );
    assert!(served.is_some_and(|served| served > 0.0), "{text}");
    // The new process is no child of this one.
    let log = program.log();
    let pid = std::process::Command::new("pgrep")
        .args(["-f", &folder.path("gateway.toml").display().to_string()])
        .output()
        .expect("runs");
    for pid in String::from_utf8_lossy(&pid.stdout).lines() {
        let _ = std::process::Command::new("kill").arg(pid).status();
    }
    assert!(
        failures.is_empty(),
        "{}: {:?}\n{log}",
        failures.len(),
        failures[0]
    );
    assert!(program.ended().success());
}
