//! The state machine, driven without a socket and with a clock of its own.

use super::*;
use crate::buf::outbox::{Arena, Outbox};
use crate::engine::conn::limits::OutboundPolicy;

/// A connection with the parts that a reactor lends it.
struct Bench {
    state: ConnState,
    arena: Arena,
    pool: BufferPool,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        Self {
            state: ConnState::new(
                ConnId::new(0, 0, 1),
                Addr::Unix(None),
                Origin::Accepted { listener: 0 },
                0,
            ),
            arena: Arena::empty(),
            pool: BufferPool::new(),
            limits: Limits {
                high_water: 1000,
                low_water: 100,
                outbound: 10_000,
                max_files: 16,
                policy: OutboundPolicy::PauseReads,
                max_frame: 10_000,
                watch_open: true,
                answer: NEVER,
                idle: NEVER,
                read: NEVER,
                write_stall: NEVER,
                handshake: NEVER,
                lifetime: NEVER,
                drain: 50,
                fin: 20,
            },
        }
    }

    fn write(&mut self, len: usize) {
        Outbox::new(&mut self.state.out, &mut self.arena, &mut self.pool).put(&vec![7; len]);
    }

    fn sent(&mut self, len: usize, now: u64) {
        self.state.out.backlog_sent(len, &mut self.pool);
        self.state.on_sent(len, now);
    }

    fn close(&mut self, now: u64) {
        let limits = &self.limits;
        assert!(self.state.begin_close(CloseReason::Local, now, limits));
    }

    fn alarm(&self, now: u64) -> Alarm {
        self.state.alarm(now, 0, &self.limits)
    }
}

#[test]
fn closing_ends_the_wait_for_a_response() {
    let mut bench = Bench::new();
    bench.state.await_response(10_000);
    bench.write(10);
    bench.close(0);
    assert!(
        !bench.state.awaits_response(),
        "once all is sent its limit would take the place of the drain's"
    );
    assert_eq!(bench.alarm(0), Alarm::At(50));
}

#[test]
fn closing_drains_then_sends_fin_then_awaits_the_peers() {
    let mut bench = Bench::new();
    bench.write(10);
    bench.close(0);
    assert_eq!(
        bench.state.next_step(),
        Step::Wait,
        "10 bytes are not sent yet"
    );
    bench.sent(10, 1);
    assert_eq!(bench.state.next_step(), Step::SendFin);
    bench.state.fin_sent(1, &bench.limits);
    assert_eq!(
        bench.state.next_step(),
        Step::Wait,
        "the peer may still send"
    );
    assert!(bench.state.discards_input());
    bench.state.on_peer_eof();
    assert_eq!(bench.state.next_step(), Step::Close);
}

#[test]
fn closing_after_the_peers_fin_needs_no_wait() {
    let mut bench = Bench::new();
    bench.state.on_peer_eof();
    bench.close(0);
    assert!(bench.state.is_finished());
    assert_eq!(bench.state.next_step(), Step::Close);
}

#[test]
fn an_encrypted_stream_is_ended_also_after_the_peers_end() {
    let mut bench = Bench::new();
    bench.state.seal();
    bench.state.on_peer_eof();
    assert!(!bench.state.is_finished());
    bench.write(10);
    bench.close(0);
    bench.sent(10, 0);
    bench.state.set_tail(true);
    assert_eq!(bench.state.next_step(), Step::Wait);
    bench.state.set_tail(false);
    assert_eq!(bench.state.next_step(), Step::SendFin);
    bench.state.fin_sent(0, &bench.limits);
    assert_eq!(bench.state.next_step(), Step::Close);
}

#[test]
fn a_half_closed_connection_sends_fin_once_and_still_reads() {
    let mut bench = Bench::new();
    bench.write(10);
    bench.state.shut_write();
    assert!(!bench.state.takes_writes());
    assert_eq!(bench.state.next_step(), Step::Wait);
    bench.sent(10, 0);
    assert_eq!(bench.state.next_step(), Step::SendFin);
    bench.state.fin_sent(0, &bench.limits);
    assert_eq!(bench.state.next_step(), Step::Wait);
    assert!(bench.state.wants_frames());
    bench.state.on_peer_eof();
    assert_eq!(bench.state.next_step(), Step::Close);
}

#[test]
fn a_connection_that_breaks_after_a_refused_write_is_sound() {
    let mut bench = Bench::new();
    bench.state.on_refused(&bench.limits);
    let reason = CloseReason::Reset(std::io::ErrorKind::ConnectionReset.into());
    bench.state.mark_broken(reason, 0);
    bench.state.check();
    assert!(bench.state.wants_frames(), "what arrived before is read");
}

#[test]
fn an_abort_wins_over_a_drain_and_keeps_its_reason() {
    let mut bench = Bench::new();
    bench.write(10);
    bench.close(0);
    bench.state.abort(CloseReason::Aborted);
    assert_eq!(bench.state.next_step(), Step::Reset);
    let closed = bench.state.account(3, Instant::now());
    let reason = bench.state.finish(None, &mut bench.pool);
    assert!(matches!(reason, CloseReason::Local));
    assert_eq!(closed.unsent, 10);
    assert_eq!(bench.pool.lent(), 0, "its buffers are back");
}

#[test]
fn closing_twice_is_closing_once() {
    let mut bench = Bench::new();
    bench.close(0);
    let again = CloseReason::Shutdown;
    assert!(!bench.state.begin_close(again, 9, &bench.limits));
    assert_eq!(
        bench.alarm(49),
        Alarm::At(50),
        "the deadline is the first one's"
    );
}

#[test]
fn a_drain_and_the_wait_for_fin_have_deadlines() {
    let mut bench = Bench::new();
    bench.write(10);
    bench.close(0);
    assert_eq!(bench.alarm(49), Alarm::At(50));
    assert_eq!(bench.alarm(50), Alarm::DrainOver);
    bench.sent(10, 10);
    bench.state.fin_sent(10, &bench.limits);
    assert_eq!(bench.alarm(29), Alarm::At(30));
    assert_eq!(bench.alarm(30), Alarm::FinOver);
}

#[test]
fn a_shutdown_shortens_the_wait_for_fin_only() {
    let mut bench = Bench::new();
    bench.write(10);
    bench.close(0);
    assert!(!bench.state.shorten_fin_wait(5), "it still drains");
    bench.sent(10, 1);
    bench.state.fin_sent(1, &bench.limits);
    assert!(bench.state.shorten_fin_wait(5));
    assert_eq!(bench.alarm(5), Alarm::FinOver);
}

#[test]
fn a_congested_peer_is_not_read_until_it_has_drained() {
    let mut bench = Bench::new();
    bench.state.set_pauses_reads(true);
    bench.write(1000);
    assert!(!bench.state.update_congestion(&bench.limits));
    assert!(bench.state.wants_frames(), "it is not above the high mark");
    bench.write(1);
    assert!(!bench.state.update_congestion(&bench.limits));
    assert!(!bench.state.wants_frames());
    bench.sent(800, 0);
    assert!(
        !bench.state.update_congestion(&bench.limits),
        "201 is above the low mark"
    );
    assert!(!bench.state.wants_frames());
    bench.sent(101, 0);
    assert!(bench.state.update_congestion(&bench.limits));
    assert!(bench.state.take_drain_due());
    assert!(!bench.state.take_drain_due(), "on_drain is due once");
    assert!(bench.state.wants_frames());
}

#[test]
fn a_congested_peer_that_is_read_on_is_told_all_the_same_when_it_has_drained() {
    let mut bench = Bench::new();
    bench.write(1001);
    assert!(!bench.state.update_congestion(&bench.limits));
    assert!(bench.state.wants_frames());
    bench.sent(901, 0);
    assert!(bench.state.update_congestion(&bench.limits));
    assert!(bench.state.take_drain_due());
}

#[test]
fn a_short_read_has_drained_the_socket_unless_the_peer_has_ended() {
    let mut bench = Bench::new();
    bench.state.on_event(true, false, false);
    bench.state.on_read(10, true, 0);
    assert!(!bench.state.is_readable());
    bench.state.on_event(true, false, true);
    bench.state.on_read(10, true, 0);
    assert!(bench.state.is_readable(), "the end is still to be read");
}

#[test]
fn a_full_read_has_not_drained_the_socket() {
    let mut bench = Bench::new();
    bench.state.on_event(true, false, false);
    bench.state.on_read(100, false, 0);
    assert!(bench.state.is_readable());
}

#[test]
fn a_pause_keeps_readiness_so_that_resuming_needs_no_event() {
    let mut bench = Bench::new();
    bench.state.on_event(true, false, false);
    bench.state.set_paused(true);
    assert!(!bench.state.wants_frames());
    bench.state.set_paused(false);
    assert!(bench.state.is_readable());
    assert!(bench.state.wants_frames());
}

#[test]
fn each_timeout_counts_from_its_own_moment() {
    let mut bench = Bench::new();
    bench.limits.idle = 100;
    bench.limits.handshake = 60;
    bench.limits.lifetime = 1000;
    assert_eq!(bench.alarm(59), Alarm::At(60));
    assert_eq!(bench.alarm(60), Alarm::Timeout(TimeoutKind::Handshake));
    bench.state.on_read(1, true, 50);
    bench.state.on_frames();
    assert_eq!(bench.alarm(60), Alarm::At(150));
    assert_eq!(bench.alarm(150), Alarm::Timeout(TimeoutKind::Idle));
    bench.state.on_sent(1, 140);
    assert_eq!(bench.alarm(150), Alarm::At(240), "sending is activity too");
    assert_eq!(bench.alarm(1000), Alarm::Timeout(TimeoutKind::Lifetime));
}

#[test]
fn the_read_timeout_counts_from_the_first_byte_of_a_frame() {
    let mut bench = Bench::new();
    bench.limits.read = 30;
    assert_eq!(bench.alarm(1000), Alarm::At(NEVER), "no frame has begun");
    bench.state.on_partial(true, 10);
    bench.state.on_partial(false, 35);
    assert_eq!(bench.alarm(39), Alarm::At(40));
    assert_eq!(bench.alarm(40), Alarm::Timeout(TimeoutKind::Read));
    bench.state.on_partial(true, 40);
    assert_eq!(bench.alarm(40), Alarm::At(70), "another frame has begun");
    bench.state.on_input_consumed();
    assert_eq!(bench.alarm(70), Alarm::At(NEVER));
}

#[test]
fn the_write_stall_counts_from_the_last_progress() {
    let mut bench = Bench::new();
    bench.limits.write_stall = 30;
    bench.write(100);
    bench.state.on_write_would_block(10);
    bench.state.on_write_would_block(20);
    assert_eq!(bench.alarm(20), Alarm::At(40));
    bench.sent(50, 30);
    bench.state.on_write_would_block(30);
    assert_eq!(bench.alarm(40), Alarm::At(60));
    assert_eq!(bench.alarm(60), Alarm::Timeout(TimeoutKind::WriteStall));
    bench.state.on_acknowledged(45);
    assert_eq!(bench.alarm(60), Alarm::At(75));
    assert_eq!(bench.alarm(75), Alarm::Timeout(TimeoutKind::WriteStall));
}

#[test]
fn a_drain_that_has_time_counts_from_the_last_progress_and_ends_with_the_lifetime() {
    let mut bench = Bench::new();
    bench.limits.lifetime = 100;
    bench.write(100);
    bench.close(0);
    bench.state.drain_by_progress();
    bench.state.on_write_would_block(0);
    assert_eq!(bench.alarm(0), Alarm::At(50));
    bench.state.on_acknowledged(40);
    assert_eq!(bench.alarm(50), Alarm::At(90));
    bench.state.on_acknowledged(89);
    assert_eq!(bench.alarm(90), Alarm::At(139));
    bench.state.on_acknowledged(138);
    assert_eq!(
        bench.alarm(139),
        Alarm::At(150),
        "the lifetime, and a drain"
    );
    bench.state.on_acknowledged(149);
    assert_eq!(bench.alarm(150), Alarm::DrainOver);
}

#[test]
fn an_answer_that_is_awaited_at_the_end_of_the_lifetime_has_as_long_as_a_drain() {
    let mut bench = Bench::new();
    bench.limits.lifetime = 100;
    assert_eq!(bench.alarm(100), Alarm::Timeout(TimeoutKind::Lifetime));
    bench.state.begin_drain();
    assert_eq!(bench.alarm(100), Alarm::At(150));
    assert_eq!(bench.alarm(150), Alarm::Timeout(TimeoutKind::Lifetime));
}

#[test]
fn only_a_connection_that_could_send_all_it_has_takes_a_write_at_once() {
    let mut bench = Bench::new();
    assert!(bench.state.takes_at_once());
    bench.write(1);
    assert!(!bench.state.takes_at_once());
    bench.sent(1, 0);
    assert!(bench.state.takes_at_once());
    // The end of this wait counts from the flush of the last byte.
    bench.state.await_response(5);
    assert!(!bench.state.takes_at_once());
    bench.state.end_response_wait();
    bench.state.on_write_would_block(0);
    assert!(!bench.state.takes_at_once());
    bench.state.on_event(false, true, false);
    assert!(bench.state.takes_at_once());
    bench.close(0);
    assert!(!bench.state.takes_at_once());
}
