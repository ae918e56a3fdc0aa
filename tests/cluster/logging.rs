//! The log of a process: levels, forms, and files that are renamed and removed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use epicycle::cluster::config::{Config, ConfigError};
use epicycle::cluster::logging::Logger;
use log::{Level, LevelFilter, Log, Record};
use serde_json::Value;
use tempfile::TempDir;

/// The configuration with these lines below `[log]`, and a file in a folder of its own.
fn configured(lines: &str) -> Result<(TempDir, Config), ConfigError> {
    let dir = tempfile::tempdir().expect("is made");
    let file = dir.path().join("logs/game.log");
    let text = format!("[log]\nfile.path = \"{}\"\n{lines}\n", file.display());
    let etc = dir.path().join("etc.toml");
    fs::write(&etc, text).expect("is written");
    let config = Config::read([], [format!("--etc={}", etc.display())])?;
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    Ok((dir, config))
}

fn opened(lines: &str) -> (TempDir, Logger) {
    let (dir, config) = configured(lines).expect("is sound");
    let logger = Logger::open(&config.log).expect("opens");
    (dir, logger)
}

fn write(logger: &Logger, level: Level, text: &str) {
    write_as("game", logger, level, text);
}

fn write_as(target: &str, logger: &Logger, level: Level, text: &str) {
    logger.log(
        &Record::builder()
            .level(level)
            .target(target)
            .file(Some("src/a/rooms.rs"))
            .line(Some(7))
            .args(format_args!("{text}"))
            .build(),
    );
}

/// The names of the files and their texts, in the order of the names.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(dir.join("logs"))
        .expect("is there")
        .map(|entry| {
            let entry = entry.expect("is read");
            let text = fs::read_to_string(entry.path()).expect("is text");
            (entry.file_name().into_string().expect("is text"), text)
        })
        .collect();
    files.sort();
    files
}

fn text(dir: &TempDir) -> String {
    let files = files(dir.path());
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].0, "game.log");
    files[0].1.clone()
}

#[test]
fn a_record_is_a_line_of_text() {
    let (dir, logger) = opened("terminals = [\"file\"]\nlevel = \"info\"");
    write(&logger, Level::Info, "begins\nagain");
    write(&logger, Level::Debug, "too much");
    let text = text(&dir);
    let (head, rest) = text.split_once(']').expect("has a time");
    assert_eq!(rest, " rooms.rs:7 begins\n\tagain\n");
    // 2026/11/29 20:15:01.123456
    let time = head.strip_prefix("INFO[").expect("has its level");
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000/00/00 00:00:00.000000");
}

#[test]
fn a_record_commands_no_terminal() {
    let (dir, logger) = opened("terminals = [\"file\"]");
    write(&logger, Level::Info, "from \x1b[2J\rme:\tä");
    let text = text(&dir);
    assert!(text.ends_with(" from \\u{1b}[2J\\rme:\tä\n"), "{text}");
}

#[test]
fn a_record_is_an_object_with_a_stack_from_a_level_on() {
    let (dir, logger) = opened(
        "terminals = [\"file\"]\nfile.format = \"json\"\nstackLevel = \"error\"\ncallFullPath = true\ntimeFormat = \"06-01-02\"",
    );
    write(&logger, Level::Warn, "a \"quote\"");
    write(&logger, Level::Error, "worse");
    let text = text(&dir);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("is JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(lines[0]["msg"], "a \"quote\"");
    assert_eq!(lines[0]["file"], "src/a/rooms.rs:7");
    assert_eq!(lines[0]["time"].as_str().map(str::len), Some(8));
    assert!(lines[0].get("stack").is_none());
    let stack = lines[1]["stack"].as_str().expect("has one");
    assert!(stack.contains("logging::write"), "{stack}");
}

#[test]
fn terminals_can_have_levels_of_their_own() {
    let (dir, logger) = opened("level = \"debug\"\n[log.terminals]\nfile = [\"debug\", \"error\"]");
    write(&logger, Level::Debug, "one");
    write(&logger, Level::Info, "two");
    write(&logger, Level::Error, "three");
    let text = text(&dir);
    assert!(
        text.contains("one") && text.contains("three") && !text.contains("two"),
        "{text}"
    );
}

#[test]
fn targets_can_have_levels_of_their_own() {
    let (dir, logger) = opened("level = \"info\"");
    let logger = logger.target("epicycle", LevelFilter::Debug);
    let logger = logger.target("epicycle::rpc", LevelFilter::Warn);
    for (target, level, text) in [
        ("epicycle::rpc", Level::Info, "a call"),
        ("epicycle::rpc", Level::Warn, "a slow call"),
        ("epicycle::cluster", Level::Debug, "a link"),
        ("game", Level::Info, "a room"),
        ("game", Level::Debug, "a step"),
    ] {
        write_as(target, &logger, level, text);
    }
    let text = text(&dir);
    let is_there =
        ["a call", "a slow call", "a link", "a room", "a step"].map(|line| text.contains(line));
    assert_eq!(is_there, [false, true, true, true, false], "{text}");
}

#[test]
fn a_full_file_is_renamed_and_nothing_is_lost() {
    let (dir, logger) =
        opened("terminals = [\"file\"]\nfile.maxSize = 1000\nfile.rotate = \"day\"");
    for n in 0..100 {
        write(&logger, Level::Info, &format!("number {n:03}."));
    }
    let all = files(dir.path());
    assert!(all.len() > 3, "{}", all.len());
    for (name, text) in &all {
        assert!(name.starts_with("game") && name.ends_with(".log"), "{name}");
        assert!(text.len() < 1200, "{name}: {}", text.len());
    }
    let text: String = all.iter().map(|(_, text)| &**text).collect();
    for n in 0..100 {
        assert_eq!(text.matches(&format!("number {n:03}.")).count(), 1, "{n}");
    }
}

#[test]
fn a_log_goes_on_in_its_file_and_old_files_are_removed() {
    let (dir, config) = configured(
        "terminals = [\"file\"]\nfile.maxAge = \"2d\"\nfile.rotate = \"day\"\nfile.maxSize = 500",
    )
    .expect("is sound");
    let first = Logger::open(&config.log).expect("opens");
    write(&first, Level::Info, "first");
    drop(first);
    let again = Logger::open(&config.log).expect("opens");
    write(&again, Level::Info, "second");
    let text = text(&dir);
    assert!(text.contains("first") && text.contains("second"), "{text}");
    drop(again);

    let logs = dir.path().join("logs");
    let old = logs.join("game_20200101.log");
    fs::write(&old, "old").expect("is written");
    let then = SystemTime::now() - Duration::from_secs(5 * 24 * 3600);
    let file = fs::File::options().write(true).open(&old).expect("opens");
    file.set_modified(then).expect("is set");
    drop(file);
    fs::write(logs.join("of-others.log"), "not ours").expect("is written");
    let third = Logger::open(&config.log).expect("opens");
    for _ in 0..20 {
        write(&third, Level::Info, "a new file begins after some of these");
    }
    drop(third);
    crate::util::eventually("the old one is removed", || !old.exists());
    assert!(logs.join("of-others.log").exists());
}

#[test]
fn what_cannot_be_is_told() {
    let problem = |lines: &str| configured(lines).expect_err("is wrong").to_string();
    assert!(problem("level = \"loud\"").contains("trace, debug, info"));
    assert!(problem("terminals = [\"printer\"]").contains("console, file"));
    assert!(problem("file.rotate = \"week\"").contains("none, hour, day"));
    assert!(problem("file.format = \"xml\"").contains("text, json"));
    assert!(problem("timeFormat = \"%Y\"").contains("2006"));

    let (dir, config) = configured("terminals = [\"file\"]").expect("is sound");
    fs::write(dir.path().join("logs"), "in the way").expect("is written");
    let error = Logger::open(&config.log).expect_err("has no folder");
    assert!(error.to_string().contains("game.log"), "{error}");
}

#[test]
fn the_console_is_standard_output() {
    // The logger of a process can be set once, so this needs a process of its own.
    let this = std::env::current_exe().expect("is known");
    let name = "logging::one_line_for_the_console";
    let child = Command::new(this)
        .args([name, "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("\"msg\":\"for the console\""), "{said}");
}

#[test]
#[ignore = "another test starts it, in a process of its own"]
fn one_line_for_the_console() {
    let config = Config::read(
        [],
        [
            "--log.terminals=console".to_owned(),
            "--log.console.format=json".to_owned(),
        ],
    );
    let config = config.expect("is sound");
    Logger::open(&config.log)
        .expect("opens")
        .install()
        .expect("is the first");
    log::info!("for the console");
    assert!(Logger::open(&config.log).expect("opens").install().is_err());
}
