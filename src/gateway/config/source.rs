use std::time::Duration;

use super::read::{Reader, Table};
use crate::gateway::settings::{ChildForm, DnsSettings, Secret, SourceSettings, ZooKeeperSettings};

/// The kinds of sources, and their options.
const KINDS: [(&str, &[&str]); 2] = [
    ("dns", &["every"]),
    ("zk", &["by", "auth", "session_timeout"]),
];

/// Reads `{ dns = "app.internal:8080" }` or another source, with its options.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> Option<SourceSettings> {
    let (span, key) = (table.span.clone(), table.key.clone());
    let dns: Option<String> = table.get(reader, "dns", "dns");
    let zk: Option<String> = table.get(reader, "zk", "zk");
    let every: Option<Duration> = table.get(reader, "every", "every");
    let mut form = ChildForm::default();
    let words = [("name", ChildForm::Name), ("data", ChildForm::Data)];
    table.set_word(reader, "by", "form", &words, &mut form);
    let auth: Option<String> = table.get(reader, "auth", "auth");
    let session_timeout: Option<Duration> = table.get(reader, "session_timeout", "session_timeout");
    let kinds: Vec<_> = KINDS.iter().filter(|(kind, _)| table.had(kind)).collect();
    match kinds[..] {
        [] => {
            let remedy = "it needs a source, such as dns = \"app.internal:8080\" or zk = \"zk1:2181/services/app\"";
            reader.problem(span, format!("{key}: {remedy}"));
        }
        [(kind, options)] => {
            let all = KINDS.iter().flat_map(|(_, options)| *options);
            let others = all.filter(|option| !options.contains(option) && table.had(option));
            for option in others {
                let problem = format!("{key}.{option}: it is no option of `{kind}`; remove it");
                reader.problem(span.clone(), problem);
            }
        }
        _ => reader.problem(
            span,
            format!("{key}: a pool has one source; remove the others"),
        ),
    }
    table.finish(reader);
    if let Some(name) = dns {
        let mut dns = DnsSettings::new(name);
        if let Some(every) = every {
            dns.every = every;
        }
        return Some(SourceSettings::Dns(dns));
    }
    let mut zk = ZooKeeperSettings::new(zk?);
    zk.form = form;
    zk.auth = auth.map(Secret::new);
    if let Some(timeout) = session_timeout {
        zk.session_timeout = timeout;
    }
    Some(SourceSettings::ZooKeeper(zk))
}
