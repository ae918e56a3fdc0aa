//! Records that the kernel has not taken yet.

/// Records to send before all others, in one vector that is freed once they are sent.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    records: Vec<u8>,
    sent: usize,
    /// Where the application's records end; behind them lie handshake messages and alerts.
    data_end: usize,
    /// How much plaintext the application's records were made of.
    plain: usize,
}

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What is to be sent next.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.records[self.sent..]
    }

    /// How many bytes of the application's the kernel has not got, as far as can be told: all that is left
    /// of their records, until that is less than their plaintext was.
    pub(crate) fn unsent_plain(&self) -> usize {
        self.plain.min(self.data_end.saturating_sub(self.sent))
    }

    /// Appends handshake messages or alerts.
    pub(crate) fn push(&mut self, records: &[u8]) {
        self.records.extend_from_slice(records);
    }

    /// The same, for the caller to fill in.
    pub(crate) fn grow(&mut self, len: usize) -> &mut [u8] {
        let start = self.records.len();
        self.records.resize(start + len, 0);
        &mut self.records[start..]
    }

    /// Appends what is left of the application's records, which were made of `plain` bytes.
    pub(crate) fn push_data(&mut self, records: &[u8], plain: usize) {
        self.records.extend_from_slice(records);
        self.data_end = self.records.len();
        self.plain += plain;
    }

    /// The kernel took `n` bytes.
    pub(crate) fn on_sent(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.records.len() {
            *self = Self::default();
        }
    }
}
