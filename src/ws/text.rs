//! Text in UTF-8, validated as it arrives (RFC 6455, section 8.1).

use super::failure::Failure;

/// Returns all of `bytes` as text.
///
/// # Errors
///
/// Returns a failure with 1007 if they are not UTF-8.
#[inline]
pub(super) fn whole(bytes: &[u8]) -> Result<&str, Failure> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| not_text())
}

/// A text that arrives in parts, which may end within a character.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    /// The start of a character whose rest has not arrived.
    partial: Partial,
}

impl Text {
    /// Returns the length in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.partial.get().len()
    }

    /// Reserves memory for exactly `additional` bytes.
    pub(super) fn reserve_exact(&mut self, additional: usize) {
        self.text
            .reserve_exact(additional + self.partial.get().len());
    }

    pub(super) fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Appends a part.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1007 at the first byte that cannot be UTF-8.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let rest = self
            .partial
            .complete(bytes, |character| self.text.push_str(character))?;
        let (front, back) = split(rest);
        self.text.push_str(whole(front)?);
        self.partial.begin(back)
    }

    /// Validates the bytes of the next part that have arrived, without appending them.
    ///
    /// # Errors
    ///
    /// The same as for [`push`](Self::push).
    pub(super) fn check_next(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut partial = self.partial;
        let rest = partial.complete(bytes, |_| {})?;
        let (front, back) = split(rest);
        whole(front)?;
        partial.begin(back)
    }

    /// Returns the complete text.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1007 if the text ends within a character.
    pub(super) fn finish(self) -> Result<String, Failure> {
        if self.partial.get().is_empty() {
            Ok(self.text)
        } else {
            Err(not_text())
        }
    }
}

/// The first bytes of a character: three at most.
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    bytes: [u8; 4],
    len: u8,
}

impl Partial {
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }

    /// Completes the character with bytes from the front of `bytes`. Returns the character once it is complete, and the
    /// remaining bytes.
    fn complete<'a>(
        &mut self,
        bytes: &'a [u8],
        mut push: impl FnMut(&str),
    ) -> Result<&'a [u8], Failure> {
        let mut rest = bytes;
        while self.len > 0
            && let Some((&byte, behind)) = rest.split_first()
        {
            // The stored bytes are incomplete, so one more fits.
            self.bytes[usize::from(self.len)] = byte;
            self.len += 1;
            rest = behind;
            match str::from_utf8(self.get()) {
                Ok(character) => {
                    push(character);
                    self.len = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(not_text()),
            }
        }
        Ok(rest)
    }

    /// Stores `bytes`, which are empty or the start of a longer character.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        // A wrong second byte is already an error.
        if str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some()) {
            return Err(not_text());
        }
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len() as u8;
        Ok(())
    }
}

/// Splits off an incomplete character at the end.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let width = match bytes[at] {
            0x80..=0xBF => continue,
            0xF0.. => 4,
            0xE0.. => 3,
            0xC0.. => 2,
            _ => 1,
        };
        return bytes.split_at(if width > back { at } else { bytes.len() });
    }
    (bytes, &[])
}

#[cold]
fn not_text() -> Failure {
    Failure::data("a text that is not UTF-8")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ws::failure::CloseCode;

    /// Texts, and bytes that are almost text: overlong forms, surrogates, values beyond Unicode, stray and missing
    /// bytes.
    fn near_texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            "[a-zä€😀]{0,5}".prop_map(String::into_bytes),
            prop::sample::select(vec![
                &b"\xC0\xAF"[..],
                b"\xE0\x9F\xBF",
                b"\xED\xA0\x80",
                b"\xF4\x90\x80\x80",
                b"\x80",
                b"\xCE",
                b"\xF0\x9F\x98",
                b"\xF8\x88\x80\x80\x80",
                b"\xFF",
                b"\xF0\x8F",
            ])
            .prop_map(<[u8]>::to_vec),
        ];
        prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(bytes in near_texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut text = Text::default();
            let mut start = 0;
            let mut failed = false;
            for end in cuts {
                let piece = &bytes[start..end];
                let possible = str::from_utf8(&bytes[..end]).err().is_none_or(|error| error.error_len().is_none());
                prop_assert_eq!(text.check_next(piece).is_ok(), possible);
                match text.push(piece) {
                    Ok(()) => prop_assert!(possible),
                    Err(failure) => {
                        prop_assert!(!possible);
                        prop_assert_eq!(failure.code, CloseCode::INVALID_DATA);
                        failed = true;
                        break;
                    }
                }
                prop_assert_eq!(text.len(), end);
                start = end;
            }
            let expected = String::from_utf8(bytes).ok();
            let got = if failed { None } else { text.finish().ok() };
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_when_it_comes() {
        let text = "κόσμε😀".as_bytes();
        for at in 0..text.len() {
            let mut bytes = text.to_vec();
            bytes[at] = 0xFF;
            let mut pieces = Text::default();
            let failed = bytes.iter().position(|byte| pieces.push(&[*byte]).is_err());
            assert_eq!(failed, Some(at));
        }
    }
}
