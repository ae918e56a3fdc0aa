//! The layout is the architecture: who may use whom, and what is kept in `sys`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom to the top: each may use those before it, and its own.
///
/// A module is meant with everything in it, except for what another layer names more closely.
const LAYERS: [&[&str]; 22] = [
    &[
        "balance",
        "clock",
        "charset",
        "testing::link",
        "testing::tally",
    ],
    &["testing::network"],
    &[
        "sys",
        "error",
        "authority",
        "addr",
        "metrics",
        "panic",
        "pool",
    ],
    &["tls", "udp"],
    &["stream", "listen", "connect", "resolve"],
    &["buf"],
    &["codec"],
    &["rpc::wire"],
    &[
        "reactor::timer",
        "reactor::turns",
        "reactor::mailbox",
        "reactor::slots",
        "reactor::admission",
        "reactor::bind",
        "reactor::listeners",
        "reactor::recency",
        "reactor::socket_path",
    ],
    &["handover"],
    &["conn"],
    &["reactor::ports"],
    &["handler"],
    &["reactor"],
    &["acceptor"],
    &["server"],
    &["client"],
    &["rpc"],
    &["testing"],
    &["http"],
    &["ws"],
    &["lib"],
];

/// Uses within a layer: none but these, so that the lowest layers stay leaves.
const WITHIN: [(&str, &str); 8] = [
    ("addr", "authority"),
    ("addr", "error"),
    ("sys", "addr"),
    ("pool", "error"),
    ("pool", "panic"),
    ("reactor::listeners", "reactor::admission"),
    ("reactor::listeners", "reactor::bind"),
    ("reactor::bind", "reactor::socket_path"),
];

#[test]
fn imports_go_one_way() {
    let mut uses = 0;
    for file in sources() {
        let user = module_of(&file);
        for used in imports(&file, &user) {
            uses += 1;
            let (upper, lower) = (layer_of(&user), layer_of(&used));
            let (from, to) = (LAYERS[upper.0][upper.1], LAYERS[lower.0][lower.1]);
            let within = from == to || WITHIN.contains(&(from, to));
            assert!(
                lower.0 < upper.0 || within,
                "{} uses crate::{used}, which is not below it",
                file.display()
            );
        }
    }
    assert!(uses > 50, "only {uses} imports found");
}

#[test]
fn every_module_has_its_layer() {
    let modules: BTreeSet<_> = sources().iter().map(|file| module_of(file)).collect();
    let top: BTreeSet<_> = modules
        .iter()
        .map(|module| module.split("::").next().unwrap_or(module))
        .collect();
    for module in &top {
        let known = LAYERS.iter().any(|layer| layer.contains(module));
        assert!(
            known,
            "{module} is in no layer: say in tests/layers.rs where it belongs"
        );
    }
    for layer in LAYERS.iter().flat_map(|layer| layer.iter()) {
        assert!(modules.contains(*layer), "{layer} is gone");
    }
}

#[test]
fn what_is_peculiar_to_a_platform_is_kept_in_sys() {
    let peculiar = ["target_os", "target_vendor", "libc::", "rustix::", "/proc/"];
    let mut found = Vec::new();
    for file in sources() {
        if module_of(&file).starts_with("sys") {
            continue;
        }
        for (n, line) in read(&file).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if peculiar.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", file.display(), n + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_is_kept_in_sys_and_says_why_it_is_sound() {
    let mut blocks = 0;
    for file in sources() {
        let text = read(&file);
        let lines: Vec<_> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            let words: Vec<_> = code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            let place = format!("{}:{}: {}", file.display(), n + 1, line.trim());
            if words.contains(&"unsafe") || words.contains(&"unsafe_code") {
                assert!(module_of(&file).starts_with("sys"), "{place}");
            }
            if words.contains(&"unsafe") {
                blocks += 1;
                let before = lines[..n].iter().rev();
                let mut comment = before.take_while(|line| line.trim_start().starts_with("//"));
                assert!(comment.any(|line| line.contains("SAFETY: ")), "{place}");
            }
        }
    }
    assert!(blocks > 5, "only {blocks} unsafe blocks found");
}

#[test]
fn errors_have_their_messages_from_one_macro() {
    let mut users = 0;
    for file in sources() {
        let text = read(&file);
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        users += code.matches("error_messages! {").count();
        for line in code.lines() {
            let by_hand = line.starts_with("impl") && line.contains("error::Error for");
            // A value on the wire, which may say that all is well.
            let is_value = line.contains("for Status ");
            assert!(!by_hand || is_value, "{}: {line}", file.display());
        }
    }
    assert!(users > 10, "only {users} errors found");
}

#[test]
fn the_core_links_no_async_runtime() {
    let lock = fs::read_to_string("Cargo.toml").expect("is readable");
    let dependencies = lock.split("[dev-dependencies]").next().unwrap_or(&lock);
    for runtime in ["tokio", "async-std", "smol", "futures"] {
        assert!(!dependencies.contains(runtime), "{runtime}");
    }
}

/// All source files.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("is a directory") {
            let path = entry.expect("is an entry").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(Path::new("src"), &mut files);
    assert!(files.len() > 20);
    files
}

/// A file's module path: `src/conn/mod.rs` is `conn`, `src/conn/close.rs` is `conn::close`.
fn module_of(file: &Path) -> String {
    let inner = file
        .strip_prefix("src")
        .expect("is a source file")
        .with_extension("");
    let parts: Vec<_> = inner.iter().map(|part| part.to_string_lossy()).collect();
    let path = parts.join("::");
    path.strip_suffix("::mod")
        .map(str::to_owned)
        .unwrap_or(path)
}

/// The layer of a module and its place there, by the longest name that fits.
fn layer_of(module: &str) -> (usize, usize) {
    let mut best = None;
    for (n, layer) in LAYERS.iter().enumerate() {
        for (place, name) in layer.iter().enumerate() {
            let fits = module == *name || module.starts_with(&format!("{name}::"));
            if fits && best.is_none_or(|(length, _)| name.len() > length) {
                best = Some((name.len(), (n, place)));
            }
        }
    }
    best.unwrap_or_else(|| panic!("{module} is in no layer")).1
}

/// The modules that a file's code uses, tests apart: whatever stands behind `crate::` or `super::`.
fn imports(file: &Path, module: &str) -> Vec<String> {
    let text = read(file);
    let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
    let code = code.split("#[cfg(all(test, loom))]").next().unwrap_or(code);
    let mut used = Vec::new();
    for statement in code.split(';') {
        // Comments name what they like, with links into every layer.
        let statement: String = statement
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for (at, _) in statement.match_indices("crate::") {
            expand("", &statement[at + "crate::".len()..], &mut used);
        }
        if let Some((_, path)) = statement.split_once("use super::") {
            // A file that is its directory's `mod.rs` has its parent one level up, as any other has.
            let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
            expand(parent, path, &mut used);
        }
    }
    used.retain(|path| !path.is_empty());
    used
}

/// Takes `a::{b, c::D}` apart into `a::b` and `a::c`, as far as modules go.
fn expand(prefix: &str, path: &str, into: &mut Vec<String>) {
    let join = |name: &str| match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, name) => format!("{prefix}::{name}"),
    };
    let path = path.trim_start();
    if let Some(group) = path.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    expand(prefix, &group[start..at], into);
                    start = at + 1;
                    if character == '}' {
                        return;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let name: String = path
        .chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect();
    let is_module = name.starts_with(|first: char| first.is_lowercase()) && name != "self";
    match path[name.len()..].strip_prefix("::") {
        Some(rest) if is_module => expand(&join(&name), rest, into),
        // A name with a capital, or a function of the module before it.
        _ => into.push(prefix.to_owned()),
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("is readable")
}
