use toml::de::DeValue;

use super::read::{Reader, Table};
use crate::gateway::settings::{LimitBy, LimitSettings, Rate};

/// Reads `limit` of a listener or a route, a table or an array of them: `{ rate = "100/s", burst = 200, by = "ip" }`. `whole` is
/// the word for all requests.
pub(super) fn limits(
    reader: &mut Reader,
    table: &mut Table<'_>,
    whole: &str,
    into: &mut Vec<LimitSettings>,
) {
    let place = table.place_of("rate_limits");
    let Some(value) = table.take(reader, "limit", "rate_limits") else {
        return;
    };
    if let DeValue::Array(_) = value.value {
        for (n, item) in (0..).zip(value.into_items(reader, &place)) {
            let table = item.into_table(reader, &format!("{place}[{n}]"));
            let read = table.and_then(|table| limit(reader, table, whole));
            // One that cannot be read keeps its place, since places are numbers, and is like no other.
            into.push(read.unwrap_or_else(|| {
                let mut unread = LimitSettings::new(Rate::per_second(1));
                unread.max_keys = u32::MAX - n;
                unread
            }));
        }
        return;
    }
    let table = value.into_table(reader, &format!("{place}[0]"));
    into.extend(table.and_then(|table| limit(reader, table, whole)));
}

fn limit(reader: &mut Reader, mut table: Table<'_>, whole: &str) -> Option<LimitSettings> {
    let rate: Option<Rate> = table.get(reader, "rate", "rate");
    if !table.had("rate") {
        let problem = format!("{}: it needs `rate`, such as \"100/s\"", table.key);
        reader.problem(table.span.clone(), problem);
    }
    let burst = table.get(reader, "burst", "burst");
    let max_keys = table.get(reader, "max_keys", "max_keys");
    let by = table.take(reader, "by", "by");
    let by = by.and_then(|value| {
        let word = value.value.as_str().unwrap_or_default();
        match word.split_once(':') {
            Some(("header", name)) => Some(LimitBy::Header(name.to_owned())),
            None if word == "ip" => Some(LimitBy::Ip),
            None if word == whole => Some(LimitBy::All),
            _ => {
                let remedy = format!("use \"ip\", \"header:NAME\" or \"{whole}\"");
                value.wrong(reader, &remedy);
                None
            }
        }
    });
    table.finish(reader);
    let mut limit = LimitSettings::new(rate?);
    limit.burst = burst.unwrap_or(limit.burst);
    limit.max_keys = max_keys.unwrap_or(limit.max_keys);
    limit.by = by.unwrap_or(limit.by);
    Some(limit)
}
