//! The projects that `epicycle new` makes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The kinds of projects, with how many of them have a log of their own at the front.
const KINDS: [&[&str]; 6] = [
    &["gate"],
    &["node"],
    &["mesh"],
    &["mesh", "--grpc"],
    &["client"],
    &["game"],
];
const WITH_LOG: usize = 4;

fn name(kind: &[&str]) -> String {
    format!("my-{}", kind.concat().replace("--", "-"))
}

fn run(command: &mut Command) -> Output {
    command.output().expect("starts")
}

#[test]
fn new_projects_compile_and_pass_their_tests() {
    let dir = tempfile::tempdir().expect("is made");
    for kind in KINDS {
        let mut new = Command::new(env!("CARGO_BIN_EXE_epicycle"));
        new.args(["new", kind[0], &name(kind)]).args(&kind[1..]);
        let output = run(new.arg("--into").arg(dir.path()));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind:?}: {errors}");
    }

    // As one workspace with the versions of this package, so that little is downloaded and compiled.
    let members = KINDS.map(name).join("\", \"");
    let workspace = format!("[workspace]\nresolver = \"3\"\nmembers = [\"{members}\"]\n");
    fs::write(dir.path().join("Cargo.toml"), workspace).expect("is written");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("Cargo.lock"), dir.path().join("Cargo.lock")).expect("is copied");
    let cargo = |args: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        run(cargo.args(args).current_dir(dir.path()))
    };
    // This package does not depend on what makes Rust of `.proto` files.
    let is_fetched = |args: &[&str]| cargo(&[&["fetch"], args].concat()).status.success();
    if !is_fetched(&["--offline"]) && !is_fetched(&[]) {
        println!("SKIPPED: the registry of crates cannot be reached");
        return;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = target.parent().expect("is in target");
    let into = target.to_str().expect("is text");
    let output = cargo(&["test", "--offline", "--workspace", "--target-dir", into]);
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(!errors.contains("warning: unused"), "{errors}");
    assert_eq!(told.matches("1 passed").count(), KINDS.len(), "{told}");

    let addrs = [
        "cluster.gate",
        "cluster.node",
        "cluster.mesh",
        "network.tcp.server",
        "network.ws.server",
        "transport.grpc.server",
    ];
    for name in KINDS[..WITH_LOG].iter().map(|kind| name(kind)) {
        let project = dir.path().join(&name);
        let mut program = Command::new(target.join("debug").join(&name));
        program.args(addrs.map(|key| format!("--{key}.addr=127.0.0.1:0")));
        program.env("ETCD", "http://127.0.0.1:1");
        let output = run(program.current_dir(&project));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success(),
            "{name}: there is no etcd: {errors}"
        );
        let log = fs::read_to_string(project.join("log").join(format!("{name}.log")));
        let log = log.expect("is written");
        // That would be a key that is not known.
        assert!(!log.is_empty() && !log.contains("etc.toml"), "{log}");
    }
}
