use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cluster::Error;

type Values = BTreeMap<String, Value>;

/// The greatest index of a list that a path may set.
const MAX_INDEX: usize = 65_535;

/// Takes a path apart: the name of a file, and the rest. A name may have dots, so the longest that there is counts.
fn split<'p>(values: &Values, path: &'p str) -> (&'p str, Option<&'p str>) {
    let ends = path.rmatch_indices('.').map(|(at, _)| at);
    for end in std::iter::once(path.len()).chain(ends) {
        if values.contains_key(&path[..end]) {
            return (&path[..end], path.get(end + 1..));
        }
    }
    match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    }
}

/// Returns the name of the file that a path leads into.
pub(super) fn name<'p>(values: &Values, path: &'p str) -> &'p str {
    split(values, path).0
}

pub(super) fn find<'v>(values: &'v Values, path: &str) -> Option<&'v Value> {
    let (name, rest) = split(values, path);
    let mut value = values.get(name)?;
    for key in rest.into_iter().flat_map(|rest| rest.split('.')) {
        value = match value {
            Value::Object(table) => table.get(key)?,
            Value::Array(list) => list.get(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

pub(super) fn set(values: &mut Values, path: &str, new: Value) -> Result<(), Error> {
    let (name, rest) = split(values, path);
    if name.is_empty() {
        return Err(Error::argument("path", "it is empty; give FILE.KEY"));
    }
    let mut value = values.entry(name.to_owned()).or_insert(Value::Null);
    for key in rest.into_iter().flat_map(|rest| rest.split('.')) {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        value = match value {
            Value::Object(table) => table.entry(key).or_insert(Value::Null),
            Value::Array(list) => {
                let index = key.parse::<usize>().ok();
                let index = index.filter(|index| *index <= list.len().min(MAX_INDEX));
                let Some(index) = index else {
                    let problem =
                        format!("{path:?}: {key} is no place of a list of {}", list.len());
                    return Err(Error::argument("path", problem));
                };
                if index == list.len() {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            _ => {
                let problem =
                    format!("{path:?} leads through a value that is no table, to {key:?}");
                return Err(Error::argument("path", problem));
            }
        };
    }
    *value = new;
    Ok(())
}

pub(super) fn delete(values: &mut Values, path: &str) {
    let (name, rest) = split(values, path);
    let Some(rest) = rest else {
        values.remove(name);
        return;
    };
    let (name, rest) = (name.to_owned(), rest.to_owned());
    let (above, last) = match rest.rsplit_once('.') {
        Some((above, last)) => (Some(above), last),
        None => (None, &*rest),
    };
    let Some(mut value) = values.get_mut(&name) else {
        return;
    };
    for key in above.into_iter().flat_map(|above| above.split('.')) {
        let next = match value {
            Value::Object(table) => table.get_mut(key),
            Value::Array(list) => key.parse::<usize>().ok().and_then(|at| list.get_mut(at)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return,
        }
    }
    match value {
        Value::Object(table) => drop(table.remove(last)),
        Value::Array(list) => {
            if let Some(index) = last.parse().ok().filter(|index| *index < list.len()) {
                list.remove(index);
            }
        }
        _ => {}
    }
}

/// Puts the values of `more` over those of `value`. Tables are merged, everything else is replaced.
pub(super) fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(table), Value::Object(more)) => {
            for (key, more) in more {
                merge(table.entry(key).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more.clone(),
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            (float.abs() < i64::MAX as f64).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(truth) => Some((*truth).into()),
        _ => None,
    }
}

pub(super) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => Some(number.as_f64()? != 0.0),
        Value::String(text) => match &*text.trim().to_ascii_lowercase() {
            "true" | "1" => Some(true),
            "false" | "0" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => number.as_u64().map(Duration::from_nanos),
        Value::String(text) => humantime::parse_duration(text.trim()).ok(),
        _ => None,
    }
}
