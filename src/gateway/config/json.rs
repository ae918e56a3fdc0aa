//! The same configuration as JSON.
//!
//! A configuration that comes as JSON is written as TOML and then read as any other, so that both forms mean the same. What
//! goes out as JSON has no secrets.

use std::fmt::Write;

use serde_json::{Map, Number, Value, json};
use toml::de::{DeTable, DeValue};

use crate::gateway::settings::{NodeSettings, NodeState, PoolSettings, Settings};

/// The text in the place of a secret.
pub(in crate::gateway) const REDACTED: &str = "(redacted)";

/// The keys whose values are secrets, in any table.
const SECRETS: [&str; 4] = ["token", "password", "secret", "auth"];

/// The words in names of fields whose values are secrets.
const SECRET_FIELDS: [&str; 6] = ["auth", "cookie", "key", "password", "secret", "token"];

/// Writes a JSON object as TOML: each key of the whole on a line of its own.
///
/// # Errors
///
/// The problem and its remedy, with the key.
pub(super) fn to_toml(json: &Value) -> Result<String, String> {
    let Value::Object(whole) = json else {
        return Err("use an object, such as {\"listen\": [...]}".to_owned());
    };
    let mut text = String::new();
    for (key, value) in whole {
        quote(key, &mut text);
        text.push_str(" = ");
        write_value(key, value, &mut text)?;
        text.push('\n');
    }
    Ok(text)
}

fn write_value(key: &str, value: &Value, text: &mut String) -> Result<(), String> {
    match value {
        Value::Null => return Err(format!("{key}: null is no value; leave the key out")),
        Value::Bool(yes) => text.push_str(if *yes { "true" } else { "false" }),
        Value::Number(number) => {
            // A `String` takes everything.
            let _ = write!(text, "{number}");
        }
        Value::String(string) => quote(string, text),
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                write_value(&format!("{key}[{n}]"), item, text)?;
            }
            text.push(']');
        }
        Value::Object(entries) => {
            text.push_str("{ ");
            for (n, (name, value)) in entries.iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                quote(name, text);
                text.push_str(" = ");
                write_value(&format!("{key}.{name}"), value, text)?;
            }
            text.push_str(" }");
        }
    }
    Ok(())
}

/// Writes a basic string of TOML.
fn quote(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Returns true for the name of a field whose value is a secret.
pub(in crate::gateway) fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_FIELDS.iter().any(|word| name.contains(word))
}

/// Returns a configuration file as JSON, without its secrets. A text that is no TOML is empty.
pub(in crate::gateway) fn redacted(toml: &str) -> Map<String, Value> {
    let (document, _) = DeTable::parse_recoverable(toml);
    table(document.into_inner(), false)
}

fn table(table: DeTable<'_>, is_fields: bool) -> Map<String, Value> {
    let entries = table.into_iter().map(|(key, value)| {
        let key = key.into_inner().into_owned();
        let name = key.to_ascii_lowercase();
        let is_secret = match is_fields {
            true => is_secret_field(&name),
            false => SECRETS.contains(&&*name),
        };
        // The keys below `set` and `add` are fields of messages.
        let is_fields = is_fields || matches!(&*name, "set" | "add");
        let value = match (is_secret, value.into_inner()) {
            // Tables have no secrets themselves.
            (true, DeValue::String(_) | DeValue::Array(_)) => REDACTED.into(),
            (_, value) => self::value(value, is_fields),
        };
        (key, value)
    });
    entries.collect()
}

fn value(value: DeValue<'_>, is_fields: bool) -> Value {
    match value {
        DeValue::String(text) => without_password(&text).into(),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            number.map_or_else(|_| integer.as_str().into(), Value::from)
        }
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(Number::from_f64);
            number.map_or_else(|| float.as_str().into(), Value::Number)
        }
        DeValue::Boolean(yes) => yes.into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => {
            let items = items.into_iter();
            items
                .map(|item| self::value(item.into_inner(), is_fields))
                .collect()
        }
        DeValue::Table(entries) => Value::Object(table(entries, is_fields)),
    }
}

/// Hides the password of a URL: `socks5://user:password@proxy:1080`.
fn without_password(text: &str) -> String {
    let hidden = text.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        // A password may have an @ itself.
        let at = rest[..end].rfind('@').or_else(|| rest.rfind('@'))?;
        let user = rest[..at].split(':').next()?;
        let has_password = rest[..at].contains(':');
        has_password.then(|| format!("{scheme}://{user}:{REDACTED}{}", &rest[at..]))
    });
    hidden.unwrap_or_else(|| text.to_owned())
}

/// Returns the principal settings of a gateway as a configuration file has them: listeners, routes, and pools with their nodes.
pub(in crate::gateway) fn outline(settings: &Settings) -> Map<String, Value> {
    let listeners = settings.listeners.iter();
    let listeners: Vec<Value> = listeners
        .map(|listener| json!({"on": listener.on, "kind": listener.kind.as_str()}))
        .collect();
    let routes = settings.routes.iter().map(|route| {
        let mut json = Map::new();
        for (key, text) in [
            ("name", &route.name),
            ("host", &route.host),
            ("path", &route.path),
        ] {
            if let Some(text) = text {
                json.insert(key.to_owned(), text.as_str().into());
            }
        }
        json.insert("pool".to_owned(), route.pool.as_str().into());
        Value::Object(json)
    });
    let pools = settings.pools.iter().map(|(name, pool)| {
        let nodes = nodes(&pool.nodes);
        (
            name.clone(),
            json!({"balance": pool.balance.as_str(), "nodes": nodes}),
        )
    });
    let pools = Value::Object(pools.collect());
    let mut whole = Map::new();
    whole.insert("listen".to_owned(), listeners.into());
    whole.insert("route".to_owned(), routes.collect());
    whole.insert("pool".to_owned(), pools);
    if let Some(admin) = &settings.admin {
        whole.insert("admin".to_owned(), json!({"listen": admin.listen}));
    }
    whole
}

/// Replaces the nodes of pools in a configuration, unless they come from elsewhere.
pub(in crate::gateway) fn set_nodes<'a>(
    config: &mut Map<String, Value>,
    pools: impl Iterator<Item = (&'a String, &'a PoolSettings)>,
) {
    let Some(Value::Object(known)) = config.get_mut("pool") else {
        return;
    };
    for (name, pool) in pools {
        if let Some(Value::Object(known)) = known.get_mut(name)
            && known.contains_key("nodes")
        {
            known.insert("nodes".to_owned(), nodes(&pool.nodes));
        }
    }
}

fn nodes(nodes: &[NodeSettings]) -> Value {
    let nodes = nodes.iter().map(|node| {
        let mut json = Map::new();
        json.insert("to".to_owned(), without_password(&node.to).into());
        json.insert("weight".to_owned(), node.weight.into());
        if node.backup {
            json.insert("backup".to_owned(), true.into());
        }
        if node.state != NodeState::Up {
            json.insert("state".to_owned(), node.state.as_str().into());
        }
        Value::Object(json)
    });
    nodes.collect()
}

/// Returns the place of the first text that stands for a secret, if there is one.
pub(super) fn redaction(toml: &str) -> Option<usize> {
    toml.find(REDACTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_toml_that_says_the_same() {
        let json = json!({
            "listen": [{"on": "tcp://127.0.0.1:0", "via": false}],
            "pool": {"a b": {"nodes": ["http://a", {"to": "http://b", "weight": 3}], "x": 1.5}},
            "text": "quotes \" and \\ and \u{7f} and \n and é and \u{1f600}",
            "reactors": 4,
        });
        let text = to_toml(&json).expect("is possible");
        assert_eq!(Value::Object(redacted(&text)), json, "{text}");
        let (_, errors) = DeTable::parse_recoverable(&text);
        assert!(errors.is_empty(), "{errors:?}\n{text}");
    }

    #[test]
    fn what_toml_does_not_have_is_refused_with_its_key() {
        let error = to_toml(&json!({"pool": {"a": {"nodes": [null]}}})).expect_err("is null");
        assert!(error.starts_with("pool.a.nodes[0]: null"), "{error}");
        assert!(to_toml(&json!([1])).is_err());
    }

    #[test]
    fn secrets_do_not_get_into_json() {
        let text = "
            admin = { listen = 'unix:///a', token = 'SECRET' }
            pool.a.via = 'socks5://user:SECRET@proxy:1080'
            pool.b.via = 'http://user:SEC/RET@proxy:3128'
            pool.c.discover = { zookeeper = 'a:2181/path', auth = 'user:SECRET' }
            route = [{ request = { set = { Authorization = 'SECRET', X-Api-Key = ['SECRET'], X-Env = 'prod' } } },
                     { response.add = { Set-Cookie = 'SECRET' } }]
            listen = [{ on = 'tcp://:1', tls = { cert = 'a.pem', key = 'a.key' }, users = 'users.txt' }]
        ";
        let json = Value::Object(redacted(text)).to_string();
        assert!(!json.contains("SEC") && !json.contains("RET"), "{json}");
        for open in [
            "prod",
            "a.key",
            "users.txt",
            "proxy:1080",
            "user:(redacted)@",
            "unix:///a",
        ] {
            assert!(json.contains(open), "{open}: {json}");
        }
    }
}
