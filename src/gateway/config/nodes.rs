//! The file of a pool's nodes: `ADDRESS,WEIGHT` a line, or TOML.

use std::path::Path;

use super::read::{Reader, Table};
use super::{ConfigError, Fault, load_text, pool};
use crate::gateway::settings::{NodeAddr, NodeSettings};

/// Reads a file of nodes. One whose name ends in `.toml` has the key `nodes`, as a pool has it.
pub(super) fn load(path: &Path, uses_tls: bool) -> Result<Vec<NodeSettings>, ConfigError> {
    let text = load_text(path)?;
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        return super::document(&text, path, |reader, mut table: Table<'_>| {
            let nodes = pool::nodes(reader, &mut table);
            table.finish(reader);
            check(reader, &nodes, uses_tls);
            nodes
        });
    }
    let (mut nodes, mut faults) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let span = start..start + line.len();
        start = span.end;
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match node(line, uses_tls) {
            Ok(node) => nodes.push(node),
            Err(problem) => faults.push(Fault::at(&text, path, &span, problem)),
        }
    }
    match faults.is_empty() {
        true => Ok(nodes),
        false => Err(ConfigError::Faults(faults)),
    }
}

/// Reads `10.0.0.1:8080,5` or `http://10.0.0.1:8080`.
pub(super) fn node(line: &str, uses_tls: bool) -> Result<NodeSettings, String> {
    let (to, weight) = match line.split_once(',') {
        Some((to, weight)) => (to.trim(), Some(weight.trim())),
        None => (line, None),
    };
    let to = match to.contains("://") {
        true => to.to_owned(),
        false => format!("tcp://{to}"),
    };
    NodeAddr::parse(&to, uses_tls)?;
    let mut node = NodeSettings::new(to);
    if let Some(weight) = weight {
        node.weight = weight
            .parse()
            .map_err(|_| format!("the weight {weight:?} is no number; write 10.0.0.1:8080,5"))?;
    }
    Ok(node)
}

fn check(reader: &mut Reader, nodes: &[NodeSettings], uses_tls: bool) {
    for (n, node) in nodes.iter().enumerate() {
        if let Err(problem) = NodeAddr::parse(&node.to, uses_tls) {
            reader.problem_at(&format!("nodes[{n}]"), &problem);
        }
    }
}
