use super::read::{Reader, Table};
use crate::gateway::settings::AdminSettings;
use crate::sys::files::read_at_most;

/// The most bytes of a file with a token.
const MAX_TOKEN: u64 = 4 << 10;

/// Reads `[admin]`.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> Option<AdminSettings> {
    let listen: Option<String> = table.get(reader, "listen", "listen");
    if !table.had("listen") {
        let remedy = "it needs `listen`, such as \"unix:///run/gateway.sock\"";
        table.missing(reader, "listen", remedy);
    }
    let mut token: Option<String> = table.get(reader, "token", "token");
    if let Some(value) = table.take(reader, "token_file", "token") {
        if token.is_some() {
            value.wrong(reader, "`token` is there as well; remove one of them");
        }
        match value.value.as_str().map(|path| reader.path(path)) {
            None => value.wrong(reader, "write the path of a file with the token"),
            Some(path) => match read_at_most(MAX_TOKEN, &path) {
                Ok(Some(bytes)) => {
                    token = Some(String::from_utf8_lossy(&bytes).trim().to_owned());
                }
                Ok(None) => value.wrong(
                    reader,
                    "the file is larger than 4 KiB; it has the token alone",
                ),
                Err(error) => {
                    value.wrong(reader, &format!("cannot read {}: {error}", path.display()));
                }
            },
        }
    }
    let hosts: Vec<String> = table.get(reader, "hosts", "hosts").unwrap_or_default();
    table.finish(reader);
    let mut admin = AdminSettings::new(listen?);
    if let Some(token) = token {
        admin = admin.token(token);
    }
    admin.hosts = hosts;
    Some(admin)
}
