//! Records that the kernel has not accepted yet.

/// Records to send before all others, in one vector that is freed once they are sent.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    records: Vec<u8>,
    sent: usize,
    /// The end of the application's records. Handshake messages and alerts follow.
    data_end: usize,
    /// The length of the plaintext in the application's records.
    plain: usize,
}

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the bytes to send next.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.records[self.sent..]
    }

    /// Returns the number of the application's bytes that the kernel has not accepted. It is an estimate: all that is
    /// left of their records, at most the length of their plaintext.
    pub(crate) fn unsent_plain(&self) -> usize {
        self.plain.min(self.data_end.saturating_sub(self.sent))
    }

    /// Appends handshake messages or alerts.
    pub(crate) fn push(&mut self, records: &[u8]) {
        self.records.extend_from_slice(records);
    }

    /// Appends `len` bytes for the caller to fill in.
    pub(crate) fn grow(&mut self, len: usize) -> &mut [u8] {
        let start = self.records.len();
        self.records.resize(start + len, 0);
        &mut self.records[start..]
    }

    /// Appends the rest of the application's records, which were made of `plain` bytes.
    pub(crate) fn push_data(&mut self, records: &[u8], plain: usize) {
        self.records.extend_from_slice(records);
        self.data_end = self.records.len();
        self.plain += plain;
    }

    /// Notes that the kernel accepted `n` bytes.
    pub(crate) fn on_sent(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.records.len() {
            *self = Self::default();
        }
    }
}
