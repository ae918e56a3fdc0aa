use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::codec::form;
use super::meta::{Meta, utf8};
use super::{BodyError, Dialect};
use crate::error::error_messages;

/// The parts of a message's URI: `/path?query`.
///
/// A message is routed by its percent-decoded path. Case and trailing slashes are significant. An absolute URI
/// (`tp://host/path`) is routed by its path too. A fragment is ignored.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::Uri;
///
/// let uri = Uri::parse("/math/%61dd?author=a+b")?;
/// assert_eq!(uri.path(), "/math/add");
/// assert_eq!(uri.args().get_str("author").as_deref(), Some("a b"));
/// assert!(Uri::parse("?author=x").is_err());
/// # Ok::<(), epicycle::rpc::wire::UriError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    path: Cow<'a, str>,
    query: &'a [u8],
}

/// The reason why a URI has no route: the status is 400.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum UriError {
    /// It is not a URI. The reply to such a call has an empty URI in every dialect.
    Malformed,
    /// Its path is empty.
    NoPath,
}

impl<'a> Uri<'a> {
    /// Parses a URI.
    ///
    /// # Errors
    ///
    /// Returns [`UriError::NoPath`] if the path is empty, and [`UriError::Malformed`] if a `%` in it is not followed by two hexadecimal digits, the decoded
    /// path is not UTF-8, or it contains control characters.
    pub fn parse(uri: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, UriError> {
        let uri = uri.as_ref();
        if uri.iter().any(u8::is_ascii_control) {
            return Err(UriError::Malformed);
        }
        let uri = before(uri, b'#');
        let front = before(uri, b'?');
        let query = uri.get(front.len() + 1..).unwrap_or_default();
        let path = path_of(front).ok_or(UriError::Malformed)?;
        if path.is_empty() {
            return Err(UriError::NoPath);
        }
        if !is_well_escaped(path) {
            return Err(UriError::Malformed);
        }
        let path = utf8(percent_decode(path).into()).ok_or(UriError::Malformed)?;
        Ok(Self { path, query })
    }

    /// Returns the decoded path. It is never empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the query, not decoded.
    pub fn query(&self) -> &'a [u8] {
        self.query
    }

    /// Returns the pairs of the query, which have the format of [`Meta`].
    pub fn args(&self) -> Meta<'a> {
        Meta::from_encoded(self.query)
    }

    /// Decodes the query as a value.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the query does not encode such a value.
    pub fn args_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, BodyError> {
        form::decode(self.query)
    }
}

/// Returns the part before the first `end`, or everything.
fn before(uri: &[u8], end: u8) -> &[u8] {
    let len = uri.iter().position(|byte| *byte == end);
    &uri[..len.unwrap_or(uri.len())]
}

/// Returns the path after the scheme and the authority, if there are any.
fn path_of(front: &[u8]) -> Option<&[u8]> {
    let rest = match front.iter().position(|byte| matches!(byte, b':' | b'/')) {
        Some(colon) if front[colon] == b':' => {
            let scheme = &front[..colon];
            let (first, others) = scheme.split_first()?;
            let in_scheme =
                |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
            if !first.is_ascii_alphabetic() || !others.iter().all(in_scheme) {
                return None;
            }
            let rest = &front[colon + 1..];
            // A URI with a scheme and no slash after it, such as `mailto:x`, has no path.
            rest.starts_with(b"/").then_some(rest)?
        }
        _ => front,
    };
    match rest.strip_prefix(b"//") {
        Some(rest) => {
            let authority = before(rest, b'/').len();
            Some(&rest[authority..])
        }
        None => Some(rest),
    }
}

/// Returns true if each `%` is followed by two hexadecimal digits.
fn is_well_escaped(path: &[u8]) -> bool {
    let mut pieces = path.split(|byte| *byte == b'%');
    let _before_the_first = pieces.next();
    pieces.all(|piece| {
        piece
            .get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

impl UriError {
    /// Returns the text for the status of the reply.
    pub fn text(self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::V4_0 => "invalid URI for packet",
            Dialect::V4_1 => "invalid URI for message",
        }
    }
}

error_messages! {
    UriError {
        error => "{}" (error.text(Dialect::default())),
    }
}

/// Returns the route for the name of a type or a Go function, by the rules in Teleport's documentation.
///
/// Words become lower case and are joined by `_`. One `_` starts a new segment; two stand for a literal one. The path
/// begins with one slash.
///
/// ```
/// use epicycle::rpc::wire::uri_path;
///
/// assert_eq!(uri_path("AaBb"), "/aa_bb");
/// assert_eq!(uri_path("Aa_Bb"), "/aa/bb");
/// assert_eq!(uri_path("Aa__Bb"), "/aa_bb");
/// assert_eq!(uri_path("ABcXYz"), "/abc_xyz");
/// ```
pub fn uri_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len() + 8);
    path.push('/');
    // True if the next capital starts a word: the segment has a character other than a capital before it.
    let mut word_ends = false;
    let mut chars = name.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '_' => {
                let mut underscores = 1;
                while chars.next_if_eq(&'_').is_some() {
                    underscores += 1;
                }
                let joins = underscores > 1 || chars.peek().is_none();
                path.push(if joins { '_' } else { '/' });
                word_ends = false;
            }
            '/' => {
                path.push('/');
                word_ends = false;
            }
            _ => {
                if char.is_uppercase() && word_ends {
                    path.push('_');
                }
                word_ends = !char.is_uppercase();
                path.extend(char.to_lowercase());
            }
        }
        if path.ends_with("//") {
            path.pop();
        }
    }
    path
}
