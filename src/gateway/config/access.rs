use toml::de::DeValue;

use super::read::{Reader, Table};
use crate::gateway::Users;
use crate::gateway::settings::{Access, BasicAuth, RouteAuth};

/// Reads `allow` and `deny` of a listener or a route.
pub(super) fn access(reader: &mut Reader, table: &mut Table<'_>, into: &mut Access) {
    table.set(reader, "allow", "access.allow", &mut into.allow);
    table.set(reader, "deny", "access.deny", &mut into.deny);
}

/// Reads `auth` of a listener: `{ users = "users.txt", realm = "Staging" }`.
pub(super) fn auth(reader: &mut Reader, table: &mut Table<'_>) -> Option<BasicAuth> {
    let table = table.table(reader, "auth", "auth")?;
    basic(reader, table)
}

/// Reads `auth` of a route, which may be `false` as well.
pub(super) fn route_auth(reader: &mut Reader, table: &mut Table<'_>, into: &mut RouteAuth) {
    let place = table.place_of("auth");
    let Some(value) = table.take(reader, "auth", "auth") else {
        return;
    };
    match &value.value {
        DeValue::Boolean(false) => *into = RouteAuth::Off,
        DeValue::Table(_) => {
            if let Some(auth) = value
                .into_table(reader, &place)
                .and_then(|table| basic(reader, table))
            {
                *into = RouteAuth::Basic(auth);
            }
        }
        _ => value.wrong(
            reader,
            "use { users = \"users.txt\" }, or false for no password",
        ),
    }
}

fn basic(reader: &mut Reader, mut table: Table<'_>) -> Option<BasicAuth> {
    let span = table.span.clone();
    let path: Option<String> = table.get(reader, "users", "users");
    if !table.had("users") {
        let problem = format!(
            "{}: it needs `users`, the path of a file with users",
            table.key
        );
        reader.problem(span.clone(), problem);
    }
    let key = table.key.clone();
    let users = path.and_then(|path| {
        let read = Users::from_file(reader.path(&path));
        read.map_err(|error| reader.problem(span, format!("{key}.users: {error}")))
            .ok()
    });
    let mut realm = None;
    table.set(reader, "realm", "realm", &mut realm);
    let mut pass = false;
    table.set(reader, "pass", "pass", &mut pass);
    table.finish(reader);
    let mut auth = BasicAuth::new(users?);
    auth.pass = pass;
    if let Some(realm) = realm {
        auth.realm = realm;
    }
    Some(auth)
}
