//! `epicycle new`: a project to begin with.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

/// Makes a folder with a project: sources, a test, a configuration
///
/// The project compiles and its test passes as it is.
///
/// Examples:
///   epicycle new game arena
///   epicycle new node lobby --path ../epicycle
///   epicycle new mesh bank --grpc
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Flags {
    /// The part of a cluster that it is
    kind: Kind,
    /// Its name, which is that of the folder too: a small letter, then small letters, digits, - and _
    name: String,
    /// For a mesh: its services are those of a .proto file, over gRPC
    #[arg(long)]
    grpc: bool,
    /// The folder in which the project's folder is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
    /// The folder of epicycle's sources. Default: the one from which this program was built
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Holds clients
    Gate,
    /// Runs the application
    Node,
    /// Has services that are called by name
    Mesh,
    /// A mesh over gRPC
    #[value(skip)]
    MeshGrpc,
    /// Connects to a gate
    Client,
    /// A gate and a node in one process
    Game,
}

/// The path and the text of each file of a template.
type Template = &'static [(&'static str, &'static str)];

const SERDE: &str = "serde = { version = \"1\", features = [\"derive\"] }\n";
const ENV_LOGGER: &str = "env_logger = { version = \"0.11\", default-features = false }\n";
const JSON: &str = "serde_json = \"1\"\n";
const FOR_TESTS: &str = "\n[dev-dependencies]\n";

macro_rules! template {
    ($kind:literal $(, $path:literal = $file:literal)*) => {
        template!(
            $kind,
            main = "all/etcd_main.rs.txt",
            (
                "etc/etc.toml",
                concat!(
                    include_str!(concat!("templates/", $kind, "/etc.toml.txt")),
                    include_str!("templates/all/log.toml.txt"),
                )
            )
            $(, ($path, include_str!(concat!("templates/", $kind, "/", $file))))*
        )
    };
    ($kind:literal, main = $main:literal $(, $file:expr)*) => {
        &[
            ("Cargo.toml", include_str!("templates/all/Cargo.toml.txt")),
            (".gitignore", include_str!("templates/all/gitignore.txt")),
            ("README.md", include_str!(concat!("templates/", $kind, "/README.md.txt"))),
            ("src/main.rs", include_str!(concat!("templates/", $main))),
            ("src/lib.rs", include_str!(concat!("templates/", $kind, "/lib.rs.txt"))),
            ("tests/@kind@.rs", include_str!(concat!("templates/", $kind, "/test.rs.txt"))),
            $($file,)*
        ]
    };
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Gate => "gate",
            Kind::Node => "node",
            Kind::Mesh | Kind::MeshGrpc => "mesh",
            Kind::Client => "client",
            Kind::Game => "game",
        }
    }

    fn template(self) -> Template {
        match self {
            Kind::Gate => template!("gate"),
            Kind::Node => template!("node"),
            Kind::Mesh => template!("mesh"),
            Kind::MeshGrpc => template!(
                "mesh_grpc",
                "build.rs" = "build.rs.txt",
                "proto/wallet.proto" = "wallet.proto.txt"
            ),
            Kind::Client => template!("client", main = "client/main.rs.txt"),
            Kind::Game => template!("game", main = "game/main.rs.txt"),
        }
    }

    /// Returns the features of epicycle that the template needs.
    fn features(self) -> &'static str {
        match self {
            Kind::Gate | Kind::Node | Kind::Mesh => r#"["cluster", "etcd", "logfile"]"#,
            Kind::MeshGrpc => r#"["cluster", "etcd", "grpc", "logfile"]"#,
            Kind::Client | Kind::Game => r#"["cluster"]"#,
        }
    }

    /// Returns the other dependencies, as lines of a manifest.
    fn dependencies(self) -> String {
        match self {
            Kind::Gate => String::new(),
            Kind::Node => [SERDE, FOR_TESTS, JSON].concat(),
            Kind::Mesh => SERDE.to_owned(),
            Kind::MeshGrpc => include_str!("templates/mesh_grpc/dependencies.toml.txt").to_owned(),
            Kind::Client => [ENV_LOGGER, SERDE, JSON].concat(),
            Kind::Game => [ENV_LOGGER, SERDE, FOR_TESTS, JSON].concat(),
        }
    }
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    check(&flags.name)?;
    let kind = match (flags.kind, flags.grpc) {
        (Kind::Mesh, true) => Kind::MeshGrpc,
        (_, true) => return Err("--grpc is for a mesh".into()),
        (kind, false) => kind,
    };
    let sources = sources(flags.path.as_deref())?;
    let dir = flags.into.join(&flags.name);
    fs::create_dir(&dir)
        .map_err(|error| format!("{}: {error}; choose another name, or --into", dir.display()))?;
    let epicycle = format!(
        "{{ path = {:?}, features = {} }}",
        sources.display().to_string(),
        kind.features()
    );
    for (path, text) in kind.template() {
        let mut text = text.replace("@name@", &flags.name);
        text = text.replace("@crate@", &flags.name.replace('-', "_"));
        text = text.replace("@kind@", kind.name());
        if *path == "Cargo.toml" {
            text = text.replace("@epicycle@", &epicycle);
            text = text.replace("@dependencies@", &kind.dependencies());
        }
        let file = dir.join(path.replace("@kind@", kind.name()));
        let made = file.parent().map_or(Ok(()), fs::create_dir_all);
        let made = made.and_then(|()| fs::write(&file, text));
        made.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    println!(
        "{} is a {}. Next: cd {0} && cargo test",
        dir.display(),
        kind.name()
    );
    Ok(ExitCode::SUCCESS)
}

/// Checks a name of a package, which is that of its crate too.
fn check(name: &str) -> Result<(), String> {
    let is_part =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_lowercase());
    if !begins || name.len() > 64 || !name.bytes().all(is_part) {
        return Err(format!(
            "{name:?} is no name of a package; use a small letter, then small letters, digits, - and _"
        ));
    }
    // Keywords, the crates that the templates use, and what cargo refuses.
    let taken = [
        "as",
        "async",
        "await",
        "break",
        "const",
        "continue",
        "crate",
        "dyn",
        "else",
        "enum",
        "env_logger",
        "epicycle",
        "extern",
        "false",
        "fn",
        "for",
        "gen",
        "if",
        "impl",
        "in",
        "let",
        "loop",
        "match",
        "mod",
        "move",
        "mut",
        "pub",
        "ref",
        "return",
        "self",
        "serde",
        "serde_json",
        "static",
        "struct",
        "super",
        "test",
        "trait",
        "true",
        "type",
        "unsafe",
        "use",
        "where",
        "while",
        "core",
        "std",
        "alloc",
        "build",
        "deps",
        "examples",
        "incremental",
        "abstract",
        "become",
        "box",
        "do",
        "final",
        "macro",
        "override",
        "priv",
        "proc-macro",
        "prost",
        "protox",
        "tonic",
        "tonic_prost",
        "tonic_prost_build",
        "try",
        "typeof",
        "unsized",
        "virtual",
        "yield",
    ];
    match taken.contains(&name) || taken.contains(&&*name.replace('-', "_")) {
        true => Err(format!(
            "{name:?} has another meaning for Rust; choose another name"
        )),
        false => Ok(()),
    }
}

/// Returns the folder of epicycle's sources.
fn sources(given: Option<&Path>) -> Result<PathBuf, String> {
    let dir = given.unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")));
    let is_there = dir.join("Cargo.toml").is_file();
    match dir.canonicalize() {
        Ok(dir) if is_there => Ok(dir),
        _ => Err(format!(
            "{} does not have epicycle's sources; tell where they are by --path",
            dir.display()
        )),
    }
}
