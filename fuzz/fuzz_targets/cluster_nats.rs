//! The operations of a NATS server.
#![no_main]

use epicycle::internals::{NatsCodec, NatsOperation};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

struct Operations;

impl Subject for Operations {
    type Codec = NatsCodec;

    fn codec(&self) -> NatsCodec {
        NatsCodec::default()
    }

    /// The longest message, with its line.
    fn limit(&self) -> usize {
        (64 << 20) + (1 << 20) + 2
    }

    fn note(&self, operation: NatsOperation<'_>, log: &mut Vec<Vec<u8>>) {
        log.push(format!("{operation:?}").into_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(case) = Case::<0>::new(data) {
        check(&Operations, &case);
    }
});
