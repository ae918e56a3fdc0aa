//! `docs/gateway.md` is true: its files are sound, and its tables have every key with its default, and no other. The files of
//! `docs/forward-proxy.md` are sound, too.

use std::collections::BTreeSet;
use std::fs;

use epicycle::gateway::{ConfigError, Gateway, GatewayError};

use crate::rig::Folder;

fn page() -> String {
    fs::read_to_string("docs/gateway.md").expect("is there")
}

/// A folder with the certificate that the files of the page name.
fn folder() -> Folder {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["app.example.org".to_owned()]).expect("is made");
    folder.write("site.pem", made.cert.pem());
    folder.write("site.key", made.signing_key.serialize_pem());
    folder.write(
        "users.txt",
        "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG\n",
    );
    folder
}

fn load(folder: &Folder, text: &str) -> Result<Gateway, GatewayError> {
    folder.write("gateway.toml", text);
    Gateway::from_file(folder.path("gateway.toml"))
}

/// Returns what is wrong with a text.
fn problems(folder: &Folder, text: &str) -> Vec<String> {
    match load(folder, text) {
        Ok(_) => Vec::new(),
        Err(GatewayError::Config(ConfigError::Faults(faults))) => {
            faults.into_iter().map(|fault| fault.problem).collect()
        }
        Err(other) => panic!("{other}\n{text}"),
    }
}

#[test]
fn every_file_of_the_pages_is_sound() {
    let other = fs::read_to_string("docs/forward-proxy.md").expect("is there");
    let (page, folder) = (page(), folder());
    let blocks_of = |page| str::split(page, "```toml\n").skip(1);
    let blocks: Vec<_> = blocks_of(&page).chain(blocks_of(&other)).collect();
    assert!(blocks.len() > 10, "{}", blocks.len());
    for block in blocks {
        let text = block.split("```").next().expect("has an end");
        if let Err(error) = load(&folder, text) {
            panic!("{error}\n{text}");
        }
    }
}

/// A key of the page's tables, and the value that it has if it is left out, if that can be written.
#[derive(Debug)]
struct Row {
    key: String,
    default: Option<String>,
}

/// Returns the part of the page below a heading.
fn section(page: &str, heading: &str) -> String {
    let (_, rest) = page
        .split_once(&format!("\n### {heading}\n"))
        .expect(heading);
    rest.split("\n#").next().unwrap_or_default().to_owned()
}

/// Reads the table of a section.
fn rows(section: &str) -> Vec<Row> {
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    let mut rows = Vec::new();
    for line in lines {
        // A cell may have an escaped bar.
        let mut cells = line.split(" | ");
        let (keys, defaults) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        let mut keys: Vec<String> = keys
            .trim_start_matches("| ")
            .split(", ")
            .map(|key| key.trim_matches('`').to_owned())
            .collect();
        for n in 1..keys.len() {
            // `request.remove`, `.set`
            if keys[n].starts_with('.') {
                let parent = keys[n - 1].rsplit_once('.').expect("has a parent").0;
                keys[n] = format!("{parent}{}", keys[n]);
            }
        }
        let defaults: Vec<&str> = match keys.len() {
            1 => vec![defaults],
            _ => defaults.split(", ").collect(),
        };
        for (n, key) in keys.into_iter().enumerate() {
            let default = defaults.get(n).map(|text| text.trim_matches('`'));
            let default = default.filter(|text| {
                let begins = |c: char| c.is_ascii_digit() || matches!(c, '"' | '{' | '[');
                text.starts_with(begins) || matches!(*text, "true" | "false")
            });
            let default = default.map(str::to_owned);
            rows.push(Row { key, default });
        }
    }
    assert!(rows.len() > 5, "{section}");
    rows
}

const HEADINGS: [&str; 4] = ["The whole", "`[[listen]]`", "`[[route]]`", "`[pool.NAME]`"];

/// Returns a file with one more line in a section.
fn with_line(heading: &str, line: &str) -> String {
    let at = |other| if heading == other { line } else { "" };
    let (listen, route, pool) = (at(HEADINGS[1]), at(HEADINGS[2]), at(HEADINGS[3]));
    let or = |line: &'static str, key: &str, given: &str| match given.starts_with(key) {
        true => "",
        false => line,
    };
    format!(
        "{}\nlog.access.to = \"stdout\"\n\
         [[listen]]\n{}\n{listen}\n\
         [[route]]\n{}\n{route}\n\
         [pool.a]\n{}\n{pool}\n",
        match at(HEADINGS[0]) {
            line if line.starts_with("log.access.to ") => "",
            line => line,
        },
        or("on = \"tcp://127.0.0.1:0\"", "on ", listen),
        or("pool = \"a\"", "pool ", route),
        or("nodes = [\"http://127.0.0.1:9000\"]", "nodes ", pool),
    )
}

#[test]
fn every_key_of_the_page_exists_and_has_the_default_that_the_page_tells() {
    let (page, folder) = (page(), folder());
    let debug = |text: &str| match load(&folder, text) {
        Ok(gateway) => format!("{:?}", gateway.settings()),
        Err(error) => panic!("{error}\n{text}"),
    };
    let plain = debug(&with_line("", ""));
    let mut defaults = 0;
    for heading in HEADINGS {
        for Row { key, default } in rows(&section(&page, heading)) {
            // A value of no type: the key is known if that is the fault.
            let text = with_line(heading, &format!("{key} = 2000-01-01"));
            let problems = problems(&folder, &text);
            assert!(
                !problems
                    .iter()
                    .any(|problem| problem.contains("is unknown")),
                "{heading} {key}: {problems:?}"
            );
            // Those of `tls` stand beside a certificate.
            if let Some(default) = default.filter(|_| !key.starts_with("tls.")) {
                defaults += 1;
                let with_default = debug(&with_line(heading, &format!("{key} = {default}")));
                assert!(
                    with_default == plain,
                    "{heading} {key} = {default}\n{with_default}\n{plain}"
                );
            }
        }
    }
    assert!(defaults > 40, "{defaults}");
}

#[test]
fn every_key_of_the_file_is_on_the_page() {
    let (page, folder) = (page(), folder());
    let mut seen = BTreeSet::new();
    for (heading, parents) in [
        (
            HEADINGS[0],
            &["", "admin.", "drain.", "log.", "log.access."][..],
        ),
        (HEADINGS[1], &["", "timeout.", "tls.", "auth.", "limit."]),
        (
            HEADINGS[2],
            &["", "request.", "response.", "auth.", "limit."],
        ),
        (
            HEADINGS[3],
            &[
                "",
                "timeout.",
                "eject.",
                "health.",
                "retry_budget.",
                "tls.",
                "balance.",
                "discover.",
            ],
        ),
    ] {
        let section = section(&page, heading);
        let words: BTreeSet<&str> = section
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        for parent in parents {
            let text = with_line(heading, &format!("{parent}qqqqqqqqqqqq = 1"));
            let problems = problems(&folder, &text);
            let known = problems
                .iter()
                .find_map(|problem| problem.split_once("possible here: "))
                .unwrap_or_else(|| panic!("{heading} {parent}: {problems:?}"));
            for key in known.1.split(", ") {
                let is_there = words.contains(key) || heading == HEADINGS[0] && page.contains(key);
                assert!(is_there, "{heading} {parent}{key} is not on the page");
                seen.insert(format!("{heading} {parent}{key}"));
            }
        }
    }
    assert!(seen.len() > 90, "{}", seen.len());
}
