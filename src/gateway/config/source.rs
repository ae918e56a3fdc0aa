use std::time::Duration;

use super::read::{Reader, Table};
use crate::gateway::settings::{DnsSettings, SourceSettings};

/// Reads `{ dns = "app.internal:8080" }`, with the options of the source.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> Option<SourceSettings> {
    let (span, key) = (table.span.clone(), table.key.clone());
    let dns: Option<String> = table.get(reader, "dns", "dns");
    let every: Option<Duration> = table.get(reader, "every", "every");
    if !table.had("dns") {
        let remedy = "it needs a source, such as dns = \"app.internal:8080\"";
        reader.problem(span, format!("{key}: {remedy}"));
    }
    table.finish(reader);
    let mut dns = DnsSettings::new(dns?);
    if let Some(every) = every {
        dns.every = every;
    }
    Some(SourceSettings::Dns(dns))
}
