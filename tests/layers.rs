//! Checks the layers: the imports between folders, and that unsafe code stays in `sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders and files of `src` from the bottom to the top. Each may import only those earlier in this list.
const ORDER: [&str; 25] = [
    "error",
    "fault",
    "charset",
    "authority",
    "addr",
    "panic",
    "metrics",
    "balance",
    "simnet",
    "sys",
    "clock",
    "buf",
    "workers",
    "tls",
    "codec",
    "http",
    "ws",
    "kcp",
    "engine",
    "fetch",
    "gateway",
    "rpc",
    "testing",
    "cluster",
    "lib",
];

/// The protocols, which use no sockets and no clocks. They are directly above `codec`, and the engine imports none of them.
const PROTOCOLS: [&str; 6] = [
    "http",
    "ws",
    "kcp",
    "rpc::wire",
    "cluster::packet",
    "cluster::drpc",
];

/// The parts of `cluster` from the bottom to the top. Each may import those of its own tier and of earlier ones.
const CLUSTER: [&[&str]; 8] = [
    &[
        "chance", "codec", "crypto", "ending", "error", "follower", "guarded", "keyed", "mode",
        "monitor", "no_kcp", "polled", "reactors", "roles", "seldom", "text", "uuid", "watch",
    ],
    &["packet", "drpc", "backends", "over_kcp"],
    &[
        "registry", "locator", "dispatch", "config", "center", "eventbus", "lock", "cache",
        "logging",
    ],
    &["link"],
    &["session"],
    &["admin", "gate", "node", "client", "mesh", "http"],
    &["embedded"],
    &["container"],
];

/// The features that `full` leaves out: each needs a server of others, and some need packages to be built.
const BACKENDS: [&str; 9] = [
    "consul", "etcd", "grpc", "kafka", "memcache", "nacos", "nats", "rabbitmq", "redis",
];

const RUNTIMES: [&str; 6] = [
    "async-executor",
    "async-std",
    "futures-executor",
    "monoio",
    "smol",
    "tokio",
];

#[test]
fn folders_are_used_from_above_only() {
    let mut uses = 0;
    for (user, used) in imports() {
        let (user_top, used_top) = (top_of(&user), top_of(&used));
        if user_top != used_top {
            uses += 1;
            assert!(
                place_of(used_top) < place_of(user_top),
                "{user} uses {used}, which is not below it"
            );
        }
    }
    assert!(uses > 100, "only {uses} imports found");
}

#[test]
fn no_folder_has_a_circle_among_its_children() {
    let imports = imports();
    let folders: BTreeSet<_> = imports
        .iter()
        .flat_map(|(user, _)| ancestors(user))
        .collect();
    assert!(folders.len() > 10, "only {} folders found", folders.len());
    for folder in folders {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (user, used) in &imports {
            // The folder's own `mod.rs` is not a child: it declares the children and holds the items that they share.
            let (Some(from), Some(to)) = (child(&folder, user), child(&folder, used)) else {
                continue;
            };
            if from != to {
                edges.entry(from).or_default().insert(to);
            }
        }
        if let Some(circle) = circle(&edges) {
            panic!("a circle in `{folder}`: {}", circle.join(" -> "));
        }
    }
}

#[test]
fn the_parts_of_the_cluster_are_used_from_above_only() {
    let tier = |part: &str| CLUSTER.iter().position(|tier| tier.contains(&part));
    let mut uses = 0;
    for (user, used) in imports() {
        let (Some(user_part), Some(used_part)) = (child("cluster", &user), child("cluster", &used))
        else {
            continue;
        };
        if user_part == used_part {
            continue;
        }
        uses += 1;
        let place =
            |part: &str| tier(part).unwrap_or_else(|| panic!("{part} has no tier in CLUSTER"));
        assert!(
            place(&used_part) <= place(&user_part),
            "{user} uses {used}, which is not below it"
        );
    }
    assert!(uses > 10, "only {uses} imports found");
}

#[test]
fn protocols_know_nothing_of_the_engine_nor_it_of_them() {
    let is_protocol = |module: &str| PROTOCOLS.iter().any(|protocol| is_in(module, protocol));
    let mut uses = 0;
    for (user, used) in imports() {
        if is_protocol(&user) && !is_protocol(&used) {
            uses += 1;
            assert!(
                is_in(&user, top_of(&used)) || place_of(top_of(&used)) <= place_of("codec"),
                "{user} uses {used}, which is above the codecs"
            );
        }
        if is_in(&user, "engine") {
            assert!(!is_protocol(&used), "{user} uses the protocol {used}");
        }
    }
    assert!(uses > 20, "only {uses} imports found");
}

#[test]
fn every_folder_has_its_place() {
    let found: BTreeSet<String> = modules()
        .iter()
        .map(|module| top_of(module).to_owned())
        .collect();
    for top in &found {
        place_of(top);
    }
    for top in ORDER {
        assert!(found.contains(top), "{top} is gone");
    }
}

#[test]
fn what_is_peculiar_to_a_platform_is_kept_in_sys() {
    let peculiar = ["target_os", "target_vendor", "libc::", "rustix::", "/proc/"];
    let mut found = Vec::new();
    for file in library() {
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
            // Every other part is within quotes.
            let words: Vec<_> = (code.split('"').step_by(2))
                .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'))
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
            // A value of the wire format, which can also mean success.
            let is_value = line.contains("for Status ");
            assert!(!by_hand || is_value, "{}: {line}", file.display());
        }
    }
    assert!(users > 10, "only {users} errors found");
}

#[test]
fn the_core_links_no_async_runtime() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--features", "full", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo is here, since it runs this test");
    let errors = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{errors}");
    let tree = String::from_utf8(tree.stdout).expect("is text");
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("mio") && names.len() > 50, "{names:?}");
    for runtime in RUNTIMES {
        assert!(!names.contains(runtime), "{runtime}");
    }
}

#[test]
fn full_has_all_features_but_those_of_backends() {
    let manifest: toml::Table = read(Path::new("Cargo.toml")).parse().expect("is TOML");
    let features = manifest["features"].as_table().expect("is a table");
    let full = features["full"].as_array().expect("is a list");
    let full: BTreeSet<_> = full.iter().filter_map(toml::Value::as_str).collect();
    let wanted: BTreeSet<_> = features
        .keys()
        .map(String::as_str)
        .filter(|name| !["default", "full"].contains(name) && !BACKENDS.contains(name))
        .collect();
    assert_eq!(full, wanted);
}

/// Returns all source files.
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

/// Returns the source files of the library. The program in `src/bin` is a crate of its own.
fn library() -> Vec<PathBuf> {
    let mut files = sources();
    files.retain(|file| !file.starts_with("src/bin"));
    files
}

/// Returns a file's module path: `src/http/mod.rs` is `http`, `src/http/head.rs` is `http::head`.
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

/// Returns the paths of all modules.
fn modules() -> BTreeSet<String> {
    library().iter().map(|file| module_of(file)).collect()
}

/// Returns the first part of a module's path.
fn top_of(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn place_of(top: &str) -> usize {
    let place = ORDER.iter().position(|known| *known == top);
    place.unwrap_or_else(|| panic!("{top} has no layer; add it to ORDER in tests/layers.rs"))
}

/// Returns true if a module is `folder` or in it.
fn is_in(module: &str, folder: &str) -> bool {
    module
        .strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns the folders that contain a module, including `src` itself as the empty path.
fn ancestors(module: &str) -> Vec<String> {
    let ends = module
        .match_indices("::")
        .map(|(at, _)| module[..at].to_owned());
    std::iter::once(String::new()).chain(ends).collect()
}

/// Returns the child of `folder` that is the module or contains it.
fn child(folder: &str, module: &str) -> Option<String> {
    let inner = match folder {
        "" => module,
        folder => module.strip_prefix(folder)?.strip_prefix("::")?,
    };
    Some(top_of(inner).to_owned())
}

/// Returns a circle among the edges, if there is one.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(begin) = way.iter().position(|before| before == at) {
            way.drain(..begin);
            way.push(at.to_owned());
            return true;
        }
        if !done.insert(at.to_owned()) {
            return false;
        }
        way.push(at.to_owned());
        let leads_back = edges
            .get(at)
            .is_some_and(|next| next.iter().any(|next| walk(next, edges, way, done)));
        if !leads_back {
            way.pop();
        }
        leads_back
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|from| {
        let mut way = Vec::new();
        walk(from, edges, &mut way, &mut done).then_some(way)
    })
}

/// Returns pairs of modules, of which the first imports the second: by a path with `crate::` or `super::`, outside tests.
fn imports() -> Vec<(String, String)> {
    let modules = modules();
    let mut found = Vec::new();
    for file in library() {
        let user = module_of(&file);
        // Tests may import any module.
        if user.split("::").any(|part| part == "tests") {
            continue;
        }
        for path in paths(&file, &user) {
            let used = (0..=path.len())
                .rev()
                .filter(|at| *at == path.len() || path[*at..].starts_with("::"))
                .map(|at| &path[..at])
                .find(|prefix| modules.contains(*prefix));
            // Any other path is an item of the crate's root.
            let used = used.unwrap_or("lib").to_owned();
            if used != user && used != "lib" {
                found.push((user.clone(), used));
            }
        }
    }
    found
}

/// Returns the paths in a file's code.
fn paths(file: &Path, module: &str) -> Vec<String> {
    let text = read(file);
    let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
    let code = code.split("#[cfg(all(test, ").next().unwrap_or(code);
    let mut used = Vec::new();
    for statement in code.split(';') {
        // Comments may link to every layer.
        let statement: String = statement
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for (at, _) in statement.match_indices("crate::") {
            expand("", &statement[at + "crate::".len()..], &mut used);
        }
        // The parent of a `mod.rs` is one level up, as that of any other file.
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        for (at, _) in statement.match_indices("super::") {
            if statement[..at].ends_with("pub(in ") || statement[..at].ends_with("super::") {
                continue;
            }
            expand(parent, &statement[at + "super::".len()..], &mut used);
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
        // A module, or something in the one before it.
        _ => into.push(join(if name == "self" { "" } else { &name })),
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("is readable")
}
