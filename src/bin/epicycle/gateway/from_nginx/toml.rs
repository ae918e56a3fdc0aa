//! The text of a configuration file.

/// Returns a text as TOML has it.
pub(super) fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns an array of texts.
pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a String>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| text(value)).collect();
    format!("[{}]", values.join(", "))
}

/// Returns a table of texts in one line.
pub(super) fn inline(pairs: &[(String, String)]) -> String {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(key, value)| format!("{} = {}", text(key), text(value)))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// Returns nginx's time as this program writes it: a number of seconds, or numbers with units.
pub(super) fn time(value: &str) -> Option<String> {
    let is_right = !value.is_empty()
        && value.len() < 20
        && value
            .bytes()
            .all(|b| b.is_ascii_digit() || b"smhdyMw".contains(&b));
    if !is_right || !value.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    match value.bytes().all(|b| b.is_ascii_digit()) {
        true => value
            .parse::<u32>()
            .ok()
            .map(|seconds| format!("{seconds}s")),
        // A month is M in both.
        false => humantime::parse_duration(value)
            .ok()
            .map(|_| value.to_owned()),
    }
}

/// Returns nginx's size as this program writes it.
pub(super) fn size(value: &str) -> Option<String> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" => "B",
        "k" => "KiB",
        "m" => "MiB",
        "g" => "GiB",
        _ => return None,
    };
    number.checked_mul(1 << 30)?;
    Some(format!("{number}{unit}"))
}
