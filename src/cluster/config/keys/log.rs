//! The keys of `log`.

use log::{Level, LevelFilter};

use super::Effect::{self, Sets};
use super::{Keys, set};
use crate::cluster::config::value::{Problem, Value};
use crate::cluster::config::{LogConfig, LogFormat, LogRotation, TerminalConfig};

pub(super) const LOG: Keys<LogConfig> = &[
    (
        "level",
        Sets(|log, value| set(&mut log.level, Some(level(value.text()?)?))),
    ),
    (
        "stackLevel",
        Sets(|log, value| set(&mut log.stack_level, Some(level(value.text()?)?))),
    ),
    (
        "timeFormat",
        Sets(|log, value| set(&mut log.time_format, Some(time_format(value.text()?)?))),
    ),
    (
        "callFullPath",
        Sets(|log, value| set(&mut log.full_path, Some(value.flag()?))),
    ),
    ("terminals", Sets(terminals)),
    (
        "terminals.console",
        Sets(|log, value| only(&mut log.console, &mut log.file, value)),
    ),
    (
        "terminals.file",
        Sets(|log, value| only(&mut log.file, &mut log.console, value)),
    ),
    (
        "console.format",
        Sets(|log, value| set(&mut log.console.format, Some(format(value.text()?)?))),
    ),
    (
        "file.format",
        Sets(|log, value| set(&mut log.file.format, Some(format(value.text()?)?))),
    ),
    (
        "file.path",
        Sets(|log, value| set(&mut log.path, value.path()?)),
    ),
    (
        "file.maxAge",
        Sets(|log, value| set(&mut log.max_age, Some(value.time()?))),
    ),
    (
        "file.maxSize",
        Sets(|log, value| set(&mut log.max_size, Some(value.size()? as u64))),
    ),
    (
        "file.rotate",
        Sets(|log, value| set(&mut log.rotation, Some(rotation(value.text()?)?))),
    ),
    (
        "file.compress",
        Effect::None("files of the log stay as they are; `gzip` them outside if they need room"),
    ),
    (
        "callSkip",
        Effect::None("the place of a record is that of its macro"),
    ),
];

/// The parts of a time as Go writes them, longer ones before those that they begin with, and as `chrono` does.
const TIME_PARTS: [(&str, &str); 22] = [
    (".000000000", "%.9f"),
    (".000000", "%.6f"),
    (".000", "%.3f"),
    ("-07:00", "%:z"),
    ("Z07:00", "%:z"),
    ("-0700", "%z"),
    ("January", "%B"),
    ("Monday", "%A"),
    ("2006", "%Y"),
    ("MST", "%Z"),
    ("Jan", "%b"),
    ("Mon", "%a"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("15", "%H"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("PM", "%p"),
    ("_2", "%e"),
];

fn level(text: &str) -> Result<LevelFilter, Problem> {
    match text {
        "trace" => Ok(LevelFilter::Trace),
        "debug" => Ok(LevelFilter::Debug),
        "info" => Ok(LevelFilter::Info),
        "warn" => Ok(LevelFilter::Warn),
        // The most serious level that there is.
        "error" | "fatal" | "panic" => Ok(LevelFilter::Error),
        "none" | "" => Ok(LevelFilter::Off),
        other => Err(format!(
            "{other:?} is not one of trace, debug, info, warn, error, fatal, panic, none"
        )),
    }
}

fn format(text: &str) -> Result<LogFormat, Problem> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is not one of text, json")),
    }
}

fn rotation(text: &str) -> Result<LogRotation, Problem> {
    match text {
        "none" => Ok(LogRotation::None),
        "hour" => Ok(LogRotation::Hour),
        "day" => Ok(LogRotation::Day),
        other => Err(format!("{other:?} is not one of none, hour, day")),
    }
}

/// Turns a format of Go into one of `chrono`.
fn time_format(mut text: &str) -> Result<String, Problem> {
    let (mut format, mut found) = (String::new(), false);
    while let Some(char) = text.chars().next() {
        if let Some((part, ours)) = TIME_PARTS.iter().find(|(part, _)| text.starts_with(part)) {
            format.push_str(ours);
            (text, found) = (&text[part.len()..], true);
            continue;
        }
        match char {
            '%' => format.push_str("%%"),
            char => format.push(char),
        }
        text = &text[char.len_utf8()..];
    }
    let remedy = "write the time of 2 January 2006, 15:04:05, as in \"2006/01/02 15:04:05.000000\"";
    found.then_some(format).ok_or_else(|| remedy.to_owned())
}

/// Reads the list of terminals.
fn terminals(log: &mut LogConfig, value: Value<'_>) -> Result<(), Problem> {
    let names = value.list();
    let names = names.map_err(|_| "use an array: [\"console\"], [\"file\"] or both".to_owned())?;
    if let Some(other) = names
        .iter()
        .find(|name| !["console", "file"].contains(&&***name))
    {
        return Err(format!("{other:?} is not one of console, file"));
    }
    let is_on = |name: &str| Some(names.iter().any(|listed| listed == name));
    log.console.is_on = is_on("console");
    log.file.is_on = is_on("file");
    Ok(())
}

/// Reads the levels of a terminal. The other one is off, unless it is named as well.
fn only(
    terminal: &mut TerminalConfig,
    other: &mut TerminalConfig,
    value: Value<'_>,
) -> Result<(), Problem> {
    let names = value.list();
    let names = names.map_err(|_| "use an array of levels, such as [\"error\"]".to_owned())?;
    let levels: Result<Vec<Option<Level>>, Problem> = (names.iter())
        .map(|name| level(name).map(|level| level.to_level()))
        .collect();
    terminal.levels = Some(levels?.into_iter().flatten().collect());
    terminal.is_on = Some(true);
    other.is_on.get_or_insert(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::time_format;

    #[test]
    fn times_of_go_are_told_to_chrono() {
        for (go, ours) in [
            ("2006/01/02 15:04:05.000000", "%Y/%m/%d %H:%M:%S%.6f"),
            ("2006-01-02T15:04:05Z07:00", "%Y-%m-%dT%H:%M:%S%:z"),
            ("Mon, 02 Jan 06 03:04PM 100%", "%a, %d %b %y %I:%M%p 100%%"),
        ] {
            assert_eq!(time_format(go).as_deref(), Ok(ours));
        }
        assert!(time_format("%Y").is_err_and(|problem| problem.contains("2006")));
    }
}
