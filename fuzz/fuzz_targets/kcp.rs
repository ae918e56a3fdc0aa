//! Datagrams of a hostile peer to one end of KCP. The input is a list of datagrams, each behind its length; a length of 0 lets time pass
//! and bytes be sent.
#![no_main]

use std::time::{Duration, Instant};

use epicycle::kcp::{Kcp, KcpOptions};
use libfuzzer_sys::fuzz_target;

/// The most segments that may wait for the application: those that are ready, and those behind them.
const MOST_READY: usize = 2 * 16;

fuzz_target!(|data: &[u8]| {
    let Some((&[quick, acks], mut rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let options = KcpOptions::new()
        .no_delay(quick % 2 == 1)
        .fast_resend((quick / 2 % 4).into())
        .congestion_control(quick / 8 % 2 == 1)
        .ack_no_delay(acks % 2 == 1)
        .windows(16, 16)
        .max_queued(4096);
    let mut now = Instant::now();
    let mut end = Kcp::server(u32::from_le_bytes(*b"conv"), &options, now, 0x5eed);
    let (mut came, mut sent, mut has_data) = (0, 0, false);
    while let Some((&len, behind)) = rest.split_first() {
        if len == 0 {
            now += Duration::from_millis(100);
            has_data |= end.send(&[7; 100]).is_ok();
        }
        let (datagram, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        let _ = Kcp::opening(datagram);
        if end.input(datagram, now).is_ok() {
            came += datagram.len();
        }
        end.flush(now, |datagram| {
            assert!(datagram.len() <= 1400);
            sent += datagram.len();
        });
        if !has_data {
            // A repaired datagram is as long as the longest one at most.
            let repaired = usize::from(u8::MAX) * end.repaired() as usize;
            assert!(sent <= came + repaired, "{sent} bytes for {came}");
        }
        assert!(end.queued() <= 4096);
        let _ = (end.check(), end.is_dead());
    }
    let ready = std::iter::from_fn(|| end.recv()).count();
    assert!(ready <= MOST_READY, "{ready} segments");
});
