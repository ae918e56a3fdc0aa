use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

/// The length of a `Date` header's line.
pub(super) const LEN: usize = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();

thread_local! {
    /// The line that was made last: of all the answers in a second, the first makes it.
    static LAST: Cell<(u64, [u8; LEN])> = const { Cell::new((u64::MAX, [0; LEN])) };
}

/// A time in seconds since 1970 as a header: `Date: Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
#[inline]
pub(super) fn line(unix_time: u64) -> [u8; LEN] {
    let (time, line) = LAST.get();
    if time == unix_time {
        return line;
    }
    make(unix_time)
}

#[cold]
fn make(unix_time: u64) -> [u8; LEN] {
    // The crate formats no later time than the last second of the year 9999.
    let since = Duration::from_secs(unix_time.min(253_402_300_799));
    let date = httpdate::fmt_http_date(UNIX_EPOCH + since);
    let mut line = *b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    for (place, byte) in line.iter_mut().skip("Date: ".len()).zip(date.bytes()) {
        *place = byte;
    }
    LAST.set((unix_time, line));
    line
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::line;

    #[test]
    fn dates_are_written_as_the_rfc_has_them() {
        assert_eq!(
            &line(784_111_777),
            b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        );
        assert_eq!(
            &line(784_111_777),
            b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        );
        assert_eq!(
            &line(784_111_778),
            b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
        );
    }
}
