//! The configuration of a process: files, environment and flags, faults and warnings, and what builders make of it.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::codec::Codec;
use epicycle::cluster::config::{Config, ConfigError};
use epicycle::cluster::container::{Component, Container, Failure};
use epicycle::cluster::dispatch::Policy;
use epicycle::cluster::packet::PacketOptions;
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Cluster, Error, Mode};
use epicycle::codec::ByteOrder;

use crate::util::client::TempPath;
use crate::util::{LONG, eventually};

/// A folder of configuration files.
struct Folder(TempPath);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = TempPath::new();
        fs::create_dir(&folder.0).expect("is new");
        for (name, text) in files {
            fs::write(folder.0.join(name), text).expect("writes");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    fn read_with(
        &self,
        environment: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Config, ConfigError> {
        let own = |text: &&str| (*text).to_owned();
        let environment = environment
            .iter()
            .map(|(name, value)| (own(name), own(value)));
        let folder = format!("--etc={}", self.0.0.display());
        Config::read(environment, flags.iter().map(own).chain([folder]))
    }

    fn read(&self) -> Result<Config, ConfigError> {
        self.read_with(&[], &[])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.0);
    }
}

fn faults(config: Result<Config, ConfigError>) -> Vec<String> {
    match config {
        Err(ConfigError::Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("no faults: {other:?}"),
    }
}

/// A file as due's documentation has it.
const DUE: &str = r#"
pid = "./run/cluster.pid"
mode = "debug"
timezone = "Local"
shutdownMaxWaitTime = "10s"
[cluster.gate]
    id = ""
    name = "gate-1"
    addr = "127.0.0.1:0"
    dispatch = "wrr"
    expose = false
    connNum = 5
    callTimeout = "2s"
    dialTimeout = "500ms"
    dialRetryTimes = 3
    writeTimeout = "3s"
    writeQueueSize = 2048
    faultRecoveryTime = "10s"
    [cluster.gate.metadata]
        zone = "eu"
[cluster.node]
    name = "game"
    codec = "proto"
    weight = 7
    faultRecoveryTime = "10s"
[task]
    size = 100000
    nonblocking = true
[packet]
    byteOrder = "little"
    routeBytes = 4
    seqBytes = 1
    bufferBytes = "4K"
[registry.etcd]
    addrs = ["127.0.0.1:2379"]
    dialTimeout = "5s"
[network.ws.server]
    addr = "127.0.0.1:0"
    path = "/play"
    maxConnNum = 50
    origins = ["*"]
    heartbeatInterval = "0s"
    heartbeatMechanism = "tick"
[network.tcp.server]
    addr = "127.0.0.1:0"
    maxConnNum = 7
    heartbeatInterval = "0"
    heartbeatMechanism = "tick"
"#;

#[test]
fn the_keys_of_due_are_read() {
    let config = Folder::with(&[("etc.toml", DUE)]).read().expect("is sound");
    assert_eq!(config.pid_file, Some("./run/cluster.pid".into()));
    assert_eq!(config.mode, Some(Mode::Debug));
    assert_eq!(config.shutdown_max_wait, Some(Duration::from_secs(10)));
    let gate = &config.gate;
    assert_eq!(
        (gate.id.as_deref(), gate.name.as_deref()),
        (None, Some("gate-1"))
    );
    assert_eq!(
        (gate.addr.as_deref(), gate.expose.as_deref()),
        (Some("127.0.0.1:0"), None)
    );
    assert_eq!(gate.dispatch, Some(Policy::Weighted));
    assert_eq!(gate.call_timeout, Some(Duration::from_secs(2)));
    assert_eq!(gate.dial_timeout, Some(Duration::from_millis(500)));
    assert_eq!(gate.metadata["zone"], "eu");
    assert_eq!(config.node.weight, Some(7));
    assert_eq!(config.node.codec.as_ref().map(Codec::name), Some("proto"));
    let packet = config.packet_options().expect("is sound");
    assert_eq!(packet.byte_order(), ByteOrder::Little);
    assert_eq!(
        (packet.route_bytes(), packet.seq_bytes(), packet.max_data()),
        (4, 1, 4096)
    );
    assert_eq!(config.ws.path.as_deref(), Some("/play"));
    assert_eq!(config.ws.heartbeat_interval, Some(Duration::ZERO));
    assert_eq!(config.tcp.max_connections, Some(7));
}

#[test]
fn keys_without_a_meaning_here_are_told_once_with_the_reason() {
    let folder = Folder::with(&[("etc.toml", DUE), ("more.toml", "timezone = \"UTC\"\n")]);
    let config = folder.read().expect("is sound");
    let about = |key: &str| {
        let warnings = config.warnings().iter();
        warnings
            .filter(|warning| warning.contains(key))
            .collect::<Vec<_>>()
    };
    let file = folder.path("etc.toml");
    assert_eq!(
        about("cluster.gate.faultRecoveryTime"),
        [&format!(
            "{}:18:25: cluster.gate.faultRecoveryTime has no effect: a link is dialled again after 50 ms to 5 s",
            file.display()
        )]
    );
    assert_eq!(about("timezone").len(), 1);
    // A part of due that other programs or the application read is told as a whole.
    assert_eq!(about("registry.* has no effect").len(), 1);
    assert_eq!(about("registry").len(), 1);
    assert!(about("registry")[0].contains("`.registry("));
    assert!(about("unknown").is_empty(), "{:?}", config.warnings());
}

#[test]
fn keys_of_grpc_and_of_ciphers_are_read() {
    let text = r#"
        [transport.grpc.server]
        addr = "127.0.0.1:9000"
        keyFile = "a.key"
        certFile = "a.pem"
        [transport.grpc.client]
        caFile = "ca.pem"
        serverName = "game.example"
        [transport.rpcx.client]
        poolSize = 10
        [crypto.rsa.encryptor]
        padding = "OAEP"
        hash = "sha384"
        label = "game"
        blockSize = 0
        publicKey = "their.pem"
        [crypto.rsa.decryptor]
        privateKey = "own.pem"
        [crypto.ecc.signer]
        delimiter = ";"
    "#;
    let config = Folder::with(&[("etc.toml", text)])
        .read()
        .expect("is sound");
    let grpc = &config.grpc;
    assert_eq!(grpc.addr.as_deref(), Some("127.0.0.1:9000"));
    assert_eq!(grpc.certificate.key_file, Some("a.key".into()));
    assert_eq!(grpc.authorities, Some("ca.pem".into()));
    assert_eq!(grpc.server_name.as_deref(), Some("game.example"));
    let rsa = &config.crypto.rsa_cipher;
    assert_eq!(
        (rsa.padding.as_deref(), rsa.hash.as_deref()),
        (Some("OAEP"), Some("sha384"))
    );
    assert_eq!(rsa.public_key.as_deref(), Some("their.pem"));
    assert_eq!(rsa.private_key.as_deref(), Some("own.pem"));
    assert_eq!(config.crypto.ecc_signer.delimiter.as_deref(), Some(";"));
    let told = config.warnings().join("\n");
    assert!(told.contains("transport.rpcx.* has no effect"), "{told}");
    assert!(
        told.contains("crypto.rsa.encryptor.blockSize has no effect"),
        "{told}"
    );
    assert_eq!(config.warnings().len(), 2, "{told}");
    assert!(!format!("{config:?}").contains("own.pem"));
}

#[cfg(feature = "crypto")]
#[test]
fn ciphers_and_signers_are_made_from_the_configuration() {
    use epicycle::cluster::crypto::{Cipher, Signer, generate_ecc, generate_rsa};

    let ((own, public), (ecc_own, ecc_public)) =
        (generate_rsa(2048).expect("is made"), generate_ecc());
    let keys =
        |own: &str, public: &str| format!("privateKey = '''{own}'''\npublicKey = '''{public}'''\n");
    let (rsa, ecc) = (keys(&own, &public), keys(&ecc_own, &ecc_public));
    let text = format!(
        "[crypto.rsa.encryptor]\npadding = \"oaep\"\n{rsa}[crypto.rsa.signer]\npadding = \"PKCS\"\n{rsa}\
         [crypto.ecc.encryptor]\ns1 = \"a\"\ns2 = \"b\"\n{ecc}[crypto.ecc.signer]\nhash = \"sha512\"\n{ecc}"
    );
    let crypto = Folder::with(&[("etc.toml", &text)])
        .read()
        .expect("is sound")
        .crypto;
    let ciphers: [Box<dyn Cipher>; 2] = [
        Box::new(crypto.rsa_cipher().expect("is right")),
        Box::new(crypto.ecc_cipher().expect("is right")),
    ];
    for cipher in ciphers {
        let encrypted = cipher.encrypt(b"a move").expect("is encrypted");
        assert_eq!(cipher.decrypt(&encrypted).expect("is ours"), b"a move");
    }
    let signers: [Box<dyn Signer>; 2] = [
        Box::new(crypto.rsa_signer().expect("is right")),
        Box::new(crypto.ecc_signer().expect("is right")),
    ];
    for signer in signers {
        let signature = signer.sign(b"a move").expect("is signed");
        assert!(signer.verify(b"a move", &signature).expect("is checked"));
    }
    let odd = Folder::with(&[("etc.toml", "[crypto.rsa.encryptor]\npadding = \"zero\"\n")]);
    let odd = odd.read().expect("is sound").crypto.rsa_cipher();
    assert!(
        odd.expect_err("is wrong")
            .to_string()
            .contains("NORMAL, OAEP")
    );
}

#[test]
fn a_later_source_has_precedence() {
    let folder = Folder::with(&[
        (
            "a.toml",
            "mode = \"test\"\n[cluster.gate]\nname = \"a\"\naddr = \":1\"\ncallTimeout = \"1s\"\n",
        ),
        ("b.toml", "[cluster.gate]\nname = \"b\"\n"),
        ("ignored.txt", "this is no TOML"),
    ]);
    let environment = [
        ("DUE_MODE", "debug"),
        ("EPICYCLE_MODE", "release"),
        ("EPICYCLE_CLUSTER_GATE_CALL_TIMEOUT", "2s"),
        ("EPICYCLE_CLUSTER_GATE_ADDR", ":2"),
        ("EPICYCLE_NETWORK_WS_SERVER_ORIGINS", "https://a, https://b"),
        ("EPICYCLE_SEEDS", "5"),
    ];
    let flags = [
        "--cluster.gate.addr",
        ":3",
        "--verbose",
        "--bots=5",
        "play",
        "--packet.seqBytes=0",
    ];
    let config = folder.read_with(&environment, &flags).expect("is sound");
    let gate = &config.gate;
    assert_eq!(gate.name.as_deref(), Some("b"));
    assert_eq!(gate.addr.as_deref(), Some(":3"));
    assert_eq!(gate.call_timeout, Some(Duration::from_secs(2)));
    assert_eq!(config.mode, Some(Mode::Release));
    assert_eq!(
        config.ws.origins,
        Some(vec!["https://a".to_owned(), "https://b".to_owned()])
    );
    assert_eq!(config.packet.seq_bytes, Some(0));
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

#[test]
fn a_key_without_effect_is_a_warning_with_the_nearest_known_one() {
    let folder = Folder::with(&[
        (
            "etc.toml",
            "[cluster.gate]\nnmae = \"a\"\nshoe = 9\n[scores]\nbest = 1\n[network.ws.server]\npath = \"/play\"\n",
        ),
        (
            "scores.toml",
            "[scores]\nbest = 1\n[packet]\nrouteByte = 2\n",
        ),
    ]);
    let environment = [
        ("EPICYCLE_CLUSTER_GATE_NAEM", "x"),
        ("EPICYCLE_CHAOS_SECONDS", "1"),
    ];
    let flags = ["--network.tcp.server.adr=:1", "--bots=1"];
    let config = folder.read_with(&environment, &flags).expect("is sound");
    let place = |name: &str| folder.path(name).display().to_string();
    let (etc, scores) = (place("etc.toml"), place("scores.toml"));
    assert_eq!(
        config.warnings(),
        [
            format!("{etc}:2:8: cluster.gate.nmae: the key is unknown; did you mean `cluster.gate.name`?"),
            format!("{etc}:3:8: cluster.gate.shoe: the key is unknown"),
            format!("{etc}:5:8: scores.best: the key is unknown"),
            format!("{scores}:4:13: packet.routeByte: the key is unknown; did you mean `packet.routeBytes`?"),
            "environment: EPICYCLE_CLUSTER_GATE_NAEM: the key is unknown; did you mean `EPICYCLE_CLUSTER_GATE_NAME`?".to_owned(),
            "flags: network.tcp.server.adr: the key is unknown; did you mean `network.tcp.server.addr`?".to_owned(),
            format!(
                "{etc}:7:8: network.ws.server.path has no effect: network.ws.server has no `addr`; add one, such as \":3553\""
            ),
        ]
    );
}

#[test]
fn all_faults_are_told_with_place_and_remedy() {
    let folder = Folder::with(&[
        (
            "etc.toml",
            "mode = \"fast\"\n[cluster.gate]\nname = 5\ncallTimeout = 10\nexpose = true\n[packet]\nbufferBytes = \"4Q\"\nrouteBytes = 3\nseqBytes = 3\n\
             [network.tcp.server]\nmaxConnNum = 0\n[network.ws.server]\npath = \"/play\"\nauthorizeTimeout = \"soon\"\n",
        ),
        ("bad.toml", "[cluster\n"),
    ]);
    let environment = [("EPICYCLE_CLUSTER_NODE_WEIGHT", "-1")];
    let flags = [
        "--network.ws.server.heartbeatMechanism=never",
        "--packet.routeBytes=3",
        "--packet.bufferBytes=999999999",
        "--bots",
        "--cluster.gate.callTimeout",
    ];
    let faults = faults(folder.read_with(&environment, &flags));
    let etc = folder.path("etc.toml").display().to_string();
    let wanted = [
        "bad.toml:1:",
        &format!(
            "{etc}:1:8: mode: the argument `mode`: \"fast\" is not one of debug, test, release"
        ),
        &format!(
            "{etc}:4:15: cluster.gate.callTimeout: write a time with its unit, such as \"10s\""
        ),
        &format!("{etc}:5:10: cluster.gate.expose: write the host"),
        &format!("{etc}:3:8: cluster.gate.name: use a text in quotes"),
        &format!(
            "{etc}:7:15: packet.bufferBytes: write a number of bytes, or a size such as \"4K\""
        ),
        "environment: EPICYCLE_CLUSTER_NODE_WEIGHT: use a whole number from 0 on that fits into 32 bits",
        "flags: network.ws.server.heartbeatMechanism: \"never\" is not one of resp, tick",
        "flags: packet.routeBytes: a route of 3 bytes is not supported; use 1, 2 or 4",
        "flags: packet.bufferBytes: packets with 999999999 bytes of data do not fit",
        "flags: cluster.gate.callTimeout has no value; write --cluster.gate.callTimeout=VALUE",
        &format!("{etc}:8:14: packet.routeBytes: a route of 3 bytes is not supported"),
        &format!("{etc}:9:12: packet.seqBytes: a seq of 3 bytes is not supported"),
        &format!("{etc}:11:14: network.tcp.server.maxConnNum: 0 would close every client"),
        &format!(
            "{etc}:14:20: network.ws.server.authorizeTimeout: \"soon\" is no time (expected number at 0); write a time"
        ),
    ];
    assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
    let in_etc = faults.iter().filter_map(|fault| fault.strip_prefix(&etc));
    let lines = in_etc.filter_map(|fault| fault.split(':').nth(1)?.parse::<u32>().ok());
    assert!(lines.is_sorted(), "{faults:#?}");
    for text in wanted {
        assert!(
            faults.iter().any(|fault| fault.contains(text)),
            "{text}: {faults:#?}"
        );
    }
}

#[test]
fn a_folder_that_is_named_must_exist() {
    let none = || [("DUE_ETC".to_owned(), "/nowhere/at/all".to_owned())];
    let error = Config::read(none(), []).expect_err("it is not there");
    assert!(
        error
            .to_string()
            .starts_with("cannot read /nowhere/at/all: "),
        "{error}"
    );

    // The flag goes before the environment, and may name a file.
    let folder = Folder::with(&[("one.toml", "mode = \"test\"\n")]);
    let flag = format!("--etc={}", folder.path("one.toml").display());
    let config = Config::read(none(), [flag]).expect("is sound");
    assert_eq!(config.mode, Some(Mode::Test));
}

#[test]
fn a_mesh_and_a_client_take_the_configuration() {
    let text = r#"
        [cluster.mesh]
        id = "mesh-7"
        name = "counts"
        addr = "127.0.0.1:0"
        expose = "game.example"
        weight = 3
        metadata = { zone = "eu" }
        [cluster.client]
        callTimeout = "20ms"
        dialTimeout = "0s"
    "#;
    let config = Folder::with(&[("etc.toml", text)])
        .read()
        .expect("is sound");
    let cluster = Cluster::embedded();
    let mesh = cluster.mesh().config(&config).service("math", |_| {});
    let mesh = mesh.start().expect("starts");
    let registered = &cluster.registry().services("mesh").expect("is in memory")[0];
    assert_eq!(
        (&*registered.id, &*registered.alias, registered.weight),
        ("mesh-7", "counts", 3)
    );
    assert_eq!(registered.metadata["zone"], "eu");
    let port = mesh.addr().port();
    let endpoint = format!("rpc://game.example:{port}?is_secure=false");
    assert_eq!(registered.endpoint, endpoint);

    let builder = || Client::builder().config(&config).expect("is sound");
    let error = builder()
        .connect("tcp://127.0.0.1:1")
        .expect_err("has no time");
    assert!(error.to_string().contains("connect_timeout"), "{error}");
    // Nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = silent.local_addr().expect("is bound");
    let client = builder().connect_timeout(LONG);
    let client = client.connect(format!("tcp://{addr}")).expect("connects");
    assert!(matches!(
        client.request(1, ""),
        Err(Error::Timeout { after, .. }) if after == Duration::from_millis(20)
    ));
}

#[test]
fn gate_and_node_take_the_configuration() {
    let config = Folder::with(&[("etc.toml", DUE)]).read().expect("is sound");
    let cluster = Cluster::embedded();
    let node = cluster.node().config(&config).expect("is sound");
    let node = node.codec(Codec::Json).route(1, |_, cx| cx.respond("hi"));
    let _node = node.start().expect("starts");
    let gate = cluster.gate().config(&config).expect("is sound");
    let gate = gate.start().expect("starts");
    assert_eq!(gate.client_addrs().len(), 2);

    let registered = &cluster.registry().services("gate").expect("is in memory")[0];
    assert_eq!(
        (&*registered.alias, &*registered.metadata["zone"]),
        ("gate-1", "eu")
    );
    let registered = &cluster.registry().services("node").expect("is in memory")[0];
    assert_eq!((&*registered.alias, registered.weight), ("game", 7));

    let packets = config.packet_options().expect("is sound");
    assert_ne!(packets, PacketOptions::default());
    let addrs = gate.client_addrs();
    for addr in [addrs[0].to_string(), format!("ws://{}/play", addrs[1])] {
        let client = Client::builder().packets(packets).connect(addr);
        let client = client.expect("connects");
        assert_eq!(client.request(1, "").expect("is answered"), "\"hi\"");
    }
}

#[test]
fn a_container_takes_its_pid_file_and_its_patience_from_the_configuration() {
    let folder = Folder::with(&[]);
    let (pid, release) = (folder.path("run.pid"), folder.path("release"));
    let text = format!("pid = {pid:?}\nshutdownMaxWaitTime = \"20ms\"\n");
    fs::write(folder.path("etc.toml"), text).expect("writes");
    let config = folder.read().expect("is sound");
    let until = release.clone();
    let container = Container::new().config(&config).add(Slow { until });
    let handle = container.handle();
    let served = thread::spawn(move || container.serve());
    eventually("the file is there", || pid.exists());
    handle.stop();
    let report = served.join().expect("does not panic").expect("starts");
    assert!(!report.is_clean(), "{report}");
    fs::write(release, "").expect("writes");
}

/// A component that closes when a file is there.
struct Slow {
    until: PathBuf,
}

impl Component for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn start(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
        eventually("it may close", || self.until.exists());
        Ok(())
    }
}

#[test]
fn listeners_of_one_gate_must_agree() {
    let text = "[network.tcp.server]\naddr = \":0\"\nheartbeatInterval = \"1s\"\n[network.ws.server]\naddr = \":0\"\n";
    let config = Folder::with(&[("etc.toml", text)])
        .read()
        .expect("is sound");
    let error = Cluster::embedded()
        .gate()
        .config(&config)
        .expect_err("they differ");
    let told = error.to_string();
    assert!(told.contains("write the same into each"), "{error}");
    let place =
        "etc.toml:3:21: network.tcp.server.heartbeatInterval: it differs from that of network.ws";
    assert!(told.contains(place), "{error}");
}

#[test]
fn a_value_that_cannot_be_used_is_told_with_its_file_line_and_key() {
    let refused = |text: &str| {
        let folder = Folder::with(&[("etc.toml", text)]);
        match folder.read() {
            Err(error) => error.to_string(),
            Ok(config) => {
                let gate = Cluster::embedded().gate().config(&config);
                gate.expect_err("it cannot be used").to_string()
            }
        }
    };
    let kcp = "[network.kcp.server]\naddr = \":0\"\n";
    let mut cases = vec![
        (
            "[cluster.gate]\naddr = \"here:x\"\n".to_owned(),
            "etc.toml:2:8: cluster.gate.addr: ",
        ),
        (
            "[cluster.mesh]\naddr = \"127.0.0.1:99999\"\n".to_owned(),
            "etc.toml:2:8: cluster.mesh.addr: ",
        ),
        (
            "[network.ws.server]\naddr = \"tcp://:1\"\n".to_owned(),
            "etc.toml:2:8: network.ws.server.addr: ",
        ),
        (
            "[network.tcp.server]\naddr = \":0\"\ncertFile = \"none.pem\"\nkeyFile = \"none.pem\"\n"
                .to_owned(),
            "etc.toml:3:12: network.tcp.server.certFile: ",
        ),
        (
            "[network.tcp.server]\naddr = \":0\"\nkeyFile = \"none.pem\"\n".to_owned(),
            "etc.toml:3:11: network.tcp.server.keyFile: ",
        ),
    ];
    if cfg!(feature = "kcp") {
        cases.extend([
            (
                format!("{kcp}mtu = 10\n"),
                "etc.toml:3:7: network.kcp.server.mtu: ",
            ),
            (
                format!("{kcp}windowSize = [0, 128]\n"),
                "etc.toml:3:14: network.kcp.server.windowSize: ",
            ),
        ]);
    }
    for (text, expected) in cases {
        let told = refused(&text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn users_may_come_back_to_a_gate_if_it_is_configured() {
    let text = "[cluster.gate.resume]\nwindow = \"1m\"\nbuffer = \"32K\"\nlifetime = \"2h\"\nmaxUsers = 50\nmaxBytes = \"8M\"\nwindw = 1\n";
    let config = Folder::with(&[("etc.toml", text)])
        .read()
        .expect("is sound");
    let resume = &config.resume;
    assert_eq!(resume.window, Some(Duration::from_secs(60)));
    assert_eq!(resume.buffer, Some(32 << 10));
    assert_eq!(resume.lifetime, Some(Duration::from_secs(7200)));
    assert_eq!(resume.max_users, Some(50));
    assert_eq!(resume.max_bytes, Some(8 << 20));
    let warning = &config.warnings()[0];
    assert!(
        warning.ends_with("did you mean `cluster.gate.resume.window`?"),
        "{warning}"
    );

    // The gate takes it.
    let text = "[cluster.gate.resume]\nbuffer = \"9M\"\n";
    let config = Folder::with(&[("etc.toml", text)])
        .read()
        .expect("is sound");
    let gate = Cluster::embedded().gate().config(&config);
    let gate = gate.expect("is sound").listen("tcp://127.0.0.1:0");
    let error = gate.start().expect_err("is too much");
    assert!(error.to_string().contains("outbound limit"), "{error}");
}
