use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;

use super::read::{FromValue, Reader, Table};
use crate::gateway::settings::{
    ChildForm, DnsSettings, Secret, SourceSettings, SrvSettings, ZooKeeperSettings,
};

/// The kinds of sources, and their options.
const KINDS: [(&str, &[&str]); 3] = [
    ("dns", &["every", "server"]),
    ("srv", &["server"]),
    ("zk", &["by", "auth", "session_timeout"]),
];

/// Reads `{ dns = "app.internal:8080" }` or another source, with its options.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> Option<SourceSettings> {
    let (span, key) = (table.span.clone(), table.key.clone());
    let dns: Option<String> = table.get(reader, "dns", "dns");
    let srv: Option<String> = table.get(reader, "srv", "srv");
    let zk: Option<String> = table.get(reader, "zk", "zk");
    let every: Option<Duration> = table.get(reader, "every", "every");
    let server: Option<NameServer> = table.get(reader, "server", "server");
    let mut form = ChildForm::default();
    let words = [("name", ChildForm::Name), ("data", ChildForm::Data)];
    table.set_word(reader, "by", "form", &words, &mut form);
    let auth: Option<String> = table.get(reader, "auth", "auth");
    let session_timeout: Option<Duration> = table.get(reader, "session_timeout", "session_timeout");
    let kinds: Vec<_> = KINDS.iter().filter(|(kind, _)| table.had(kind)).collect();
    match kinds[..] {
        [] => {
            let remedy = "it needs a source, such as dns = \"app.internal:8080\", srv = \"_http._tcp.app.internal\" or zk = \"zk1:2181/services/app\"";
            reader.problem(span, format!("{key}: {remedy}"));
        }
        [(kind, options)] => {
            let all = KINDS.iter().flat_map(|(_, options)| *options);
            let others = all.filter(|option| !options.contains(option) && table.had(option));
            for option in others.collect::<BTreeSet<_>>() {
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
        dns.server = server.map(|server| server.0);
        return Some(SourceSettings::Dns(dns));
    }
    if let Some(name) = srv {
        let mut srv = SrvSettings::new(name);
        srv.server = server.map(|server| server.0);
        return Some(SourceSettings::Srv(srv));
    }
    let mut zk = ZooKeeperSettings::new(zk?);
    zk.form = form;
    zk.auth = auth.map(Secret::new);
    if let Some(timeout) = session_timeout {
        zk.session_timeout = timeout;
    }
    Some(SourceSettings::ZooKeeper(zk))
}

/// The address of a name server. The port is 53 if it is left out.
#[derive(Clone, Copy)]
struct NameServer(SocketAddr);

impl FromValue for NameServer {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default();
        let without_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let addr = text.parse().or_else(|_| without_port());
        match addr {
            Ok(addr) if addr.port() != 0 => Ok(Self(addr)),
            _ => Err("write the IP address of a name server, such as \"10.0.0.53:53\"".to_owned()),
        }
    }
}
