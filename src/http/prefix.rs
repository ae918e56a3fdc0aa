//! The first lines of an answer, cached for a second.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

const STATUS_LINE: &[u8; 17] = b"HTTP/1.1 200 OK\r\n";
const DATE_LINE: &[u8; 37] = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

thread_local! {
    /// The lines made last. The first answer of each second makes them.
    static LAST: Cell<ResponsePrefix> = const {
        Cell::new(ResponsePrefix {
            unix_time: u64::MAX,
            lines: [0; STATUS_LINE.len() + DATE_LINE.len()],
        })
    };
}

/// The first lines of most answers: a status line, and the date (RFC 9110, section 6.6.1).
#[derive(Clone, Copy)]
pub(super) struct ResponsePrefix {
    unix_time: u64,
    lines: [u8; STATUS_LINE.len() + DATE_LINE.len()],
}

impl ResponsePrefix {
    /// Returns the lines for a time in seconds since 1970.
    #[inline]
    pub(super) fn at(unix_time: u64) -> Self {
        let last = LAST.get();
        if last.unix_time == unix_time {
            return last;
        }
        Self::make(unix_time)
    }

    /// Returns the status line for 200, and the `Date` line.
    #[inline]
    pub(super) fn ok(&self) -> &[u8; STATUS_LINE.len() + DATE_LINE.len()] {
        &self.lines
    }

    /// Returns the `Date` line: `Date: Sun, 06 Nov 1994 08:49:37 GMT`.
    pub(super) fn date(&self) -> &[u8] {
        &self.lines[STATUS_LINE.len()..]
    }

    #[cold]
    fn make(unix_time: u64) -> Self {
        // `httpdate` formats no time after the last second of the year 9999.
        let since = Duration::from_secs(unix_time.min(253_402_300_799));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + since);
        let bytes = STATUS_LINE.iter().chain(b"Date: ").copied();
        let bytes = bytes.chain(date.bytes()).chain(*b"\r\n");
        let mut made = Self {
            unix_time,
            lines: [b' '; STATUS_LINE.len() + DATE_LINE.len()],
        };
        for (place, byte) in made.lines.iter_mut().zip(bytes) {
            *place = byte;
        }
        LAST.set(made);
        made
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::ResponsePrefix;

    #[test]
    fn dates_are_written_as_the_rfc_has_them() {
        for _ in 0..2 {
            let expected = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
            assert_eq!(ResponsePrefix::at(784_111_777).ok(), expected.as_bytes());
        }
        let next = ResponsePrefix::at(784_111_778);
        assert_eq!(next.date(), b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    }
}
