//! Regressions: codecs, tasks and peers at the limits of their contracts.

#[path = "util/mod.rs"]
mod util;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use epicycle::codec::{
    self, Codec, Decoded, Encode, FrameError, LengthField, Lines, Stage, encode_to_vec,
};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, Error, EventHandler, HandleError, Outbox, Reactor,
    Server, TimeoutKind, service,
};

use crate::util::app::{App, Cut, local, start};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, expect_panics, noise};

/// Frames end in LF, are found without a word on how long they may become, and have an encoder that panics.
struct Blunt;

/// The longest input it has seen.
static LONGEST: AtomicUsize = AtomicUsize::new(0);

impl Codec for Blunt {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        LONGEST.fetch_max(src.len(), Ordering::Relaxed);
        Ok(match src.iter().position(|byte| *byte == b'\n') {
            Some(end) => Decoded::Frame {
                frame: &src[..=end],
                consumed: end + 1,
            },
            None => Decoded::NeedMore { at_least: 1 },
        })
    }
}

impl Encode<&[u8]> for Blunt {
    fn encode(&mut self, item: &[u8], dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(item);
        panic!("on purpose: an encoder");
    }
}

/// An echo of such frames.
struct BluntEcho(mpsc::Sender<CloseReason>);

impl EventHandler for BluntEcho {
    type Codec = Blunt;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Blunt {
        Blunt
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        conn.write(frame).into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        let _ = self.0.send(reason);
    }
}

#[test]
fn a_flood_of_frames_that_fills_the_budget_exactly_goes_on() {
    let (server, log) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    // A read buffer of 80 KiB holds 2,048 of these, twice the frame budget.
    let frame = encode_to_vec(&mut LengthField::default(), [7; 36]).unwrap();
    let count = 200_000;
    Client::to(&server).echo_all(&frame.repeat(count));
    assert_eq!(log.frames(), count);
    let stats = server.engine().stats().total();
    assert_eq!((stats.panics, stats.frames), (0, count as u64));
}

#[test]
fn a_codec_that_asks_for_too_little_does_not_lift_the_frame_limit() {
    let (closed, closes) = mpsc::channel();
    let server = local()
        .max_frame(1 << 20)
        .start(move |_| BluntEcho(closed.clone()))
        .unwrap();
    let client = Client::to(&server);
    let sender = client.clone();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let chunk = vec![b'x'; 1 << 20];
        // The connection ends somewhere in here.
        for _ in 0..64 {
            if (&sender.0).write_all(&chunk).is_err() {
                break;
            }
        }
        sender.0.shutdown(std::net::Shutdown::Write).ok();
    });
    let reason = closes.recv_timeout(LONG).unwrap();
    assert!(
        matches!(reason, CloseReason::Frame(FrameError::TooLong { .. })),
        "{reason}"
    );
    let seen = LONGEST.load(Ordering::Relaxed);
    assert!(seen <= 2 << 20, "{seen} bytes were kept");
    sending.join().unwrap();
}

#[test]
fn the_mailbox_bound_holds_while_the_reactor_is_behind() {
    let (server, _) = start(local().mailbox(2_000), |app| app);
    let engine = server.engine();
    let gate = || {
        let (entered, enters) = mpsc::channel();
        let (open, opens) = mpsc::channel::<()>();
        let wait = move || {
            entered.send(()).unwrap();
            opens.recv_timeout(LONG).unwrap();
        };
        (wait, enters, open)
    };
    let (first, first_entered, open_first) = gate();
    let (second, second_entered, open_second) = gate();
    let (third, third_entered, open_third) = gate();

    engine.run_on(0, move |_, _| first()).unwrap();
    first_entered.recv_timeout(LONG).unwrap();
    // The second gate is the first request of a turn of 1,024, the third that of the turn after.
    engine.run_on(0, move |_, _| second()).unwrap();
    for _ in 1..1_024 {
        engine.run_on(0, |_, _| {}).unwrap();
    }
    engine.run_on(0, move |_, _| third()).unwrap();
    open_first.send(()).unwrap();
    second_entered.recv_timeout(LONG).unwrap();
    for _ in 0..2_000 {
        engine.run_on(0, |_, _| {}).unwrap();
    }
    open_second.send(()).unwrap();
    third_entered.recv_timeout(LONG).unwrap();
    assert_eq!(
        engine.run_on(0, |_, _| {}),
        Err(HandleError::MailboxFull),
        "what waits has only been moved"
    );
    open_third.send(()).unwrap();
}

#[test]
fn an_encoder_that_panics_leaves_nothing_of_its_frame() {
    expect_panics();
    let (closed, _closes) = mpsc::channel();
    let server = local().start(move |_| BluntEcho(closed.clone())).unwrap();
    let (panicked, panics) = mpsc::channel();
    let (victim, other) = (Client::to(&server), Client::to(&server));
    victim.round_trip("a\n");
    other.round_trip("b\n");
    // The handler catches the panic, so the connection stays open.
    server
        .engine()
        .run_on(0, move |_, reactor| {
            let mut first = true;
            reactor.for_each(|conn, ()| {
                if std::mem::take(&mut first) {
                    let sent = AssertUnwindSafe(|| conn.send(&b"half a frame"[..]));
                    assert!(catch_unwind(sent).is_err());
                    let _ = panicked.send(());
                }
            });
        })
        .unwrap();
    assert_eq!(panics.recv_timeout(LONG), Ok(()));
    // Were it still staged, what others stage next would be sent in its place.
    other.round_trip("the secret of another\n");
    victim.round_trip("mine\n");
}

#[test]
fn what_was_written_before_a_panic_is_sent() {
    expect_panics();
    let (server, log) = start(local(), |app| {
        app.react(|conn, _, frame| {
            assert!(conn.write(frame).is_ok());
            assert!(conn.write(b"trailer").is_ok());
            panic!("on purpose: after two writes");
        })
    });
    let client = Client::to(&server);
    let sent = noise(1, 32 << 10);
    client.send(&sent);
    let received = client.recv_to_any_end().0;
    let frame = received.strip_suffix(b"trailer").expect("both writes");
    assert!(!frame.is_empty() && sent.starts_with(frame));
    assert!(matches!(*log.await_close(0).1, CloseReason::Panic));
}

#[test]
fn a_write_stall_is_told_as_such() {
    let (server, log) = start(
        local().write_stall_timeout(Duration::from_millis(100)),
        |app| {
            app.on_open(|conn| {
                shrink(conn);
                conn.write(&[0; 8 << 20]).is_ok()
            })
        },
    );
    let _client = Client::with_small_window(&server);
    let (closed, reason) = log.await_close(0);
    assert!(closed.unsent > 0);
    assert!(
        matches!(*reason, CloseReason::Timeout(TimeoutKind::WriteStall)),
        "{reason}"
    );
}

#[test]
fn buffer_sizes_hold_on_unix_sockets() {
    let path = TempPath::new();
    let (size, sizes) = mpsc::channel();
    let (server, _) = start(
        Server::bind(path.addr())
            .reactors(1)
            .send_buffer(32 << 10)
            .recv_buffer(48 << 10),
        move |app| {
            let size = size.clone();
            app.on_open(move |conn| {
                let socket = socket2::SockRef::from(&*conn);
                let sizes = (
                    socket.send_buffer_size().unwrap(),
                    socket.recv_buffer_size().unwrap(),
                );
                size.send(sizes).unwrap();
                true
            })
        },
    );
    let _client = Client::to(&server);
    // Linux doubles what it is asked for.
    assert_eq!(sizes.recv_timeout(LONG).unwrap(), (64 << 10, 96 << 10));
}

#[test]
fn a_panic_while_forcing_does_not_spare_the_rest() {
    expect_panics();
    let (server, log) = start(local().drain_deadline(Duration::from_secs(3600)), |app| {
        app.on_open(|conn| {
            shrink(conn);
            assert!(conn.write(&[0; 8 << 20]).is_ok());
            conn.close();
            true
        })
        .on_close(|_, _, _| panic!("on purpose: on_close"))
    });
    let _clients: Vec<_> = (0..4).map(|_| Client::with_small_window(&server)).collect();
    eventually("all are open", || log.opened() == 4);
    server.engine().shutdown_within(Duration::from_millis(50));
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(server.join());
    });
    let report = ended.recv_timeout(Duration::from_secs(10)).expect("ends");
    assert_eq!(report.forced, 4);
}

#[test]
fn a_full_server_on_a_unix_path_is_a_server() {
    let path = TempPath::new();
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let addr = socket2::SockAddr::unix(&path.0).unwrap();
    listener.bind(&addr).unwrap();
    listener.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        if client.connect(&addr).is_err() {
            break;
        }
        waiting.push(client);
    }
    let (done, started) = mpsc::channel();
    let addr = path.addr();
    std::thread::spawn(move || {
        let result = Server::bind(addr).start(|_| service(|_, _| Action::Continue));
        done.send(result.map(drop).map_err(|error| error.to_string()))
    });
    let error = started
        .recv_timeout(Duration::from_secs(10))
        .expect("comes back");
    let error = error.expect_err("is taken");
    assert!(error.contains("another server answers"), "{error}");
}

#[test]
fn an_event_for_a_closed_connection_is_nobodys() {
    let (server, log) = start(local(), |app| {
        app.on_open(|conn| {
            use std::os::fd::AsFd;
            // A copy, as a child process has one for a moment, keeps the socket and its events alive.
            std::mem::forget(conn.as_fd().try_clone_to_owned().unwrap());
            true
        })
    });
    let client = Client::to(&server);
    client.round_trip("hello");
    let id = log.await_open(0);
    let handle = server.engine().handle(id).unwrap();
    handle.run(|_, conn, _| conn.abort()).unwrap();
    log.await_close(0);
    let turns = server.engine().stats().total().turns;
    client.send("more");
    eventually("the event comes", || {
        server.engine().stats().total().turns > turns
    });
    Client::to(&server).round_trip("still there");
    assert_eq!(server.engine().stats().total().panics, 0);
}

#[test]
fn a_flush_that_has_happened_is_told_as_one_at_the_close() {
    let (told, tells) = mpsc::channel();
    let (server, _) = start(local(), move |app| {
        let told = told.clone();
        app.on_peer_shutdown(move |conn, _| {
            let told = told.clone();
            let done = move |result: Result<(), _>| told.send(result.is_ok()).unwrap();
            conn.write_then("", done).unwrap();
            Action::Close
        })
    });
    let client = Client::to(&server);
    client.end_writes();
    assert!(tells.recv_timeout(LONG).unwrap());
}

#[test]
fn keepalive_settings_the_kernel_would_refuse_are_named() {
    let second = Duration::from_secs(1);
    let short = Duration::from_millis(500);
    let long = Duration::from_secs(32_768);
    for (idle, interval, count) in [
        (short, second, 3),
        (second, short, 3),
        (second, second, 0),
        (long, second, 3),
        (second, long, 3),
        (second, second, 128),
    ] {
        let server = local().keepalive(idle, interval, count);
        let error = server
            .start(|_| service(|_, _| Action::Continue))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Option {
                    name: "keepalive",
                    ..
                }
            ),
            "{error}"
        );
    }
    let most = Duration::from_secs(32_767);
    let server = local().keepalive(most, most, 127);
    drop(server.start(|_| service(|_, _| Action::Continue)).unwrap());
}

#[test]
fn a_frame_is_not_late_while_its_connection_is_paused() {
    let timeout = Duration::from_millis(200);
    let (server, log) = start(local().read_timeout(timeout).fin_timeout(timeout), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    let client = Client::to(&server);
    client.send(b"\0\0\0\x02h");
    eventually("it is received", || {
        server.engine().stats().total().bytes_in == 5
    });
    let handle = server.engine().handle(log.await_open(0)).unwrap();
    let (paused, pauses) = mpsc::channel();
    let pause = move |_: &mut _, conn: &mut Conn<'_, App>, _: &mut _| {
        conn.pause_reads();
        paused.send(()).unwrap();
    };
    handle.run(pause).unwrap();
    pauses.recv_timeout(LONG).unwrap();
    client.send(b"i");
    std::thread::sleep(2 * timeout);
    handle.run(|_, conn, _| conn.resume_reads()).unwrap();
    assert_eq!(client.recv(6), b"\0\0\0\x02hi");

    // Once reads go on, so does the clock.
    client.send(b"\0");
    eventually("it is received", || {
        server.engine().stats().total().bytes_in == 7
    });
    handle.run(|_, conn, _| conn.pause_reads()).unwrap();
    handle.run(|_, conn, _| conn.resume_reads()).unwrap();
    assert!(matches!(
        *log.await_close(0).1,
        CloseReason::Timeout(TimeoutKind::Read)
    ));
}

/// Finds its frames, of one byte each, once the stream has ended.
struct AtTheEnd;

impl Codec for AtTheEnd {
    type Frame<'a> = u8;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        let at_least = src.len() + 1;
        Ok(Decoded::NeedMore { at_least })
    }

    fn decode_eof(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        let (frame, consumed) = (src[0], 1);
        Ok(Decoded::Frame { frame, consumed })
    }
}

/// Pauses reads after each frame for a while.
struct Sipping(mpsc::Sender<u8>);

impl EventHandler for Sipping {
    type Codec = AtTheEnd;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> AtTheEnd {
        AtTheEnd
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: u8) -> Action {
        let _ = self.0.send(frame);
        conn.pause_reads();
        conn.set_timer(Duration::from_millis(1), 0);
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        conn.resume_reads();
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        let _ = self.0.send(b'.');
        Action::Close
    }
}

#[test]
fn frames_at_the_end_of_the_stream_wait_for_a_handler_that_pauses_reads() {
    let (told, hears) = mpsc::channel();
    let server = local().start(move |_| Sipping(told.clone())).unwrap();
    let client = Client::to(&server);
    client.send("abc");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    let heard: Vec<u8> = hears.try_iter().collect();
    assert_eq!(heard, b"abc.");
}

codec::one_of! {
    enum Changing {
        AtTheEnd(AtTheEnd),
        Lines(Lines),
    }
    enum ChangingFrame;
}

/// Reads lines behind the first byte.
struct Changed(mpsc::Sender<Vec<u8>>);

impl EventHandler for Changed {
    type Codec = Changing;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Changing {
        AtTheEnd.into()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        frame: ChangingFrame<'_>,
    ) -> Action {
        match frame {
            ChangingFrame::AtTheEnd(_) => conn.switch(Lines::new()),
            ChangingFrame::Lines(line) => drop(self.0.send(line.to_vec())),
        }
        Action::Continue
    }
}

#[test]
fn a_codec_that_is_switched_to_at_the_end_of_the_stream_finds_whole_frames_and_the_last() {
    let (told, hears) = mpsc::channel();
    let server = local().start(move |_| Changed(told.clone())).unwrap();
    let client = Client::to(&server);
    client.send("!one\ntwo\nthree");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    let heard: Vec<_> = hears.try_iter().collect();
    assert_eq!(heard, [&b"one"[..], b"two", b"three"]);
}

/// Hands out a message byte by byte. The end of the stream is its end.
#[derive(Default)]
struct InParts {
    begun: bool,
}

impl Codec for InParts {
    type Frame<'a> = Option<u8>;
    const CONVERSES: bool = true;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<Option<u8>>, FrameError> {
        self.begun = true;
        let (frame, consumed) = (Some(src[0]), 1);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn decode_eof(&mut self, src: &mut [u8]) -> Result<Decoded<Option<u8>>, FrameError> {
        if !src.is_empty() {
            return self.decode(src);
        }
        self.begun = false;
        let (frame, consumed) = (None, 0);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn stage(&self) -> Stage {
        if self.begun {
            Stage::Receiving
        } else {
            Stage::Idle
        }
    }
}

/// Pauses reads when FIN arrives, for a while.
struct Hesitant(mpsc::Sender<String>);

impl EventHandler for Hesitant {
    type Codec = InParts;
    type Session = ();

    const HANDLES_FIN: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> InParts {
        InParts::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), part: Option<u8>) -> Action {
        let _ = self.0.send(format!("{part:?}"));
        Action::Continue
    }

    fn on_fin(&mut self, conn: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        conn.pause_reads();
        conn.set_timer(Duration::from_millis(5), 0);
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        let _ = self.0.send("reads on".into());
        conn.resume_reads();
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        let _ = self.0.send("end".into());
        Action::Close
    }
}

#[test]
fn the_end_of_a_message_in_parts_waits_for_a_handler_that_pauses_at_fin() {
    let (told, hears) = mpsc::channel();
    let server = local().start(move |_| Hesitant(told.clone())).unwrap();
    let client = Client::to(&server);
    client.send("a");
    assert_eq!(hears.recv_timeout(LONG).as_deref(), Ok("Some(97)"));
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    let heard: Vec<String> = hears.try_iter().collect();
    assert_eq!(heard, ["reads on", "None", "end"]);
}
