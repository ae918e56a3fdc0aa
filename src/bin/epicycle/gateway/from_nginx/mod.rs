//! `epicycle gateway --from-nginx`: a configuration for the common part of one of nginx.
//!
//! | File | |
//! |---|---|
//! | `parse.rs` | the syntax of nginx |
//! | `convert.rs` | servers, locations and what they mean here |
//! | `upstream.rs` | upstreams and `proxy_pass` as pools |
//! | `zones.rs` | `limit_req` as limits of rate |
//! | `reasons.rs` | the reasons why directives are not carried over |
//! | `toml.rs` | the text of the new file |

mod convert;
mod parse;
mod reasons;
mod toml;
mod upstream;
mod zones;

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// The most bytes of a file.
const MAX_FILE: u64 = 8 << 20;

/// A directive that is not carried over, and the reason.
struct Left {
    line: usize,
    text: String,
}

/// The directives that are not carried over.
#[derive(Default)]
struct Notes(Vec<Left>);

impl Notes {
    fn left(&mut self, directive: &parse::Directive, why: &str) {
        let args: Vec<&str> = directive.args.iter().take(4).map(String::as_str).collect();
        let mut what = format!("{} {}", directive.name, args.join(" "));
        what.retain(|c| !c.is_control());
        let what: String = what.trim_end().chars().take(80).collect();
        self.say(directive.line, format!("`{what}`: {why}"));
    }

    fn say(&mut self, line: usize, text: String) {
        self.0.push(Left { line, text });
    }
}

/// Prints the configuration, and names on the standard error what is not carried over.
pub(super) fn run(file: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let name = file.display();
    let text = read(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    let directives = match parse::parse(&text) {
        Ok(directives) => directives,
        Err(fault) => {
            eprintln!("{name}:{}: {}", fault.line, fault.problem);
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut notes = Notes::default();
    let configuration = convert::convert(&directives, &mut notes);
    notes.0.sort_by_key(|left| left.line);
    // A directive that several locations inherit is told once.
    let mut told = HashSet::new();
    notes
        .0
        .retain(|left| told.insert((left.line, left.text.clone())));
    for left in &notes.0 {
        eprintln!("{name}:{}: {}", left.line, left.text);
    }
    let Some(configuration) = configuration else {
        eprintln!("{name}: there is no server with a proxy_pass that can be carried over");
        return Ok(ExitCode::FAILURE);
    };
    let mut out = format!(
        "# Made of {} by `epicycle gateway --from-nginx`.\n",
        printable(&name.to_string())
    );
    if !notes.0.is_empty() {
        out += "#\n# Not carried over:\n";
        for left in &notes.0 {
            out += &format!("# line {}: {}\n", left.line, printable(&left.text));
        }
    }
    print!("{out}\n{configuration}");
    Ok(ExitCode::SUCCESS)
}

/// Removes what would end a comment.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn read(file: &Path) -> Result<String, Box<dyn Error>> {
    let mut text = Vec::new();
    File::open(file)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err("it is larger than 8 MiB".into());
    }
    String::from_utf8(text).map_err(|_| "it is no text; save it as UTF-8".into())
}
