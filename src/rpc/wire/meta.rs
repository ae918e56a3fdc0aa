use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// A message's metadata: pairs of key and value, in order, of which keys may repeat.
///
/// It is kept as it goes over the wire, `k=v&k2`, and borrows the message it came in; reading decodes a pair when it is
/// asked for, and [`Meta::default`] is empty. Keys and values are bytes. `[A-Za-z0-9*._-]` stand for themselves, anything
/// else is `%XX`. On reading, `+` is a space, a `%` that no two hexadecimal digits follow stays as it is, and empty
/// pairs are skipped. An empty value is written without its `=`.
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

/// What has to be escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'*')
    .remove(b'.')
    .remove(b'_')
    .remove(b'-');

impl Meta<'_> {
    /// The key of a failed call's [`Status`](super::Status), in a REPLY.
    pub const REPLY_ERROR: &'static str = "X-Reply-Error";
    /// The key of the address of the client that a proxy speaks for.
    pub const REAL_IP: &'static str = "X-Real-IP";
    /// The key of the [`Codec`](super::Codec) that a caller wants its reply in: the codec's id in decimal.
    pub const ACCEPT_BODY_CODEC: &'static str = "X-Accept-Body-Codec";
}

impl<'a> Meta<'a> {
    /// What stands in a message, taken as it is.
    pub fn from_encoded(encoded: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            encoded: Cow::Borrowed(encoded.as_ref()),
        }
    }

    pub(super) fn from_cow(encoded: Cow<'a, [u8]>) -> Self {
        Self { encoded }
    }

    /// As it goes over the wire.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The first value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Cow<'_, [u8]>> {
        let key = key.as_ref();
        pairs(&self.encoded).find_map(|(name, value)| is(name, key).then(|| decode(value)))
    }

    /// The first value of a key, if it is UTF-8.
    pub fn get_str(&self, key: impl AsRef<[u8]>) -> Option<Cow<'_, str>> {
        self.get(key).and_then(utf8)
    }

    /// All values of a key, in order.
    pub fn get_all<'b>(
        &'b self,
        key: impl AsRef<[u8]> + 'b,
    ) -> impl Iterator<Item = Cow<'b, [u8]>> {
        pairs(&self.encoded)
            .filter(move |(name, _)| is(name, key.as_ref()))
            .map(|(_, value)| decode(value))
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
        pairs(&self.encoded).map(|(key, value)| (decode(key), decode(value)))
    }

    /// Appends a pair. One whose key and value are both empty is nothing, and is not appended.
    pub fn add(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        append(self.encoded.to_mut(), key.as_ref(), value.as_ref());
    }

    /// Gives a key one value: in the place of its first one, or last if it had none.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        if !pairs(&self.encoded).any(|(name, _)| is(name, key)) {
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

    /// Removes all values of a key, and returns whether there was one.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> bool {
        let key = key.as_ref();
        if !pairs(&self.encoded).any(|(name, _)| is(name, key)) {
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

    /// Appends all pairs of another one.
    pub fn add_all(&mut self, other: &Meta<'_>) {
        let encoded = self.encoded.to_mut();
        for (key, value) in other.iter() {
            append(encoded, &key, &value);
        }
    }

    /// Removes everything. The memory is kept.
    pub fn clear(&mut self) {
        clear(&mut self.encoded);
    }

    /// A copy that borrows this one.
    pub fn reborrow(&self) -> Meta<'_> {
        Meta::from_encoded(&self.encoded)
    }

    /// The same, without a borrow.
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

/// Two are equal when their pairs are, however these are encoded.
impl PartialEq<Meta<'_>> for Meta<'_> {
    fn eq(&self, other: &Meta<'_>) -> bool {
        self.encoded == other.encoded || self.iter().eq(other.iter())
    }
}

impl Eq for Meta<'_> {}

/// Empties bytes and keeps their memory.
pub(super) fn clear(bytes: &mut Cow<'_, [u8]>) {
    match bytes {
        Cow::Owned(bytes) => bytes.clear(),
        Cow::Borrowed(bytes) => *bytes = &[],
    }
}

/// The text that bytes are, or none.
pub(super) fn utf8(bytes: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// The pairs of a query or of metadata, not decoded.
pub(super) fn pairs(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = encoded.split(|byte| *byte == b'&').map(|pair| {
        match pair.iter().position(|byte| *byte == b'=') {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, &pair[pair.len()..]),
        }
    });
    pairs.filter(|(key, value)| !key.is_empty() || !value.is_empty())
}

/// Whether an encoded key is this one.
pub(super) fn is(encoded: &[u8], key: &[u8]) -> bool {
    // An escape only makes a key longer.
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

/// How many bytes a byte takes up once it is encoded.
pub(super) fn encoded_len(byte: u8) -> usize {
    match byte {
        b'*' | b'.' | b'_' | b'-' => 1,
        _ if byte.is_ascii_alphanumeric() => 1,
        _ => 3,
    }
}
