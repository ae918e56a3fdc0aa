use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// The metadata of a message: pairs of key and value, in order. Keys may repeat.
///
/// The metadata is stored in its wire format, `k=v&k2`, and borrows the message it arrived in. A pair is decoded when
/// it is read. [`Meta::default`] is empty. Keys and values are bytes. `[A-Za-z0-9*._-]` are written unchanged, and all
/// other bytes as `%XX`. On reading, `+` is a space, a `%` that is not followed by two hexadecimal digits is kept, and
/// empty pairs are skipped. An empty value is written without its `=`.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::Meta;
///
/// let mut meta = Meta::default();
/// meta.add("K1", "v 1");
/// meta.add("K2", "");
/// assert_eq!(meta.encoded(), b"K1=v%201&K2");
///
/// let meta = Meta::from_encoded(b"K1=a+b%20c%zz&&=v&k&K1=2");
/// assert_eq!(meta.get_str("K1").as_deref(), Some("a b c%zz"));
/// assert_eq!(meta.get_all("K1").count(), 2);
/// assert_eq!(meta.iter().count(), 4);
/// ```
#[derive(Clone, Default)]
pub struct Meta<'a> {
    encoded: Cow<'a, [u8]>,
}

/// The bytes that must be escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'*')
    .remove(b'.')
    .remove(b'_')
    .remove(b'-');

impl Meta<'_> {
    /// The key of a failed call's [`Status`](super::Status), in a REPLY.
    pub const REPLY_ERROR: &'static str = "X-Reply-Error";
    /// The key of the address of the client for which a proxy acts.
    pub const REAL_IP: &'static str = "X-Real-IP";
    /// The key of the [`Codec`](super::Codec) in which a caller wants its reply: the codec's id in decimal.
    pub const ACCEPT_BODY_CODEC: &'static str = "X-Accept-Body-Codec";
    /// The key that tells, in a REPLY with a failure, that the call was not carried out and can be made again. Its value is the
    /// reason: `closing` if the session takes no more calls, `busy` if there is no room for the call now. A handler that has
    /// done nothing may set it too.
    pub const REFUSED: &'static str = "X-Refused";
    /// The key of the trace that a message belongs to, as W3C Trace Context writes it.
    pub const TRACE_PARENT: &'static str = "traceparent";
    /// The key of what vendors add to the trace.
    pub const TRACE_STATE: &'static str = "tracestate";
}

impl<'a> Meta<'a> {
    /// Returns the metadata of a message, unchanged.
    pub fn from_encoded(encoded: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            encoded: Cow::Borrowed(encoded.as_ref()),
        }
    }

    pub(super) fn from_cow(encoded: Cow<'a, [u8]>) -> Self {
        Self { encoded }
    }

    /// Returns the metadata in its wire format.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Returns true if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns the first value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Cow<'_, [u8]>> {
        let key = key.as_ref();
        pairs(&self.encoded).find_map(|(name, value)| is_key(name, key).then(|| decode(value)))
    }

    /// Returns the first value of a key, if it is UTF-8.
    pub fn get_str(&self, key: impl AsRef<[u8]>) -> Option<Cow<'_, str>> {
        self.get(key).and_then(utf8)
    }

    /// Returns all values of a key, in order.
    pub fn get_all<'b>(
        &'b self,
        key: impl AsRef<[u8]> + 'b,
    ) -> impl Iterator<Item = Cow<'b, [u8]>> {
        pairs(&self.encoded)
            .filter(move |(name, _)| is_key(name, key.as_ref()))
            .map(|(_, value)| decode(value))
    }

    /// Returns all pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
        pairs(&self.encoded).map(|(key, value)| (decode(key), decode(value)))
    }

    /// Appends a pair. A pair with an empty key and an empty value is not appended.
    pub fn add(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        append(self.encoded.to_mut(), key.as_ref(), value.as_ref());
    }

    /// Sets the only value of a key. It replaces the key's first value, or is appended if there was none.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        if !pairs(&self.encoded).any(|(name, _)| is_key(name, key)) {
            return self.add(key, value);
        }
        let mut replaced = Vec::with_capacity(self.encoded.len() + value.len());
        let mut value = Some(value);
        for (name, old) in self.iter() {
            if *name != *key {
                append(&mut replaced, &name, &old);
            } else if let Some(value) = value.take() {
                append(&mut replaced, key, value);
            }
        }
        self.encoded = Cow::Owned(replaced);
    }

    /// Removes all values of a key. Returns true if there were any.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> bool {
        let key = key.as_ref();
        if !pairs(&self.encoded).any(|(name, _)| is_key(name, key)) {
            return false;
        }
        let mut left = Vec::with_capacity(self.encoded.len());
        for (name, value) in self.iter() {
            if *name != *key {
                append(&mut left, &name, &value);
            }
        }
        self.encoded = Cow::Owned(left);
        true
    }

    /// Appends all pairs of `other`.
    pub fn add_all(&mut self, other: &Meta<'_>) {
        let encoded = self.encoded.to_mut();
        for (key, value) in other.iter() {
            append(encoded, &key, &value);
        }
    }

    /// Removes all pairs. Allocated memory is kept.
    pub fn clear(&mut self) {
        clear(&mut self.encoded);
    }

    /// Returns a copy that borrows this one.
    pub fn reborrow(&self) -> Meta<'_> {
        Meta::from_encoded(&self.encoded)
    }

    /// Returns an owned copy.
    pub fn into_owned(self) -> Meta<'static> {
        Meta {
            encoded: Cow::Owned(self.encoded.into_owned()),
        }
    }
}

impl fmt::Debug for Meta<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.iter().map(|(key, value)| {
            let text = |bytes: Cow<'_, [u8]>| String::from_utf8_lossy(&bytes).into_owned();
            (text(key), text(value))
        });
        f.debug_map().entries(pairs).finish()
    }
}

/// Two values are equal if their decoded pairs are equal.
impl PartialEq<Meta<'_>> for Meta<'_> {
    fn eq(&self, other: &Meta<'_>) -> bool {
        self.encoded == other.encoded || self.iter().eq(other.iter())
    }
}

impl Eq for Meta<'_> {}

/// Clears bytes. Allocated memory is kept.
pub(super) fn clear(bytes: &mut Cow<'_, [u8]>) {
    match bytes {
        Cow::Owned(bytes) => bytes.clear(),
        Cow::Borrowed(bytes) => *bytes = &[],
    }
}

/// Returns the bytes as text, if they are UTF-8.
pub(super) fn utf8(bytes: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// Returns the pairs of a query or of metadata, not decoded.
pub(super) fn pairs(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = encoded.split(|byte| *byte == b'&').map(|pair| {
        match pair.iter().position(|byte| *byte == b'=') {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, &pair[pair.len()..]),
        }
    });
    pairs.filter(|(key, value)| !key.is_empty() || !value.is_empty())
}

/// Returns true if an encoded key equals `key`.
pub(super) fn is_key(encoded: &[u8], key: &[u8]) -> bool {
    // An encoded key is never shorter than the key.
    encoded.len() >= key.len() && (encoded == key || *decode(encoded) == *key)
}

pub(super) fn decode(encoded: &[u8]) -> Cow<'_, [u8]> {
    if encoded.contains(&b'+') {
        let spaced: Vec<u8> = encoded
            .iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte })
            .collect();
        return Cow::Owned(percent_decode(&spaced).collect());
    }
    percent_decode(encoded).into()
}

fn append(encoded: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if key.is_empty() && value.is_empty() {
        return;
    }
    let escape = |bytes: &[u8], into: &mut Vec<u8>| {
        for piece in percent_encode(bytes, ESCAPED) {
            into.extend_from_slice(piece.as_bytes());
        }
    };
    if !encoded.is_empty() {
        encoded.push(b'&');
    }
    escape(key, encoded);
    if !value.is_empty() {
        encoded.push(b'=');
        escape(value, encoded);
    }
}

/// Returns the number of bytes that a byte takes up when it is encoded.
pub(super) fn encoded_len(byte: u8) -> usize {
    match byte {
        b'*' | b'.' | b'_' | b'-' => 1,
        _ if byte.is_ascii_alphanumeric() => 1,
        _ => 3,
    }
}
