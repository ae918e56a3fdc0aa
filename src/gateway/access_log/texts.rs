//! Texts of clients, made harmless.

use std::borrow::Cow;

/// Returns a text of a client without control characters, cut to so many bytes.
pub(super) fn visible(text: &str, max: usize) -> Cow<'_, str> {
    let text = cut(text, max);
    match text.contains(char::is_control) {
        true => Cow::Owned(escape(text, char::is_control)),
        false => Cow::Borrowed(text),
    }
}

pub(super) fn escape(text: &str, needs: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match needs(char) {
            true => escaped.push_str(&format!("\\x{:02x}", u32::from(char))),
            false => escaped.push(char),
        }
    }
    escaped
}

pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
