//! Checks the pages in `docs/`: each promise names tests that exist, and `docs/architecture.md` names files that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the page, up to the section about things that are not promised.
fn promises() -> String {
    let page = fs::read_to_string("docs/semantics.md").expect("is readable");
    let (promises, _) = page
        .split_once("\n## What is not promised")
        .expect("says so last");
    promises.to_owned()
}

/// Returns the items of the page's lists, each with all its lines.
fn items(page: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("- ") || number(line).is_some() {
            items.push(String::new());
            inside = true;
        } else if !line.starts_with(' ') {
            inside = false;
        }
        if let Some(item) = items.last_mut().filter(|_| inside) {
            item.push_str(line);
            item.push('\n');
        }
    }
    items
}

/// Returns the number at the beginning of a line of a numbered list.
fn number(line: &str) -> Option<usize> {
    line.split_once(". ")?.0.parse().ok()
}

/// Returns the tests named in an item: the path of the file and the name of the function.
fn named(item: &str) -> Vec<(String, String)> {
    let code = item.split('`').skip(1).step_by(2);
    let tests = code.filter_map(|code| code.split_once(".rs::"));
    let path = |file: &str| {
        let folder = if file.starts_with("src/") {
            ""
        } else {
            "tests/"
        };
        format!("{folder}{file}.rs")
    };
    tests
        .map(|(file, name)| (path(file), name.to_owned()))
        .collect()
}

#[test]
fn every_test_named_on_the_page_exists() {
    let mut seen = BTreeSet::new();
    for (path, name) in items(&promises()).iter().flat_map(|item| named(item)) {
        let source = fs::read_to_string(&path);
        let source = source.unwrap_or_else(|error| panic!("{path}, for {name}: {error}"));
        assert!(has_test(&source, &name), "{path} has no test {name}");
        seen.insert((path, name));
    }
    assert!(seen.len() > 200, "only {} tests are named", seen.len());
}

#[test]
fn every_test_named_on_the_page_about_rpc_exists() {
    let page = fs::read_to_string("docs/rpc.md").expect("is readable");
    let (_, section) = page
        .split_once("\n## Promises and their tests\n")
        .expect("has the section");
    let tests = named(section.split("\n## ").next().unwrap_or(section));
    assert!(tests.len() > 15, "only {} tests are named", tests.len());
    for (path, name) in tests {
        let source = fs::read_to_string(&path);
        let source = source.unwrap_or_else(|error| panic!("{path}, for {name}: {error}"));
        assert!(has_test(&source, &name), "{path} has no test {name}");
    }
}

/// Returns true if the function exists and is a test.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(n, line)| {
        let mut attributes = lines[..n].iter().rev();
        line.starts_with(&head)
            && attributes
                .by_ref()
                .take_while(|line| line.starts_with("#["))
                .any(|line| *line == "#[test]")
    })
}

#[test]
fn no_promise_on_the_page_is_without_a_test() {
    let items = items(&promises());
    assert!(items.len() > 80, "only {} promises found", items.len());
    for item in items {
        assert!(!named(&item).is_empty(), "no test is named for:\n{item}");
    }
}

#[test]
fn all_twelve_promises_of_the_design_are_on_the_page_and_in_the_readme() {
    for (path, heading) in [
        ("docs/semantics.md", "\n## The twelve promises\n"),
        ("README.md", "\n## What it promises\n"),
    ] {
        let page = fs::read_to_string(Path::new(path)).expect("is readable");
        let (_, section) = page.split_once(heading).expect("has the section");
        let section = section.split("\n## ").next().unwrap_or(section);
        let numbers: Vec<_> = section.lines().filter_map(number).collect();
        assert_eq!(numbers, (1..=12).collect::<Vec<_>>(), "{path}");
    }
}

#[test]
fn every_file_named_in_the_architecture_exists() {
    let files = files(Path::new("."));
    let page = fs::read_to_string("docs/architecture.md").expect("is readable");
    let mut seen = BTreeSet::new();
    for name in page.split('`').skip(1).step_by(2) {
        let is_file = name.ends_with(".rs") || name.ends_with(".py") || name.ends_with(".md");
        if !is_file || name.contains(char::is_whitespace) {
            continue;
        }
        let end = format!("/{name}");
        assert!(
            files.iter().any(|file| file.ends_with(&end)),
            "docs/architecture.md names {name}, which does not exist"
        );
        seen.insert(name.to_owned());
    }
    assert!(seen.len() > 50, "only {} files are named", seen.len());
}

/// Returns the paths of all files below a folder, except build results and git's files.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("is a folder") {
        let path = entry.expect("is an entry").path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() {
            found.push(path.to_string_lossy().into_owned());
        } else if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(files(&path));
        }
    }
    found
}
