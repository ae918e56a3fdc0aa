//! The beginning of an answer, made once a second.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

const STATUS_LINE: &[u8; 17] = b"HTTP/1.1 200 OK\r\n";
const DATE_LINE: &[u8; 37] = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

thread_local! {
    /// What was made last: of all the answers in a second, the first makes it.
    static LAST: Cell<Beginning> = const {
        Cell::new(Beginning {
            unix_time: u64::MAX,
            lines: [0; STATUS_LINE.len() + DATE_LINE.len()],
        })
    };
}

/// What most answers begin with: a status line, and the time (RFC 9110, section 6.6.1).
#[derive(Clone, Copy)]
pub(super) struct Beginning {
    unix_time: u64,
    lines: [u8; STATUS_LINE.len() + DATE_LINE.len()],
}

impl Beginning {
    /// The one for a time in seconds since 1970.
    #[inline]
    pub(super) fn at(unix_time: u64) -> Self {
        let last = LAST.get();
        if last.unix_time == unix_time {
            return last;
        }
        Self::make(unix_time)
    }

    /// The status line for 200, and the date's.
    #[inline]
    pub(super) fn ok(&self) -> &[u8; STATUS_LINE.len() + DATE_LINE.len()] {
        &self.lines
    }

    /// The date's line: `Date: Sun, 06 Nov 1994 08:49:37 GMT`.
    pub(super) fn date(&self) -> &[u8] {
        &self.lines[STATUS_LINE.len()..]
    }

    #[cold]
    fn make(unix_time: u64) -> Self {
        // The crate formats no later time than the last second of the year 9999.
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
    use super::Beginning;

    #[test]
    fn dates_are_written_as_the_rfc_has_them() {
        for _ in 0..2 {
            let expected = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
            assert_eq!(Beginning::at(784_111_777).ok(), expected.as_bytes());
        }
        let next = Beginning::at(784_111_778);
        assert_eq!(next.date(), b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    }
}
