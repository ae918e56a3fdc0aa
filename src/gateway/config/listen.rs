use super::access::{access, auth};
use super::limit;
use super::read::{Reader, Table};
use crate::gateway::Users;
use crate::gateway::settings::{
    ClientTimeouts, Datagrams, ForwardedFor, ListenerKind, ListenerSettings, OnFin, TargetSettings,
    Underscores,
};

/// Reads a `[[listen]]`.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> ListenerSettings {
    let on: Option<String> = table.get(reader, "on", "on");
    if !table.had("on") {
        table.missing(reader, "on", "it needs `on`, such as \"tcp://0.0.0.0:80\"");
    }
    let on = on.unwrap_or_else(|| "tcp://127.0.0.1:0".to_owned());
    let mut listener = ListenerSettings::new(on);
    kind(reader, &mut table, &mut listener.kind);
    if listener.kind == ListenerKind::Forward {
        listener = ListenerSettings::forward(listener.on);
    }
    listener.pool = table.get(reader, "pool", "pool");
    datagrams(reader, &mut table, &mut listener.datagrams);
    #[cfg(feature = "tls")]
    if let Some(value) = table.take(reader, "tls", "tls") {
        let protocols: &[&str] = match listener.kind {
            ListenerKind::Tcp => &[],
            _ => &["http/1.1"],
        };
        let read = tls::read(reader, value, protocols);
        (listener.tls, listener.client_auth_digest) = read.unzip();
        if listener.tls.is_none() {
            table.is_reported(reader, "sni_match");
        }
    }
    #[cfg(not(feature = "tls"))]
    if let Some(value) = table.take(reader, "tls", "tls") {
        value.wrong(reader, "it needs the cargo feature `tls`");
    }
    let into = &mut listener;
    table.set(reader, "bind", "bind", &mut into.bind);
    table.set(reader, "sni_match", "sni_match", &mut into.sni_match);
    table.set(
        reader,
        "proxy_protocol",
        "proxy_protocol",
        &mut into.proxy_protocol,
    );
    table.set(
        reader,
        "proxy_status",
        "proxy_status",
        &mut into.proxy_status,
    );
    let words = [
        ("drop", Underscores::Drop),
        ("pass", Underscores::Pass),
        ("refuse", Underscores::Refuse),
    ];
    table.set_word(
        reader,
        "underscores",
        "underscores",
        &words,
        &mut into.underscores,
    );
    let words = [("cancel", OnFin::Cancel), ("finish", OnFin::Finish)];
    table.set_word(reader, "on_fin", "on_fin", &words, &mut into.on_fin);
    if let Some(table) = table.table(reader, "timeout", "timeouts") {
        timeouts(reader, table, &mut into.timeouts);
    }
    if let Some(mut table) = table.table(reader, "tunnel", "tunnels") {
        let into = &mut into.tunnels;
        table.set(reader, "handshake", "handshake", &mut into.handshake);
        table.set(reader, "connect", "connect", &mut into.connect);
        table.set(reader, "idle", "idle", &mut into.idle);
        table.set(reader, "bind", "bind", &mut into.bind);
        table.finish(reader);
    }
    if let Some(table) = table.table(reader, "target", "targets") {
        targets(reader, table, &mut into.targets);
    }
    if let Some(value) = table.take(reader, "users", "users") {
        let path = value.value.as_str().map(|path| reader.path(path));
        match path.map(Users::from_file) {
            Some(Ok(users)) => into.users = Some(users),
            Some(Err(error)) => value.wrong(reader, &error.to_string()),
            None => value.wrong(reader, "write the path of a file with users"),
        }
    }
    if let Some(mut table) = table.table(reader, "egress", "egress") {
        table.set(reader, "allow", "allow", &mut into.egress.allow);
        table.set(reader, "deny", "deny", &mut into.egress.deny);
        if let Some(value) = table.take(reader, "via", "via") {
            into.via = super::via(reader, value);
        }
        table.finish(reader);
    }
    access(reader, &mut table, &mut into.access);
    into.auth = auth(reader, &mut table);
    limit::limits(reader, &mut table, "listener", &mut into.rate_limits);
    limits(reader, &mut table, into);
    forwarding(reader, &mut table, into);
    table.set(reader, "health", "health_path", &mut listener.health_path);
    table.finish(reader);
    listener
}

fn kind(reader: &mut Reader, table: &mut Table<'_>, kind: &mut ListenerKind) {
    let Some(value) = table.take(reader, "kind", "kind") else {
        return;
    };
    match value.value.as_str() {
        Some("reverse") => *kind = ListenerKind::Reverse,
        Some("metrics") => *kind = ListenerKind::Metrics,
        Some("forward") => *kind = ListenerKind::Forward,
        Some("socks5") => *kind = ListenerKind::Socks5,
        Some("tcp") => *kind = ListenerKind::Tcp,
        Some("udp") => *kind = ListenerKind::Udp,
        _ => value.wrong(
            reader,
            "use \"reverse\", \"forward\", \"socks5\", \"tcp\", \"udp\" or \"metrics\"",
        ),
    }
}

fn targets(reader: &mut Reader, mut table: Table<'_>, into: &mut TargetSettings) {
    table.set(reader, "max_idle", "max_idle", &mut into.max_idle);
    table.set(
        reader,
        "idle_timeout",
        "idle_timeout",
        &mut into.idle_timeout,
    );
    table.set(
        reader,
        "response_head",
        "response_head",
        &mut into.response_head,
    );
    table.set(reader, "body_idle", "body_idle", &mut into.body_idle);
    table.set(reader, "request", "request", &mut into.request);
    let limits = &mut into.limits;
    table.set_size(reader, "max_head", "max_head", &mut limits.max_head);
    table.set(
        reader,
        "max_headers",
        "max_headers",
        &mut limits.max_headers,
    );
    table.set(reader, "retries", "retries", &mut into.retries);
    table.set_size(reader, "retry_body", "retry_body", &mut into.retry_body);
    table.finish(reader);
}

fn datagrams(reader: &mut Reader, table: &mut Table<'_>, into: &mut Datagrams) {
    table.set(reader, "udp", "datagrams.associate", &mut into.associate);
    table.set(reader, "udp_idle", "datagrams.idle", &mut into.idle);
    table.set(
        reader,
        "max_sessions",
        "datagrams.max_sessions",
        &mut into.max_sessions,
    );
    let advertise = &mut into.advertise;
    table.set(reader, "udp_advertise", "datagrams.advertise", advertise);
}

fn timeouts(reader: &mut Reader, mut table: Table<'_>, into: &mut ClientTimeouts) {
    table.set(reader, "head", "head", &mut into.head);
    table.set(reader, "idle", "idle", &mut into.idle);
    table.set(reader, "body_idle", "body_idle", &mut into.body_idle);
    table.set(reader, "write_stall", "write_stall", &mut into.write_stall);
    table.set(reader, "max_age", "max_age", &mut into.max_age);
    table.finish(reader);
}

fn limits(reader: &mut Reader, table: &mut Table<'_>, listener: &mut ListenerSettings) {
    let into = &mut listener.limits;
    table.set_size(reader, "max_head", "limits.max_head", &mut into.max_head);
    table.set(
        reader,
        "max_headers",
        "limits.max_headers",
        &mut into.max_headers,
    );
    if let Some(super::read::Size(bytes)) = table.get(reader, "max_body", "limits.max_body") {
        into.max_body = bytes;
    }
    table.set(
        reader,
        "max_requests",
        "limits.max_requests",
        &mut into.max_requests,
    );
    table.set(
        reader,
        "max_clients",
        "limits.max_clients",
        &mut into.max_clients,
    );
    let per_ip = &mut into.max_clients_per_ip;
    table.set(
        reader,
        "max_clients_per_ip",
        "limits.max_clients_per_ip",
        per_ip,
    );
    table.set_size(
        reader,
        "high_water",
        "limits.high_water",
        &mut into.high_water,
    );
}

fn forwarding(reader: &mut Reader, table: &mut Table<'_>, listener: &mut ListenerSettings) {
    let into = &mut listener.forwarding;
    let words = [
        ("append", ForwardedFor::Append),
        ("replace", ForwardedFor::Replace),
        ("off", ForwardedFor::Off),
    ];
    table.set_word(
        reader,
        "xff",
        "forwarding.x_forwarded_for",
        &words,
        &mut into.x_forwarded_for,
    );
    table.set(reader, "trusted", "forwarding.trusted", &mut into.trusted);
    table.set(
        reader,
        "x_real_ip",
        "forwarding.x_real_ip",
        &mut into.x_real_ip,
    );
    table.set(
        reader,
        "x_forwarded",
        "forwarding.x_forwarded",
        &mut into.x_forwarded,
    );
    table.set(
        reader,
        "forwarded",
        "forwarding.forwarded",
        &mut into.forwarded,
    );
    table.set(reader, "via", "forwarding.via", &mut into.via);
    table.set(
        reader,
        "max_loops",
        "forwarding.max_loops",
        &mut into.max_loops,
    );
}

#[cfg(feature = "tls")]
mod tls {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use crate::gateway::config::MAX_FILE;
    use crate::gateway::config::read::{Reader, Table, Value};
    use crate::sys::files::read_at_most;
    use crate::tls::{Identity, Roots, TlsError, TlsServer};

    /// Reads `tls`: a table with a certificate, or an array of them. The first one is for clients that name no host.
    ///
    /// `protocols` are those to choose from by ALPN. Also returns a number that differs if clients are asked for certificates by other rules.
    pub(super) fn read(
        reader: &mut Reader,
        value: Value<'_>,
        protocols: &[&str],
    ) -> Option<(TlsServer, u64)> {
        let (span, key) = (value.span.clone(), value.key.clone());
        let tables = match value.value {
            toml::de::DeValue::Table(_) => vec![value.into_table(reader, "tls")?],
            _ => {
                let items = value.into_items(reader, "tls").into_iter();
                items
                    .filter_map(|item| item.into_table(reader, "tls"))
                    .collect()
            }
        };
        let mut identities = Vec::new();
        let mut clients = None;
        let mut digest = DefaultHasher::new();
        for mut table in tables {
            let at = table.span.clone();
            identities.extend(identity(reader, &mut table, &key));
            let ca: Option<String> = table.get(reader, "client_ca", "");
            let mut required = true;
            let words = [("require", true), ("request", false)];
            table.set_word(reader, "client_auth", "", &words, &mut required);
            if let Some(ca) = ca {
                let path = reader.path(&ca);
                let bytes = read_at_most(MAX_FILE, &path).ok().flatten();
                (required, bytes).hash(&mut digest);
                match Roots::from_pem_file(path) {
                    Ok(_) if clients.is_some() => reader.problem(
                        at,
                        format!("{key}: one of the certificates has `client_ca` already; it counts for all"),
                    ),
                    Ok(roots) => clients = Some((roots, required)),
                    Err(error) => reader.problem(at, format!("{key}: {error}")),
                }
            }
            table.finish(reader);
        }
        let mut identities = identities.into_iter();
        let first = identities.next()?;
        let built = (|| {
            let server = identities.fold(TlsServer::new(first)?, TlsServer::identity);
            let server = server.alpn(protocols);
            Ok::<_, TlsError>(match &clients {
                Some((roots, true)) => server.require_client_certificate(roots)?,
                Some((roots, false)) => server.request_client_certificate(roots)?,
                None => server,
            })
        })();
        let server = built
            .map_err(|error| reader.problem(span, format!("{key}: {error}")))
            .ok()?;
        Some((server, digest.finish()))
    }

    fn identity(reader: &mut Reader, table: &mut Table<'_>, key: &str) -> Option<Identity> {
        crate::gateway::config::identity(reader, table, key, true)
    }
}
