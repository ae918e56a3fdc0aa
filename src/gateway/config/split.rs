use super::read::{Reader, Table};
use crate::gateway::settings::{PoolRule, RouteSettings};

/// Reads `split`, `sticky` and `when` of a route.
pub(super) fn split(reader: &mut Reader, table: &mut Table<'_>, into: &mut RouteSettings) {
    if let Some(mut pools) = table.table(reader, "split", "split") {
        for value in pools.rest() {
            if let Some(weight) = value.read(reader) {
                into.split.insert(value.name().to_owned(), weight);
            }
        }
    }
    if let Some(value) = table.take(reader, "sticky", "sticky") {
        let text = value.value.as_str().unwrap_or_default();
        match text.strip_prefix("cookie:") {
            Some(name) => into.sticky = Some(name.to_owned()),
            None => value.wrong(reader, "write \"cookie:NAME\""),
        }
    }
    for table in table.tables(reader, "when", "when") {
        into.when.extend(rule(reader, table));
    }
}

/// Reads `{ header = "X-Canary", value = "yes", pool = "canary" }`.
fn rule(reader: &mut Reader, mut table: Table<'_>) -> Option<PoolRule> {
    let header: Option<String> = table.get(reader, "header", "by");
    let cookie: Option<String> = table.get(reader, "cookie", "by");
    let value: Option<String> = table.get(reader, "value", "value");
    let pool: Option<String> = table.get(reader, "pool", "pool");
    let (span, key) = (table.span.clone(), table.key.clone());
    let is_clear = table.had("header") != table.had("cookie") && table.had("pool");
    table.finish(reader);
    if !is_clear {
        let remedy = "it needs `header` or `cookie`, and `pool`: { header = \"X-Canary\", value = \"yes\", pool = \"canary\" }";
        reader.problem(span, format!("{key}: {remedy}"));
    }
    let rule = match (header, cookie) {
        (Some(name), None) => PoolRule::header(name, pool?),
        (None, Some(name)) => PoolRule::cookie(name, pool?),
        _ => return None,
    };
    Some(match value {
        Some(value) => rule.value(value),
        None => rule,
    })
}
