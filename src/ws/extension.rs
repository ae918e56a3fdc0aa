//! `Sec-WebSocket-Extensions` (RFC 6455, section 9.1): the list of offered or accepted extensions.

use crate::http::fields::{TOKEN, is_token};

/// One extension of a list, with its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    pub(super) name: &'a str,
    pub(super) params: Vec<Param<'a>>,
}

/// A parameter: its name, and its value without quotes.
pub(super) type Param<'a> = (&'a str, Option<&'a str>);

/// Parses a header's value. Returns `None` if it is malformed.
pub(super) fn parse(value: &(impl AsRef<[u8]> + ?Sized)) -> Option<Vec<Extension<'_>>> {
    let mut rest = str::from_utf8(value.as_ref()).ok()?;
    let mut list = Vec::new();
    loop {
        // Empty elements of a list are ignored (RFC 9110, section 5.6.1).
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(list);
        }
        let name = token(&mut rest)?;
        let mut params = Vec::new();
        while skip(&mut rest, ';') {
            let name = token(&mut rest)?;
            let value = if skip(&mut rest, '=') {
                Some(token_or_quoted(&mut rest)?)
            } else {
                None
            };
            params.push((name, value));
        }
        list.push(Extension { name, params });
        rest = rest.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

fn token<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start_matches([' ', '\t']);
    let end = text
        .bytes()
        .position(|byte| !TOKEN.has(byte))
        .unwrap_or(text.len());
    let (token, behind) = text.split_at(end);
    *rest = behind;
    (!token.is_empty()).then_some(token)
}

/// Parses a token or a quoted value. A quoted value must be a token as well, so it needs no unescaping.
fn token_or_quoted<'a>(rest: &mut &'a str) -> Option<&'a str> {
    if !skip(rest, '"') {
        return token(rest);
    }
    let (value, behind) = rest.split_once('"')?;
    *rest = behind;
    is_token(value.as_bytes()).then_some(value)
}

fn skip(rest: &mut &str, wanted: char) -> bool {
    match rest.trim_start_matches([' ', '\t']).strip_prefix(wanted) {
        Some(behind) => {
            *rest = behind;
            true
        }
        None => false,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_taken_apart() {
        let value = "foo, permessage-deflate; client_max_window_bits; server_max_window_bits=\"10\" ,,bar;a = b";
        let list = parse(value).expect("is well formed");
        let expected = [
            ("foo", vec![]),
            (
                "permessage-deflate",
                vec![
                    ("client_max_window_bits", None),
                    ("server_max_window_bits", Some("10")),
                ],
            ),
            ("bar", vec![("a", Some("b"))]),
        ];
        let got: Vec<_> = list
            .into_iter()
            .map(|extension| (extension.name, extension.params))
            .collect();
        assert_eq!(got, expected);
        assert_eq!(parse(""), Some(vec![]));
    }

    #[test]
    fn what_is_malformed_is_refused_as_a_whole() {
        for value in [
            "a b",
            "a;",
            "a;;b",
            "a;b=",
            "a;b=\"",
            "a;b=\"c d\"",
            "=",
            "a;=b",
            "\"a\"",
            "a; b=c d",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(value in "[a-z;,= \"\\\\\t]{0,30}|\\PC{0,20}") {
            let _ = parse(&value);
        }
    }
}
