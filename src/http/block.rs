use std::fmt;

use super::check::{Checked, Names, check_headers};
use super::error::SendError;
use super::fields::Headers;
use super::lines::{HeaderLine, Lines};

/// Headers that many messages have in common, or that a proxy passes on. They are checked and encoded once.
///
/// ```
/// use epicycle::http::{HeaderBlock, ServerResponse};
///
/// let common = HeaderBlock::new()
///     .with("Server", "example")?
///     .with("Content-Type", "application/json")?;
/// let answer = ServerResponse::ok().block(&common).body("{}");
/// # let _ = answer;
/// # Ok::<(), epicycle::http::SendError>(())
/// ```
#[derive(Clone, Default)]
pub struct HeaderBlock {
    /// The encoded header lines.
    lines: Vec<u8>,
    names: Names,
}

impl HeaderBlock {
    /// Returns an empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Header`] or [`SendError::FramingHeader`].
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, SendError> {
        self.push(name, value)?;
        Ok(self)
    }

    /// Appends a header.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Header`] or [`SendError::FramingHeader`], and appends nothing.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), SendError> {
        let value = value.as_ref();
        let checked = check_headers(&[(name, value)])?;
        self.append(name, value, &checked);
        Ok(())
    }

    /// Appends a header that is sound as it is: the name is one that the codecs need not know of, and the value is our own or
    /// was checked before. `begin` is the name with its colon and space.
    #[cfg(feature = "gateway")]
    #[inline(always)]
    pub(crate) fn push_known<const N: usize>(&mut self, begin: &'static [u8; N], value: &[u8]) {
        debug_assert!(is_known(begin, value), "{begin:?}: {value:?}");
        self.lines.reserve(N + value.len() + 2);
        self.lines.extend_from_slice(begin);
        self.lines.extend_from_slice(value);
        self.lines.extend_from_slice(b"\r\n");
    }

    fn append(&mut self, name: &str, value: &[u8], checked: &Checked) {
        self.names = self.names.or(checked.names);
        self.lines.reserve(checked.len);
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.lines.extend_from_slice(part);
        }
    }

    /// Appends a copy of a received line. It was checked when it was received, so only its name is looked at.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::FramingHeader`] for `Connection`, `Content-Length` and `Transfer-Encoding`, which the codec
    /// that sends the block writes itself. [`Headers::end_to_end`](super::Headers::end_to_end) leaves them out.
    #[inline]
    pub fn push_line(&mut self, line: HeaderLine<'_>) -> Result<(), SendError> {
        self.names.note(line.name())?;
        self.lines.extend_from_slice(line.as_bytes());
        Ok(())
    }

    /// Replaces all headers by copies of received lines: see [`push_line`](Self::push_line). The memory is kept, so a
    /// proxy uses one block for all messages. `lines` decides which headers are passed on:
    /// [`Headers::end_to_end`](super::Headers::end_to_end), or what the proxy's own filter leaves of it.
    ///
    /// ```
    /// # use epicycle::codec::{Codec, Decoded};
    /// use epicycle::http::HeaderBlock;
    /// # use epicycle::http::HttpCodec;
    ///
    /// # let mut input = *b"GET / HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    /// # let Decoded::Frame { frame: request, .. } = HttpCodec::default().decode(&mut input)? else {
    /// #     panic!("it is complete");
    /// # };
    /// let mut block = HeaderBlock::new();
    /// block.fill(request.headers().end_to_end().filter(|line| !line.is("cookie")))?;
    /// # assert_eq!(format!("{block:?}"), r#"["Accept: */*"]"#);
    /// # Ok::<(), epicycle::codec::FrameError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`push_line`](Self::push_line). The block then has the lines before the one that is refused.
    pub fn fill<'a>(
        &mut self,
        lines: impl IntoIterator<Item = HeaderLine<'a>>,
    ) -> Result<(), SendError> {
        self.clear();
        for line in lines {
            self.push_line(line)?;
        }
        Ok(())
    }

    /// Replaces all headers by copies of those that a proxy passes on, as [`fill`](Self::fill) does with
    /// [`Headers::end_to_end`](super::Headers::end_to_end). `passes` sees each received line, and keeps those out for which it
    /// returns false. Lines that stand together are copied together.
    #[cfg(feature = "gateway")]
    #[inline(always)]
    pub(crate) fn fill_end_to_end(
        &mut self,
        headers: Headers<'_>,
        mut passes: impl FnMut(&HeaderLine<'_>) -> bool,
    ) {
        self.clear();
        let (all, end_to_end) = (headers.as_bytes(), headers.end_to_end_filter());
        self.lines.reserve(all.len());
        // The beginning of the lines that are to be copied, and the end of those that were looked at.
        let (mut begin, mut end) = (0, 0);
        for line in Lines(all) {
            let at = end;
            end += line.as_bytes().len();
            let is_kept = passes(&line) & end_to_end.passes(&line);
            // Those that are refused are among those that are not passed on.
            if !is_kept || self.names.note(line.name()).is_err() {
                self.lines.extend_from_slice(&all[begin..at]);
                begin = end;
            }
        }
        self.lines.extend_from_slice(&all[begin..end]);
    }

    /// Appends copies of received lines that the codecs need not know of.
    #[cfg(feature = "gateway")]
    #[inline]
    pub(super) fn push_lines(&mut self, lines: &[u8]) {
        self.lines.extend_from_slice(lines);
    }

    /// Notes that there is a `Date` among lines that were appended.
    #[cfg(feature = "gateway")]
    #[inline]
    pub(super) fn note_date(&mut self, has_date: bool) {
        self.names.date |= has_date;
    }

    /// Keeps the headers for whose lines `keeps` returns true, and removes the others.
    pub fn retain(&mut self, mut keeps: impl FnMut(HeaderLine<'_>) -> bool) {
        let (mut kept, mut at) = (0, 0);
        let mut names = Names::default();
        while let Some(line) = Lines(&self.lines[at..]).next() {
            let len = line.as_bytes().len();
            // A name that is refused got in by no way.
            if keeps(line) && names.note(line.name()).is_ok() {
                self.lines.copy_within(at..at + len, kept);
                kept += len;
            }
            at += len;
        }
        self.lines.truncate(kept);
        self.names = names;
    }

    /// Removes all headers of that name, in any case.
    pub fn remove(&mut self, name: &str) {
        if self.headers().get(name).is_some() {
            self.retain(|line| !line.is(name));
        }
    }

    /// Replaces all headers of that name, in any case, by one.
    ///
    /// ```
    /// use epicycle::http::HeaderBlock;
    ///
    /// let mut block = HeaderBlock::new().with("Server", "a")?.with("Date", "now")?.with("server", "b")?;
    /// block.set("Server", "c")?;
    /// assert_eq!(format!("{block:?}"), r#"["Date: now", "Server: c"]"#);
    /// # Ok::<(), epicycle::http::SendError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push). Nothing changes then.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), SendError> {
        let value = value.as_ref();
        let checked = check_headers(&[(name, value)])?;
        self.remove(name);
        self.append(name, value, &checked);
        Ok(())
    }

    /// Returns the headers, to look at them.
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(&self.lines, false)
    }

    /// Removes all headers. The memory is kept for others.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.names = Names::default();
    }

    /// Returns true if the block has no headers.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the bytes of memory for headers.
    #[cfg(feature = "gateway")]
    pub(crate) fn capacity(&self) -> usize {
        self.lines.capacity()
    }

    #[inline]
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    #[inline]
    pub(super) fn names(&self) -> Names {
        self.names
    }
}

/// Returns true if a header may be appended without a look.
#[cfg(feature = "gateway")]
fn is_known(begin: &[u8], value: &[u8]) -> bool {
    let name = begin.strip_suffix(b": ").unwrap_or_default();
    let name = std::str::from_utf8(name).unwrap_or_default();
    check_headers(&[(name, value)]).is_ok_and(|checked| checked.names == Names::default())
}

impl fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = String::from_utf8_lossy(&self.lines);
        f.debug_list().entries(lines.lines()).finish()
    }
}
