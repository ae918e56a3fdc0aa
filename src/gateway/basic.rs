//! Credentials of the scheme Basic (RFC 7617).

use std::str;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::http::Headers;

/// A name and a password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
}

impl Credentials {
    /// Returns the credentials in the only field of that name. Returns `None` if it is not there, is there twice, or has another
    /// scheme.
    pub(super) fn of(headers: Headers<'_>, name: &str) -> Option<Self> {
        let mut values = headers.get_all(name);
        let (value, other) = (values.next()?, values.next());
        match other {
            None => Self::parse(value),
            Some(_) => None,
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, rest) = value.split_at_checked("Basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = (&decoded[..colon], &decoded[colon + 1..]);
        let user = str::from_utf8(user).ok()?;
        // A name with a control character could forge a line of a log.
        let is_sound = !user.is_empty() && !user.contains(char::is_control);
        is_sound.then(|| Self {
            user: user.to_owned(),
            password: password.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_and_a_password_in_base64_are_credentials() {
        let parse = |text: &str| {
            let parsed = Credentials::parse(text.as_bytes())?;
            let password = String::from_utf8(parsed.password).expect("it is text");
            Some(format!("{} {password}", parsed.user))
        };
        for (text, wanted) in [
            ("Basic YWxpY2U6c2VjcmV0", Some("alice secret")),
            ("bAsIc  YWxpY2U6c2VjcmV0 ", Some("alice secret")),
            // The password has colons: `a:b:c`.
            ("Basic YTpiOmM=", Some("a b:c")),
            ("Basic YTo=", Some("a ")),
            // No colon: `alice`. No name: `:x`. A name with LF: `a\nb:c`. No UTF-8: `\xff:x`.
            ("Basic YWxpY2U=", None),
            ("Basic Ong=", None),
            ("Basic YQpiOmM=", None),
            ("Basic /zp4", None),
            // No base64, or without its padding.
            ("Basic YTpiOmM", None),
            ("Basic !", None),
            ("Basic", None),
            ("Basic ", None),
            ("BasicYTo=", None),
            ("Bearer YWxpY2U6c2VjcmV0", None),
            ("", None),
        ] {
            assert_eq!(parse(text).as_deref(), wanted, "{text:?}");
        }
    }
}
