use bytes::Bytes;
use toml::de::DeValue;

use super::access::{access, route_auth};
use super::limit::limits;
use super::mirror::mirror;
use super::read::{Reader, Size, Table, Value};
use super::split::split;
use crate::gateway::settings::{ErrorPage, FieldChanges, HostField, RouteSettings, WebSocketMode};
use crate::sys::files::read_at_most;

/// The most bytes of the page of an error.
const MAX_PAGE: u64 = 1 << 20;

/// Reads a `[[route]]`.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> RouteSettings {
    let pool: Option<String> = table.get(reader, "pool", "pool");
    if !table.had("pool") && !table.had("split") {
        let remedy = "it needs `pool`, the NAME of a [pool.NAME]";
        table.missing(reader, "pool", remedy);
    }
    let mut route = RouteSettings::to(pool.unwrap_or_default());
    let into = &mut route;
    table.set(reader, "name", "name", &mut into.name);
    table.set(reader, "host", "host", &mut into.host);
    table.set(reader, "path", "path", &mut into.path);
    access(reader, &mut table, &mut into.access);
    route_auth(reader, &mut table, &mut into.auth);
    limits(reader, &mut table, "route", &mut into.rate_limits);
    split(reader, &mut table, into);
    into.mirror = mirror(reader, &mut table);
    table.set(
        reader,
        "strip_prefix",
        "strip_prefix",
        &mut into.strip_prefix,
    );
    table.set(reader, "add_prefix", "add_prefix", &mut into.add_prefix);
    table.set(reader, "rewrite", "rewrite", &mut into.rewrite);
    if let Some(host) = table.get::<String>(reader, "host_field", "host_field") {
        into.host_field = match host.as_str() {
            "keep" => HostField::Keep,
            "node" => HostField::Node,
            _ => HostField::Name(host),
        };
    }
    if let Some(table) = table.table(reader, "request", "request") {
        into.request = changes(reader, table);
    }
    if let Some(table) = table.table(reader, "response", "response") {
        into.response = changes(reader, table);
    }
    if let Some(Size(bytes)) = table.get(reader, "max_body", "max_body") {
        into.max_body = Some(bytes);
    }
    table.set_size(
        reader,
        "buffer_request",
        "buffer_request",
        &mut into.buffer_request,
    );
    table.set(
        reader,
        "flush_interval",
        "flush_interval",
        &mut into.flush_interval,
    );
    compress(reader, &mut table, &mut into.compress);
    table.set(reader, "upgrade", "upgrade", &mut into.upgrade);
    let words = [
        ("tunnel", WebSocketMode::Tunnel),
        ("frames", WebSocketMode::Frames),
    ];
    table.set_word(
        reader,
        "websocket",
        "websocket",
        &words,
        &mut into.websocket,
    );
    if let Some(mut pages) = table.table(reader, "error_pages", "error_pages") {
        for value in pages.rest() {
            if let Some((status, page)) = page(reader, &value) {
                into.error_pages.insert(status, page);
            }
        }
    }
    table.finish(reader);
    route
}

/// Reads `compress`: true, or `{ level = 5 }`.
fn compress(reader: &mut Reader, table: &mut Table<'_>, into: &mut Option<u8>) {
    const LEVEL: u8 = 5;
    let place = table.place_of("compress");
    let Some(value) = table.take(reader, "compress", "compress") else {
        return;
    };
    match value.value {
        DeValue::Boolean(is_on) => *into = is_on.then_some(LEVEL),
        DeValue::Table(_) => {
            if let Some(mut table) = value.into_table(reader, &place) {
                let level = table.get(reader, "level", "");
                table.finish(reader);
                *into = Some(level.unwrap_or(LEVEL));
            }
        }
        _ => value.wrong(reader, "use true, false, or { level = 5 }"),
    }
}

fn changes(reader: &mut Reader, mut table: Table<'_>) -> FieldChanges {
    let mut changes = FieldChanges::default();
    table.set(reader, "remove", "remove", &mut changes.remove);
    for (name, into) in [("set", &mut changes.set), ("add", &mut changes.add)] {
        if let Some(mut table) = table.table(reader, name, name) {
            for value in table.rest() {
                match &value.value {
                    // A field may come several times.
                    DeValue::Array(_) => {
                        let values: Option<Vec<String>> = value.read(reader);
                        let name = value.name();
                        into.extend(
                            values
                                .into_iter()
                                .flatten()
                                .map(|text| (name.to_owned(), text)),
                        );
                    }
                    _ => {
                        if let Some(text) = value.read(reader) {
                            into.push((value.name().to_owned(), text));
                        }
                    }
                }
            }
        }
    }
    table.finish(reader);
    changes
}

/// Reads `502 = "502.html"`.
fn page(reader: &mut Reader, value: &Value<'_>) -> Option<(u16, ErrorPage)> {
    let path: String = value.read(reader)?;
    let Ok(status) = value.name().parse() else {
        value.wrong(reader, "the key must be a status such as 502");
        return None;
    };
    let content_type = match path.rsplit_once('.') {
        Some((_, "html" | "htm")) => "text/html; charset=utf-8",
        Some((_, "json")) => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    match read_at_most(MAX_PAGE, &reader.path(&path)) {
        Ok(None) => {
            value.wrong(reader, "the page is larger than 1 MiB");
            None
        }
        Ok(Some(body)) => Some((
            status,
            ErrorPage {
                content_type: content_type.to_owned(),
                body: Bytes::from(body),
            },
        )),
        Err(error) => {
            value.wrong(reader, &format!("cannot read {path}: {error}"));
            None
        }
    }
}
