//! The lines that are printed about a process and its components, in boxes as due has them.

use std::fmt::Write;

/// The number of columns of a box, unless a row needs more.
const WIDTH: usize = 56;

/// Returns a box with a title and rows, a line each.
pub(super) fn boxed(
    title: &str,
    rows: impl IntoIterator<Item = (impl AsRef<str>, String)>,
) -> String {
    let rows: Vec<String> = rows
        .into_iter()
        .map(|(name, value)| format!("{}: {value}", name.as_ref()))
        .collect();
    let columns = rows.iter().map(|row| row.chars().count() + 4);
    let width = columns
        .chain([WIDTH, title.chars().count() + 2])
        .max()
        .unwrap_or(WIDTH);
    let border = width - 2 - title.chars().count();
    let (left, right) = (border / 2, border - border / 2);
    let mut text = format!("┌{}{title}{}┐\n", "─".repeat(left), "─".repeat(right));
    for row in rows {
        // A write to a String cannot fail.
        let _ = writeln!(text, "| {row:<inner$} |", inner = width - 4);
    }
    let _ = writeln!(text, "└{}┘", "─".repeat(width - 2));
    text
}

#[cfg(test)]
mod tests {
    use super::boxed;

    #[test]
    fn a_box_has_the_shape_of_due_and_grows_with_its_longest_row() {
        let text = boxed(
            "Gate",
            [("ID", "gate-1".to_owned()), ("Link", "é".to_owned())],
        );
        assert_eq!(
            text,
            "┌─────────────────────────Gate─────────────────────────┐\n\
             | ID: gate-1                                           |\n\
             | Link: é                                              |\n\
             └──────────────────────────────────────────────────────┘\n"
        );
        let wide = boxed("Node", [("ID", "x".repeat(80))]);
        let widths: Vec<usize> = wide.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [88, 88, 88]);
    }
}
