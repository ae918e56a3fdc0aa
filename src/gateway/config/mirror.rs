use super::read::{Reader, Table};
use crate::gateway::settings::MirrorSettings;

/// Reads `mirror` of a route: `{ pool = "shadow", percent = 10 }`.
pub(super) fn mirror(reader: &mut Reader, table: &mut Table<'_>) -> Option<MirrorSettings> {
    let mut table = table.table(reader, "mirror", "mirror")?;
    let pool: Option<String> = table.get(reader, "pool", "pool");
    if !table.had("pool") {
        table.missing(reader, "pool", "it needs `pool`, the NAME of a [pool.NAME]");
    }
    let mut mirror = MirrorSettings::to(pool.unwrap_or_default());
    let into = &mut mirror;
    table.set(reader, "percent", "percent", &mut into.percent);
    table.set_size(reader, "max_body", "max_body", &mut into.max_body);
    let in_flight = &mut into.max_in_flight;
    table.set(reader, "max_in_flight", "max_in_flight", in_flight);
    table.set(reader, "timeout", "timeout", &mut into.timeout);
    table.finish(reader);
    Some(mirror)
}
