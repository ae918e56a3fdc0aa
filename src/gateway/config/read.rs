use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::addr::network;
use crate::fault::nearest;
use crate::gateway::egress::EgressRule;
use crate::gateway::settings::Rate;

/// Bytes of the file, from the first to behind the last.
pub(super) type Span = Range<usize>;

/// Collects the problems of a file while its tables are read, and remembers where each setting stands.
pub(super) struct Reader {
    /// The folder of the file. Paths in the file are relative to it.
    folder: PathBuf,
    problems: Vec<(Span, String)>,
    /// By their paths in [`Settings`](crate::gateway::settings::Settings).
    settings: HashMap<String, Setting>,
    /// Settings whose faults follow from others that are reported.
    reported: HashSet<String>,
}

/// A setting that stands in the file.
struct Setting {
    /// Its key in the file.
    key: String,
    span: Span,
}

impl Reader {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            problems: Vec::new(),
            settings: HashMap::new(),
            reported: HashSet::new(),
        }
    }

    pub(super) fn problem(&mut self, span: Span, problem: impl Into<String>) {
        self.problems.push((span, problem.into()));
    }

    /// Adds a problem that was found in a setting.
    pub(super) fn problem_at(&mut self, place: &str, problem: &str) {
        if self.reported.contains(place) {
            return;
        }
        // The setting itself, or the closest one that it is a part of.
        let ends = place
            .char_indices()
            .filter(|(_, char)| matches!(char, '.' | '['));
        let parents = ends.rev().map(|(end, _)| &place[..end]);
        let closest = [place]
            .into_iter()
            .chain(parents)
            .find_map(|part| self.settings.get(part));
        let (span, key) = match closest {
            Some(known) => (known.span.clone(), known.key.as_str()),
            // It is not there at all.
            None if place == "listeners" => (0..0, "listen"),
            None => (0..0, place),
        };
        let problem = format!("{key}: {problem}");
        self.problems.push((span, problem));
    }

    /// Returns all problems in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<(Span, String)> {
        self.problems.sort_by_key(|(span, _)| span.start);
        self.problems
    }

    /// Returns a path of the file, relative to the file's folder.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn remember(&mut self, place: String, key: String, span: Span) {
        self.settings.insert(place, Setting { key, span });
    }
}

/// A value, and the place where it stands.
pub(super) struct Value<'i> {
    pub(super) key: String,
    pub(super) span: Span,
    pub(super) value: DeValue<'i>,
}

/// A table of the file. Each key is taken once; those that are left in the end are unknown.
pub(super) struct Table<'i> {
    entries: BTreeMap<String, (Span, Spanned<DeValue<'i>>)>,
    /// All keys of the table.
    present: BTreeSet<String>,
    /// The keys that the table may have.
    known: Vec<&'static str>,
    /// The path of its settings.
    place: String,
    /// Its own key in the file; empty for the whole file.
    pub(super) key: String,
    pub(super) span: Span,
}

impl<'i> Table<'i> {
    pub(super) fn new(table: DeTable<'i>, key: &str, place: &str, span: Span) -> Self {
        let entries: BTreeMap<_, _> = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span(), value)))
            .collect();
        Self {
            present: entries.keys().cloned().collect(),
            entries,
            known: Vec::new(),
            place: place.to_owned(),
            key: key.to_owned(),
            span,
        }
    }

    /// Takes a value. `place` is the path of its setting, relative to that of the table.
    pub(super) fn take(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
    ) -> Option<Value<'i>> {
        self.known.push(name);
        let (_, value) = self.entries.remove(name)?;
        let (key, span) = (join(&self.key, name), value.span());
        reader.remember(join(&self.place, place), key.clone(), span.clone());
        let value = value.into_inner();
        Some(Value { key, span, value })
    }

    /// Takes a value whose setting has no path of its own.
    pub(super) fn take_unplaced(&mut self, name: &'static str) -> Option<Value<'i>> {
        self.known.push(name);
        let (_, value) = self.entries.remove(name)?;
        Some(Value {
            key: join(&self.key, name),
            span: value.span(),
            value: value.into_inner(),
        })
    }

    /// Returns a value of a type, whose setting has no path of its own.
    pub(super) fn get_unplaced<T: FromValue>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
    ) -> Option<T> {
        self.take_unplaced(name)?.read(reader)
    }

    /// Notes that a fault is reported which makes another one of this setting.
    pub(super) fn is_reported(&mut self, reader: &mut Reader, place: &str) {
        reader.reported.insert(join(&self.place, place));
    }

    /// Reports that a key is missing.
    pub(super) fn missing(&mut self, reader: &mut Reader, place: &str, remedy: &str) {
        self.is_reported(reader, place);
        reader.problem(self.span.clone(), format!("{}: {remedy}", self.key));
    }

    /// Returns true if the table has, or had, a key that was asked for.
    pub(super) fn had(&self, name: &str) -> bool {
        self.present.contains(name)
    }

    /// Returns the path of a setting of this table.
    pub(super) fn place_of(&self, place: &str) -> String {
        join(&self.place, place)
    }

    /// Returns a value of a type.
    pub(super) fn get<T: FromValue>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
    ) -> Option<T> {
        let value = self.take(reader, name, place)?;
        value.read(reader)
    }

    /// Reads a value, if it is there, into `setting`.
    pub(super) fn set<T: FromValue>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
        setting: &mut T,
    ) {
        if let Some(value) = self.get(reader, name, place) {
            *setting = value;
        }
    }

    /// Reads a size in bytes, if it is there, into `setting`.
    pub(super) fn set_size(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
        setting: &mut usize,
    ) {
        if let Some(Size(bytes)) = self.get(reader, name, place) {
            *setting = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
    }

    /// Reads one of several words, if it is there, into `setting`.
    pub(super) fn set_word<T: Clone>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
        words: &[(&str, T)],
        setting: &mut T,
    ) {
        let Some(value) = self.take(reader, name, place) else {
            return;
        };
        let word = value.value.as_str();
        match words.iter().find(|(known, _)| word == Some(known)) {
            Some((_, value)) => *setting = value.clone(),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                reader.problem(
                    value.span,
                    format!("{}: use {}", value.key, words.join(" or ")),
                );
            }
        }
    }

    /// Returns a table in this one.
    pub(super) fn table(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
    ) -> Option<Table<'i>> {
        let place_of_table = join(&self.place, place);
        let value = self.take(reader, name, place)?;
        value.into_table(reader, &place_of_table)
    }

    /// Returns the tables of an array, whose settings are `place[0]` and so on.
    pub(super) fn tables(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
    ) -> Vec<Table<'i>> {
        let place_of_array = join(&self.place, place);
        let Some(value) = self.take(reader, name, place) else {
            return Vec::new();
        };
        let items = value.into_items(reader, &place_of_array);
        let count = items.len();
        let tables: Vec<_> = items
            .into_iter()
            .enumerate()
            .filter_map(|(n, item)| item.into_table(reader, &format!("{place_of_array}[{n}]")))
            .collect();
        if tables.len() < count {
            reader.reported.insert(place_of_array);
        }
        tables
    }

    /// Returns the tables of a table of tables, with their names. Their settings are `place.NAME`.
    pub(super) fn named_tables(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        place: &str,
    ) -> Vec<(String, Table<'i>)> {
        let Some(table) = self.table(reader, name, place) else {
            return Vec::new();
        };
        let (key_of_all, place_of_all) = (table.key, table.place);
        let named = table.entries.into_iter().filter_map(|(name, (_, value))| {
            let (place, span) = (join(&place_of_all, &name), value.span());
            let key = join(&key_of_all, &name);
            reader.remember(place.clone(), key.clone(), span.clone());
            let value = value.into_inner();
            let value = Value { key, span, value };
            Some((name, value.into_table(reader, &place)?))
        });
        named.collect()
    }

    /// Returns all entries that are left, as pairs of key and value.
    pub(super) fn rest(&mut self) -> Vec<Value<'i>> {
        let key_of_table = self.key.clone();
        std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(key, (_, value))| Value {
                span: value.span(),
                key: join(&key_of_table, &key),
                value: value.into_inner(),
            })
            .collect()
    }

    /// Reports the keys that nobody has taken.
    pub(super) fn finish(self, reader: &mut Reader) {
        for (name, (span, _)) in &self.entries {
            let key = join(&self.key, name);
            let near = nearest(name, self.known.iter().copied());
            let remedy = match near {
                Some(known) => format!("did you mean `{known}`?"),
                None => {
                    let mut known = self.known.clone();
                    known.sort_unstable();
                    format!("possible here: {}", known.join(", "))
                }
            };
            reader.problem(span.clone(), format!("{key}: the key is unknown; {remedy}"));
        }
    }
}

impl<'i> Value<'i> {
    /// Returns the value, or reports that it has another type.
    pub(super) fn read<T: FromValue>(&self, reader: &mut Reader) -> Option<T> {
        match T::from_value(&self.value) {
            Ok(value) => Some(value),
            Err(problem) => {
                reader.problem(self.span.clone(), format!("{}: {problem}", self.key));
                None
            }
        }
    }

    pub(super) fn into_table(self, reader: &mut Reader, place: &str) -> Option<Table<'i>> {
        match self.value {
            DeValue::Table(table) => Some(Table::new(table, &self.key, place, self.span)),
            other => {
                let such_as = match (&other, table_for(&self.key)) {
                    (DeValue::Array(_), _) => format!(" such as [{}]", self.key),
                    (_, Some(example)) => format!(" such as {example}"),
                    (_, None) => String::new(),
                };
                let (key, kind) = (&self.key, kind(&other));
                let problem = format!("{key}: use a table{such_as}, not {kind}");
                reader.problem(self.span, problem);
                None
            }
        }
    }

    /// Returns the items of an array, whose settings are `place[0]` and so on.
    pub(super) fn into_items(self, reader: &mut Reader, place: &str) -> Vec<Value<'i>> {
        match self.value {
            DeValue::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(n, item)| {
                    let (key, span) = (format!("{}[{n}]", self.key), item.span());
                    reader.remember(format!("{place}[{n}]"), key.clone(), span.clone());
                    let value = item.into_inner();
                    Value { key, span, value }
                })
                .collect(),
            other => {
                // Its contents have not been read.
                reader.reported.insert(place.to_owned());
                let key = &self.key;
                let problem = match other {
                    DeValue::Table(_) => format!("{key}: write [[{key}]], with two brackets"),
                    other => format!("{key}: use an array, not {}", kind(&other)),
                };
                reader.problem(self.span, problem);
                Vec::new()
            }
        }
    }

    /// Returns the last part of the key.
    pub(super) fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or(&self.key)
    }

    pub(super) fn wrong(&self, reader: &mut Reader, problem: &str) {
        reader.problem(self.span.clone(), format!("{}: {problem}", self.key));
    }
}

/// Returns an example of the table that belongs to a key.
fn table_for(key: &str) -> Option<&'static str> {
    let name = key.rsplit('.').next().unwrap_or(key);
    let name = name.split('[').next().unwrap_or(name);
    Some(match name {
        "auth" => "{ users = \"users.txt\" }",
        "discover" => "{ dns = \"app.internal:8080\" }",
        "egress" => "{ allow = [\"*.example.org\"] }",
        "eject" => "{ failures = 5 }",
        "health" => "{ http = \"/healthz\" }",
        "limit" => "{ rate = \"100/s\" }",
        "listen" => "{ on = \"tcp://127.0.0.1:8080\" }",
        "mirror" => "{ pool = \"shadow\" }",
        "retry_budget" => "{ percent = 20, floor = 10 }",
        "route" => "{ pool = \"app\" }",
        "timeout" if key.starts_with("listen") => "{ idle = \"75s\" }",
        "timeout" => "{ connect = \"5s\" }",
        "tls" if key.starts_with("pool") => "{ ca = \"ca.pem\" }",
        _ if key.strip_prefix("pool.") == Some(name) => "{ nodes = [\"http://10.0.0.1:9000\"] }",
        _ => return None,
    })
}

fn join(parent: &str, name: &str) -> String {
    match (parent, name) {
        ("", name) => name.to_owned(),
        (parent, "") => parent.to_owned(),
        (parent, name) if name.starts_with('[') => format!("{parent}{name}"),
        (parent, name) => format!("{parent}.{name}"),
    }
}

/// A type of values in the file.
pub(super) trait FromValue: Sized {
    /// Returns the value, or the problem and its remedy.
    fn from_value(value: &DeValue<'_>) -> Result<Self, String>;
}

impl FromValue for String {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("use a text in quotes, not {}", kind(value))),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("use true or false, not {}", kind(value)))
    }
}

impl FromValue for f64 {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let text = match value {
            DeValue::Float(float) => Some(float.as_str()),
            DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str()),
            _ => None,
        };
        text.and_then(|text| text.parse::<f64>().ok())
            .filter(|number| number.is_finite())
            .ok_or_else(|| format!("use a number such as 1.25, not {}", kind(value)))
    }
}

macro_rules! integers {
    ($($integer:ty)+) => {$(
        impl FromValue for $integer {
            fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
                let DeValue::Integer(integer) = value else {
                    return Err(format!("use a whole number, not {}", kind(value)));
                };
                <$integer>::from_str_radix(integer.as_str(), integer.radix())
                    .map_err(|_| format!("use a number from 0 to {}", <$integer>::MAX))
            }
        }
    )+};
}

integers!(u8 u16 u32 u64 usize);

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        T::from_value(value).map(Some)
    }
}

impl FromValue for Duration {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let remedy = "write a time such as \"2s\" or \"500ms\", or \"none\" for no limit";
        match value.as_str() {
            Some("none") => Ok(Duration::MAX),
            Some(text) => {
                humantime::parse_duration(text).map_err(|error| format!("{error}; {remedy}"))
            }
            None => Err(remedy.to_owned()),
        }
    }
}

/// A number of bytes: an integer, or a text with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromValue for Size {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        if let DeValue::Integer(_) = value {
            return u64::from_value(value).map(Size);
        }
        let text = value.as_str();
        text.and_then(size).map(Size).ok_or_else(|| {
            "write a number of bytes, or a size such as \"256KiB\" or \"none\" for no limit"
                .to_owned()
        })
    }
}

fn size(text: &str) -> Option<u64> {
    if text == "none" {
        return Some(u64::MAX);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl FromValue for IpAddr {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let ip = value.as_str().and_then(|text| text.parse().ok());
        ip.ok_or_else(|| "write an IP address such as \"192.0.2.1\"".to_owned())
    }
}

impl FromValue for IpNet {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let network = value.as_str().and_then(network);
        network.ok_or_else(|| "write a network such as \"10.0.0.0/8\", or an IP address".to_owned())
    }
}

impl FromValue for EgressRule {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some(text) => text.parse(),
            None => Err(format!(
                "use a text such as \"*.example.org:443\", not {}",
                kind(value)
            )),
        }
    }
}

impl FromValue for Rate {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default();
        text.parse().map_err(str::to_owned)
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Array(items) = value else {
            return Err(format!("use an array, not {}", kind(value)));
        };
        items
            .iter()
            .map(|item| T::from_value(item.get_ref()))
            .collect()
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("17B", Some(17)),
            ("256KiB", Some(256 << 10)),
            ("1 MiB", Some(1 << 20)),
            ("2kB", Some(2000)),
            ("none", Some(u64::MAX)),
            ("", None),
            ("KiB", None),
            ("-1", None),
            ("1.5MiB", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("18446744073709551615KiB", None),
            ("1Kib", None),
        ] {
            assert_eq!(size(text), wanted, "{text}");
        }
    }
}
