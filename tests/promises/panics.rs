//! A panic in a callback closes its connection, and `on_close` still runs. The server continues.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::codec::{CloseCause, Codec, Decoded, FrameError, Stage};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, EventHandler, Outbox, Reactor, Running,
    Server,
};

use crate::util::app::{App, Log, local, start, start_either, start_shown};
use crate::util::client::{Client, shrink};
use crate::util::{eventually, expect_panics};

/// A client that has the callback under test panic, and one that must not notice.
struct Scene<const SHOWS: bool = false> {
    // First, so that they hang up before the server shuts down.
    bystander: Client,
    victim: Client,
    running: Running<App<SHOWS>>,
    log: Arc<Log>,
}

fn scene(make: impl Fn(App) -> App + Send + Sync + 'static) -> Scene {
    scene_on(local(), make)
}

fn scene_on(server: Server, make: impl Fn(App) -> App + Send + Sync + 'static) -> Scene {
    either_scene(server, make)
}

/// A scene whose handler has a `pre_write`.
fn shown_scene(make: impl Fn(App<true>) -> App<true> + Send + Sync + 'static) -> Scene<true> {
    either_scene(local(), make)
}

fn either_scene<const SHOWS: bool>(
    server: Server,
    make: impl Fn(App<SHOWS>) -> App<SHOWS> + Send + Sync + 'static,
) -> Scene<SHOWS> {
    expect_panics();
    let (running, log) = start_either(server, make);
    let bystander = Client::to(&running);
    // A frame for each of the codecs.
    bystander.round_trip("\0\0\0\x06before");
    let victim = Client::to(&running);
    Scene {
        bystander,
        victim,
        running,
        log,
    }
}

impl Scene {
    /// The victim is closed because of the panic, the bystander is served, and so is a newcomer.
    fn check(self) {
        let _ = self.victim.recv_to_any_end();
        drop(self.victim);
        let (_, reason) = self.log.await_close(0);
        assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
        Self::check_server(self.running, &self.log, self.bystander);
    }

    fn check_server(running: Running<App>, log: &Log, bystander: Client) {
        bystander.round_trip("after");
        Client::to(&running).round_trip("later");
        drop(bystander);
        let stats = || running.engine().stats().total();
        eventually("all have closed", || stats().connections == 0);
        assert_eq!(stats().panics, 1);
        eventually("all buffers are given back", || stats().buffered == 0);
        let report = running.shutdown();
        assert_eq!((report.drained, report.forced), (0, 0));
        assert_eq!(log.closed(), log.opened(), "{:?}", log.entries());
    }
}

#[test]
fn a_panic_in_react_closes_only_that_connection() {
    let scene = scene(|app| {
        app.react(|conn, _, frame| {
            assert_ne!(frame, b"panic", "on purpose");
            conn.write(frame).into()
        })
    });
    scene.victim.send("panic");
    let _ = scene.victim.recv_to_any_end();
    drop(scene.victim);
    let (_, reason) = scene.log.await_close(0);
    assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
}

#[test]
fn a_panic_in_react_loses_no_answer_written_before() {
    let scene = scene(|app| {
        app.react(|conn, _, frame| {
            conn.write(frame).expect("taken");
            if frame == b"panic" {
                panic!("on purpose");
            }
            Action::Continue
        })
    });
    scene.victim.send("panic");
    assert_eq!(scene.victim.recv_to_end(), b"panic");
    scene.check();
}

#[test]
fn a_panic_with_a_large_frame_at_hand_gives_its_buffer_back() {
    use epicycle::codec::LengthField;

    use crate::util::app::Cut;

    let scene = scene(|app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| {
                if frame.len() > 100_000 {
                    conn.write(&frame[..50_000]).expect("taken");
                    panic!("on purpose");
                }
                conn.send(frame).into()
            })
    });
    let mut frame = vec![0, 3, 0, 0];
    frame.resize(4 + (3 << 16), 7);
    scene.victim.send(&frame);
    let _ = scene.victim.recv_to_any_end();
    drop(scene.victim);
    let (_, reason) = scene.log.await_close(0);
    assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
    scene.bystander.round_trip(b"\0\0\0\x05after");
    let stats = || scene.running.engine().stats().total();
    drop(scene.bystander);
    eventually("all buffers are given back", || stats().buffered == 0);
}

#[test]
fn a_panic_in_on_open_closes_only_that_connection() {
    let opened = Arc::new(AtomicUsize::new(0));
    let scene = scene(move |app| {
        let opened = opened.clone();
        app.on_open(move |_| {
            if opened.fetch_add(1, SeqCst) == 1 {
                panic!("on purpose");
            }
            true
        })
    });
    assert_eq!(scene.victim.recv_to_end(), b"");
    drop(scene.victim);
    eventually("it is gone", || scene.running.engine().connections() == 1);
    // It never had a session, so there was none to give to `on_close`.
    assert_eq!(scene.log.closed(), 0);
    scene.bystander.round_trip("after");
    Client::to(&scene.running).round_trip("later");
}

#[test]
fn a_panic_in_pre_write_closes_only_that_connection() {
    let scene = shown_scene(|app| {
        app.pre_write(|_, bytes| {
            if bytes.starts_with(b"panic") {
                panic!("on purpose");
            }
        })
    });
    scene.victim.send("panic");
    let _ = scene.victim.recv_to_any_end();
    drop(scene.victim);
    let (_, reason) = scene.log.await_close(0);
    assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
    scene.bystander.round_trip("after");
    Client::to(&scene.running).round_trip("later");
}

#[test]
fn a_panic_in_pre_write_of_a_large_echo_closes_only_that_connection() {
    let scene = shown_scene(|app| {
        app.pre_write(|_, bytes| {
            if bytes.starts_with(b"panic") {
                panic!("on purpose");
            }
        })
    });
    let mut large = b"panic".to_vec();
    large.resize(1 << 20, 1);
    let _ = std::io::Write::write_all(&mut &scene.victim.0, &large);
    let _ = scene.victim.recv_to_any_end();
    drop(scene.victim);
    let (_, reason) = scene.log.await_close(0);
    assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
    scene.bystander.round_trip("after");
    Client::to(&scene.running).round_trip("later");
}

/// What `pre_write` has been shown.
type Shown = Arc<Mutex<Vec<u8>>>;

/// A server whose `pre_write` panics at its `nth` call, and writes down what it is given.
fn watching(
    nth: usize,
    make: impl Fn(App<true>) -> App<true> + Send + Sync + 'static,
) -> (Running<App<true>>, Arc<Log>, Shown) {
    expect_panics();
    let shown = Shown::default();
    let for_app = shown.clone();
    let (running, log) = start_shown(local(), move |app| {
        let shown = for_app.clone();
        let mut calls = 0;
        make(app).pre_write(move |_, bytes| {
            shown.lock().expect("is sound").extend_from_slice(bytes);
            calls += 1;
            assert!(calls != nth, "on purpose");
        })
    });
    (running, log, shown)
}

#[test]
fn a_panic_in_pre_write_loses_nothing_and_repeats_nothing() {
    // What the kernel has refused, in several pieces.
    for nth in 1..=4 {
        let (running, log, shown) = watching(nth, |app| {
            app.react(|conn, _, _| {
                for n in 0..3 {
                    conn.write_shared(vec![n; 100_000]).expect("is taken");
                    conn.write(&[n; 5]).expect("is taken");
                }
                Action::Continue
            })
        });
        let client = Client::to(&running);
        client.send("go");
        let expected = [0, 1, 2].map(|n| vec![n; 100_005]).concat();
        assert!(client.recv_to_end() == expected, "call {nth}: differs");
        assert!(*shown.lock().expect("is sound") == expected, "call {nth}");
        drop(client);
        assert!(matches!(*log.await_close(0).1, CloseReason::Panic));
    }
}

#[test]
fn a_panic_in_on_drain_closes_only_that_connection() {
    let scene = scene_on(local().high_water(4096), |app| {
        app.react(|conn, _, frame| {
            if frame == b"panic" {
                shrink(conn);
                return conn.write_shared(vec![0; 4 << 20]).into();
            }
            conn.write(frame).into()
        })
        .on_drain(|_, _| panic!("on purpose"))
    });
    scene.victim.send("panic");
    scene.check();
}

#[test]
fn a_panic_in_on_peer_shutdown_closes_only_that_connection() {
    let scene = scene(|app| {
        app.on_peer_shutdown(|conn, _| {
            if conn.id().as_u64() as u32 == 2 {
                panic!("on purpose");
            }
            Action::Close
        })
    });
    scene.victim.end_writes();
    scene.check();
}

#[test]
fn a_panic_in_on_timer_closes_only_that_connection() {
    let scene = scene(|app| {
        app.react(|conn, _, frame| {
            if frame == b"panic" {
                conn.set_timer(Duration::ZERO, 1);
                return Action::Continue;
            }
            conn.write(frame).into()
        })
        .on_timer(|_, _, _| panic!("on purpose"))
    });
    scene.victim.send("panic");
    scene.check();
}

#[test]
fn a_panic_in_on_close_harms_nobody() {
    let scene = scene(|app| {
        app.on_close(|_, closed, _| {
            if closed.bytes_in == 6 {
                panic!("on purpose");
            }
        })
    });
    scene.victim.round_trip("victim");
    drop(scene.victim);
    let (_, reason) = scene.log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason:?}");
    eventually("it is gone", || scene.running.engine().connections() == 1);
    scene.bystander.round_trip("and on it goes");
    Scene::check_server(scene.running, &scene.log, scene.bystander);
}

#[test]
fn a_panic_in_a_task_of_a_handle_closes_only_that_connection() {
    let scene = scene(|app| app);
    let id = scene.log.await_open(1);
    let handle = scene.running.engine().handle(id).unwrap();
    handle.run(|_, _, _| panic!("on purpose")).unwrap();
    scene.check();
}

#[test]
fn panics_that_belong_to_no_connection_close_none() {
    let scene = scene(|app| {
        let mut ticks = 0;
        app.tick(move |_| {
            ticks += 1;
            if ticks == 1 {
                panic!("on purpose: the first tick");
            }
            None
        })
    });
    let panics = || scene.running.engine().stats().total().panics;
    eventually("tick has panicked", || panics() == 1);
    let engine = scene.running.engine();
    engine
        .run_on(0, |_, _| panic!("on purpose: a task"))
        .unwrap();
    engine
        .schedule(0, Duration::ZERO, |_, _| panic!("on purpose: scheduled"))
        .unwrap();
    let handle = engine.handle(scene.log.await_open(1)).unwrap();
    handle
        .write_flushed("x", |_| panic!("on purpose: flushed"))
        .unwrap();
    handle
        .write_accepted("y", |_| panic!("on purpose: accepted"))
        .unwrap();
    eventually("all have panicked", || panics() == 5);
    assert_eq!(scene.victim.recv(2), b"xy");
    scene.victim.round_trip("after");
    scene.bystander.round_trip("after");
    assert_eq!(scene.log.closed(), 0);
}

#[test]
fn ticks_go_on_after_a_panic() {
    expect_panics();
    let ticks = Arc::new(AtomicUsize::new(0));
    let count = ticks.clone();
    let (running, _log) = start(local(), move |app| {
        let ticks = count.clone();
        app.tick(move |_| {
            if ticks.fetch_add(1, SeqCst) == 2 {
                panic!("on purpose");
            }
            Some(Duration::from_millis(1))
        })
    });
    eventually("it ticks on", || ticks.load(SeqCst) > 5);
    assert_eq!(running.engine().stats().total().panics, 1);
}

#[test]
fn a_panic_in_on_shutdown_does_not_keep_the_server_from_ending() {
    expect_panics();
    let (running, log) = start(local().reactors(2), |app| {
        app.on_shutdown(|_| panic!("on purpose"))
    });
    let client = Client::to(&running);
    client.round_trip("hello");
    running.engine().shutdown();
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    assert_eq!(running.join().drained, 1);
    assert_eq!(log.closed(), 1);
}

#[test]
fn a_panic_while_booting_is_an_error_of_start() {
    expect_panics();
    let log = Arc::<Log>::default();
    let error = local()
        .reactors(2)
        .start(move |reactor| {
            App::echo(&log).on_boot(move |_| {
                if reactor == 1 {
                    panic!("on purpose");
                }
            })
        })
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("reactor 1") && message.contains("on purpose"),
        "{message}"
    );
}

/// Owes an answer from the first byte on, and panics as its flags say.
struct Fragile {
    owed: bool,
    drains_badly: bool,
}

impl Codec for Fragile {
    type Frame<'a> = &'a [u8];
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        if src.is_empty() {
            return Ok(Decoded::NeedMore { at_least: 1 });
        }
        self.owed = true;
        self.drains_badly = src == b"bad drain";
        let (consumed, frame) = (src.len(), &*src);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn begin_drain(&mut self) {
        assert!(!self.drains_badly, "on purpose");
    }

    fn close_notice(&mut self, _: CloseCause<'_>, dst: &mut Outbox<'_>) {
        dst.put(b"no answer");
    }

    fn stage(&self) -> Stage {
        match self.owed {
            true => Stage::Answering,
            false => Stage::Idle,
        }
    }
}

/// Never answers. `pre_write` panics for the connections that have asked for it.
struct Silent(Arc<Mutex<Vec<String>>>);

impl EventHandler for Silent {
    type Codec = Fragile;
    /// True if `pre_write` panics.
    type Session = bool;
    const HANDLES_PRE_WRITE: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Fragile {
        Fragile {
            owed: false,
            drains_badly: false,
        }
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<bool> {
        Some(false)
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, writes_badly: &mut bool, frame: &[u8]) -> Action {
        *writes_badly = frame == b"bad write";
        Action::Continue
    }

    fn pre_write(&mut self, _: ConnId, writes_badly: &mut bool, _: &[u8]) {
        assert!(!*writes_badly, "on purpose");
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: bool, reason: CloseReason) {
        self.0.lock().expect("no panics").push(reason.to_string());
    }
}

#[test]
fn panics_while_a_shutdown_drains_end_their_connection_alone() {
    expect_panics();
    for (bad, why) in [
        ("bad drain", "a callback panicked"),
        ("bad write", "the engine shut down"),
    ] {
        let reasons = Arc::new(Mutex::new(Vec::new()));
        let told = reasons.clone();
        let server = Server::bind("tcp://127.0.0.1:0")
            .reactors(1)
            .drain_deadline(Duration::from_millis(300));
        let running = server.start(move |_| Silent(told.clone())).expect("starts");
        let (victim, bystander) = (Client::to(&running), Client::to(&running));
        victim.send(bad);
        bystander.send("good");
        let frames = || running.engine().stats().total().frames;
        eventually("both have asked", || frames() == 2);
        let report = thread::scope(|scope| {
            let stopping = scope.spawn(|| running.shutdown());
            // It gets its notice although the other one panics first.
            assert_eq!(bystander.recv(9), b"no answer", "{bad}");
            let _ = victim.recv_to_any_end();
            drop((victim, bystander));
            stopping.join().expect("ends")
        });
        let total = report.stats.total();
        assert_eq!(
            (total.panics, total.closed, total.connections),
            (1, 2, 0),
            "{bad}"
        );
        let mut reasons = reasons.lock().expect("no panics").clone();
        reasons.sort();
        let mut expected = [why, "the engine shut down"];
        expected.sort();
        assert_eq!(reasons, expected, "{bad}");
    }
}
