use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

/// The length of a date as HTTP writes it.
pub(super) const LEN: usize = 29;

thread_local! {
    /// The date that was made last: of all the answers in a second, the first makes it.
    static LAST: Cell<(u64, [u8; LEN])> = const { Cell::new((u64::MAX, [0; LEN])) };
}

/// A time in seconds since 1970, as in `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
#[inline]
pub(super) fn text(unix_time: u64) -> [u8; LEN] {
    let (time, text) = LAST.get();
    if time == unix_time {
        return text;
    }
    make(unix_time)
}

#[cold]
fn make(unix_time: u64) -> [u8; LEN] {
    // The crate formats no later time than the last second of the year 9999.
    let since = Duration::from_secs(unix_time.min(253_402_300_799));
    let mut text = [b' '; LEN];
    let formatted = httpdate::fmt_http_date(UNIX_EPOCH + since);
    for (place, byte) in text.iter_mut().zip(formatted.bytes()) {
        *place = byte;
    }
    LAST.set((unix_time, text));
    text
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::text;

    #[test]
    fn dates_are_written_as_the_rfc_has_them() {
        assert_eq!(&text(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&text(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&text(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
