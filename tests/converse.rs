//! Codecs that converse: output of their own, and messages that wait for others.

mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, Connect, ConnectError, EventHandler, Handle,
    Listen, Origin, Outbox, Reactor, Running, Server, TimeoutKind, UdpSessions, WriteError,
};

use log::Level;
use util::client::{Client, TempPath, shrink};
use util::logs::logs;
use util::{LONG, await_some, eventually, expect_panics};

/// Speaks a byte at a time, and says goodbye in the words of its cause.
///
/// | Byte | |
/// |---|---|
/// | `.` | is skipped |
/// | `p` | is answered `P` by the codec itself |
/// | `*` | has the codec panic amid what it says |
/// | `a` to `o` | is a frame, which has to be answered before the next |
/// | `(` | begins a message, whose rest is awaited |
/// | `)` | is a frame, the end of such a message |
/// | `w` sent | asks the other side, whose answer is `W` |
/// | `c` sent | begins the closing, of which `C` is the other side's part |
/// | `f` sent | is the last that is said |
/// | `!` | is no frame |
/// | others | are frames that need no answer |
#[derive(Debug)]
struct Toy {
    stage: Stage,
    pings: usize,
    /// Whether the next answer is the last: it says `<last>` behind it.
    retires: bool,
}

impl Codec for Toy {
    type Frame<'a> = u8;
    const CONVERSES: bool = true;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        if self.stage == Stage::Answering {
            return Ok(Decoded::Hold);
        }
        let consumed = 1;
        match src[0] {
            b'.' => return Ok(Decoded::Skip { consumed }),
            b'p' => {
                self.pings += 1;
                return Ok(Decoded::Skip { consumed });
            }
            b'*' => {
                self.pings = usize::MAX;
                return Ok(Decoded::Skip { consumed });
            }
            b'(' => {
                self.stage = Stage::Receiving;
                return Ok(Decoded::Skip { consumed });
            }
            b')' => self.stage = Stage::Idle,
            b'C' => {
                self.stage = Stage::Finished;
                return Ok(Decoded::Skip { consumed });
            }
            b'!' => return Err(FrameError::Malformed { what: "an outcry" }),
            b'a'..=b'o' => self.stage = Stage::Answering,
            b'W' => self.stage = Stage::Idle,
            _ => {}
        }
        Ok(Decoded::Frame {
            frame: src[0],
            consumed,
        })
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        let pings = std::mem::take(&mut self.pings);
        if pings == usize::MAX {
            dst.put(b"half of");
            panic!("on purpose");
        }
        for _ in 0..pings {
            dst.put(b"P");
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        dst.put(match cause {
            CloseCause::Malformed(_) => b"<malformed>",
            CloseCause::Timeout => b"<timeout>",
            CloseCause::Shutdown => b"<shutdown>",
            CloseCause::Panic => b"<panic>",
            CloseCause::Failed => b"<failed>",
            CloseCause::Local => b"<local>",
            _ => b"<other>",
        });
    }

    fn begin_drain(&mut self) {
        self.retires = true;
    }

    fn stage(&self) -> Stage {
        self.stage
    }
}

impl Encode<&[u8]> for Toy {
    fn encode(&mut self, item: &[u8], dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(item);
        if self.retires {
            dst.put(b"<last>");
        }
        self.stage = match item.first() {
            Some(b'w') => Stage::Awaiting,
            Some(b'c') => Stage::Closing,
            Some(b'f') => Stage::Finished,
            Some(b'?') => return Err(FrameError::Malformed { what: "a question" }),
            _ => Stage::Idle,
        };
        Ok(())
    }
}

/// The token of connections that ask when they are open.
const ASKS: u64 = 1;

/// What the handler has had, and how connections have ended.
#[derive(Debug, Default)]
struct Log {
    frames: Mutex<Vec<u8>>,
    ends: Mutex<Vec<Arc<(Closed, CloseReason)>>>,
}

impl Log {
    fn frames(&self) -> Vec<u8> {
        self.frames.lock().expect("is sound").clone()
    }

    fn await_end(&self) -> Arc<(Closed, CloseReason)> {
        await_some("a connection ends", || {
            self.ends.lock().expect("is sound").first().cloned()
        })
    }
}

type React = dyn Fn(&mut Conn<'_, Talk>, u8) -> Action + Send + Sync;

struct Talk {
    react: Arc<React>,
    log: Arc<Log>,
}

impl EventHandler for Talk {
    type Codec = Toy;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Toy {
        Toy {
            stage: Stage::Idle,
            pings: 0,
            retires: false,
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if conn.origin() == (Origin::Connected { token: ASKS }) {
            conn.send(&b"w"[..]).expect("is taken");
        }
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: u8) -> Action {
        self.log.frames.lock().expect("is sound").push(frame);
        (self.react)(conn, frame)
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), reason: CloseReason) {
        let end = Arc::new((info.clone(), reason));
        self.log.ends.lock().expect("is sound").push(end);
    }
}

/// A server that is not kept up for long by answers that a test leaves owed.
fn local() -> Server {
    Server::bind("tcp://127.0.0.1:0")
        .reactors(1)
        .drain_deadline(Duration::from_millis(500))
}

fn start(
    server: Server,
    react: impl Fn(&mut Conn<'_, Talk>, u8) -> Action + Send + Sync + 'static,
) -> (Running<Talk>, Arc<Log>) {
    let log = Arc::<Log>::default();
    let (for_factory, react): (_, Arc<React>) = (log.clone(), Arc::new(react));
    let make = move |_| Talk {
        react: react.clone(),
        log: for_factory.clone(),
    };
    (server.start(make).expect("starts"), log)
}

/// Answers each frame with itself.
fn at_once(conn: &mut Conn<'_, Talk>, frame: u8) -> Action {
    conn.send(&[frame][..]).into()
}

/// Leaves the answers to the test, which gets a handle for each frame.
fn later(asked: &Sender<Handle<Talk>>) -> impl Fn(&mut Conn<'_, Talk>, u8) -> Action + use<> {
    let asked = Mutex::new(asked.clone());
    move |conn, _| {
        let _ = asked.lock().expect("is sound").send(conn.handle());
        Action::Continue
    }
}

fn answer(handle: &Handle<Talk>, with: &'static [u8]) {
    handle.send(with).expect("is open");
}

#[test]
fn input_can_be_passed_over() {
    let (_running, log) = start(local(), at_once);
    let client = Client::to(&_running);
    client.send("..x..y....");
    assert_eq!(client.recv(2), b"xy");
    client.send("..");
    client.send("z");
    assert_eq!(client.recv(1), b"z");
    assert_eq!(log.frames(), b"xyz");
}

#[test]
fn a_codec_speaks_when_input_has_been_decoded() {
    let (running, log) = start(local(), at_once);
    let client = Client::to(&running);
    client.send("p");
    assert_eq!(client.recv(1), b"P");
    // Behind what is written meanwhile, once for all that came.
    client.send("xpypz");
    assert_eq!(client.recv(5), b"xyzPP");
    assert_eq!(log.frames(), b"xyz");
}

#[test]
fn what_comes_behind_an_unanswered_frame_is_held_back() {
    let (asked, handles) = mpsc::channel();
    let (running, log) = start(local(), later(&asked));
    let client = Client::to(&running);
    client.send("abc");
    for (n, letter) in [b"A", b"B", b"C"].into_iter().enumerate() {
        let handle = handles.recv_timeout(LONG).expect("is asked");
        assert_eq!(log.frames(), &b"abc"[..=n]);
        // More does not change that.
        client.send("p");
        answer(&handle, letter);
        assert_eq!(client.recv(1), letter);
    }
    assert_eq!(client.recv(3), b"PPP");
}

#[test]
fn what_is_held_back_is_not_read_without_end() {
    let (asked, handles) = mpsc::channel();
    let (running, _) = start(local().recv_buffer(64 << 10), later(&asked));
    let client = Client::to(&running);
    client.send("a");
    let handle = handles.recv_timeout(LONG).expect("is asked");
    client.0.set_nonblocking(true).expect("is set");
    let mut sent = 0;
    let noise = [b'.'; 64 << 10];
    eventually("the client can send no more", || {
        match client.0.send(&noise) {
            Ok(n) => {
                sent += n;
                false
            }
            Err(_) => true,
        }
    });
    let read = running.engine().stats().total().bytes_in;
    assert!(read < 1 << 20, "{read} bytes have been read of {sent}");
    client.0.set_nonblocking(false).expect("is set");
    answer(&handle, b"A");
    client.send("x");
    assert_eq!(client.recv(1), b"A");
    handles.recv_timeout(LONG).expect("the rest is decoded");
}

#[test]
fn an_end_of_stream_waits_for_the_answer_and_for_what_is_held_back() {
    let (asked, handles) = mpsc::channel();
    let (running, log) = start(local(), later(&asked));
    let client = Client::to(&running);
    client.send("ab");
    client.end_writes();
    answer(&handles.recv_timeout(LONG).expect("is asked"), b"A");
    answer(&handles.recv_timeout(LONG).expect("is asked again"), b"B");
    assert_eq!(client.recv_to_end(), b"AB");
    assert!(matches!(log.await_end().1, CloseReason::Peer));
}

#[test]
fn a_refused_item_releases_nothing() {
    let (asked, handles) = mpsc::channel();
    let (running, log) = start(local(), later(&asked));
    let client = Client::to(&running);
    client.send("ab");
    let handle = handles.recv_timeout(LONG).expect("is asked");
    handle
        .run(|_, conn, ()| {
            let refused = conn.send(&b"?"[..]);
            assert!(matches!(refused, Err(WriteError::Frame(_))), "{refused:?}");
        })
        .expect("is open");
    answer(&handle, b"A");
    // Nothing of it was sent.
    assert_eq!(client.recv(1), b"A");
    handles.recv_timeout(LONG).expect("is asked again");
    assert_eq!(log.frames(), b"ab");
}

#[test]
fn last_words_fit_the_parting() {
    expect_panics();
    let act = |conn: &mut Conn<'_, Talk>, frame| match frame {
        b'x' => Action::Close,
        b'z' => panic!("on purpose"),
        _ => at_once(conn, frame),
    };
    let (running, log) = start(local().read_timeout(Duration::from_millis(100)), act);
    let cause = |said: &str| {
        let client = Client::to(&running);
        client.send(said);
        String::from_utf8(client.recv_to_end()).expect("is text")
    };
    assert_eq!(cause("y!y"), "y<malformed>");
    assert_eq!(cause("yxy"), "y<local>");
    assert_eq!(cause("yzy"), "y<panic>");
    assert_eq!(cause("y("), "y<timeout>");
    eventually("all have ended", || {
        log.ends.lock().expect("is sound").len() == 4
    });
    let client = Client::to(&running);
    client.round_trip("y");
    running.shutdown();
    assert_eq!(client.recv_to_end(), b"<shutdown>");
}

#[test]
fn a_refused_answer_closes_with_its_reason_and_a_warning() {
    let logs = logs();
    let (running, log) = start(local(), |conn, _| conn.send(&b"?"[..]).into());
    let client = Client::to(&running);
    client.send("ab");
    assert_eq!(client.recv_to_end(), b"<failed>");
    let name = client.name();
    drop(client);
    let end = log.await_end();
    let CloseReason::Refused(WriteError::Frame(error)) = &end.1 else {
        panic!("{}", end.1);
    };
    assert!(error.to_string().contains("a question"));
    assert!(logs.have(Level::Warn, &[&name, "a question"]));
}

#[test]
fn log_lines_name_the_peer() {
    expect_panics();
    let logs = logs();
    let server = local().read_timeout(Duration::from_millis(100));
    let (running, log) = start(server, |conn, frame| match frame {
        b'z' => panic!("on purpose"),
        _ => at_once(conn, frame),
    });
    let lines = [
        ("!", Level::Debug, "an outcry"),
        ("z", Level::Error, "on purpose"),
        ("(", Level::Debug, "took too long"),
    ];
    for (said, level, text) in lines {
        let client = Client::to(&running);
        client.send(said);
        client.recv_to_end();
        let name = client.name();
        drop(client);
        eventually(text, || logs.have(level, &[&name, text]));
    }
    drop(log);
}

#[test]
fn an_engine_that_is_no_server_does_not_say_that_it_is() {
    let text = CloseReason::Shutdown.to_string();
    assert_eq!(text, "the engine shut down");
}

#[test]
fn nobody_is_told_goodbye_who_has_left_or_is_aborted() {
    let act = |conn: &mut Conn<'_, Talk>, frame| {
        if frame == b'x' {
            conn.abort();
        }
        at_once(conn, frame)
    };
    let (running, log) = start(local(), act);
    let client = Client::to(&running);
    client.round_trip("y");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    assert!(matches!(log.await_end().1, CloseReason::Peer));
    let client = Client::to(&running);
    client.send("x");
    let (received, end) = client.recv_to_any_end();
    assert!(
        !received.contains(&b'<') && Client::is_reset(&end),
        "{received:?}, {end:?}"
    );
}

#[test]
fn a_shutdown_waits_for_an_answer_but_not_beyond_its_deadline() {
    for answered in [true, false] {
        let (asked, handles) = mpsc::channel();
        let server = local().drain_deadline(if answered {
            LONG
        } else {
            Duration::from_millis(200)
        });
        let (running, _) = start(server, later(&asked));
        let client = Client::to(&running);
        client.send("ab");
        let handle = handles.recv_timeout(LONG).expect("is asked");
        running.engine().shutdown();
        let stopping = thread::spawn(move || running.join());
        if answered {
            // It is still open, and what is answered now arrives; the next frame comes too late.
            thread::sleep(Duration::from_millis(50));
            answer(&handle, b"A");
            assert_eq!(client.recv_to_end(), b"A<last><shutdown>");
        } else {
            assert_eq!(client.recv_to_end(), b"<shutdown>");
        }
        drop(client);
        let report = stopping.join().expect("ends");
        assert_eq!(report.drained + report.forced, 1);
        assert!(handles.try_recv().is_err(), "it was asked again");
    }
}

#[test]
fn a_shutdown_waits_for_an_answer_that_the_peer_owes() {
    for answers in [true, false] {
        let server = local().drain_deadline(2 * LONG);
        let (running, log) = start(server, |conn, frame| match frame {
            b'x' => conn.send(&b"w"[..]).into(),
            _ => Action::Continue,
        });
        let client = Client::to(&running);
        client.send("x");
        assert_eq!(client.recv(1), b"w");
        let idle = Client::to(&running);
        idle.round_trip_with("p", "P");
        let began = Instant::now();
        running.engine().shutdown();
        assert_eq!(idle.recv_to_end(), b"<shutdown>");
        drop(idle);
        if answers {
            client.send("W");
            assert_eq!(client.recv_to_end(), b"<shutdown>");
            assert_eq!(log.frames(), b"xW");
        } else {
            client.end_writes();
            assert_eq!(client.recv_to_end(), b"");
        }
        drop(client);
        let report = running.join();
        assert_eq!((report.drained, report.forced), (2, 0));
        assert!(began.elapsed() < LONG);
    }
}

#[test]
fn an_answer_that_the_peer_owes_is_not_awaited_beyond_the_deadline() {
    let (running, _) = start(local(), |conn, _| conn.send(&b"w"[..]).into());
    let client = Client::to(&running);
    client.send("x");
    assert_eq!(client.recv(1), b"w");
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (0, 1));
    let (received, end) = client.recv_to_any_end();
    assert!(received.is_empty() && Client::is_reset(&end));
}

/// A server that others connect to, which answers when it is told to.
fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("is bound");
    (listener, addr)
}

fn expect(peer: &mut TcpStream, said: &[u8]) {
    let mut received = vec![0; said.len()];
    peer.set_read_timeout(Some(LONG)).expect("is set");
    peer.read_exact(&mut received).expect("is said");
    assert_eq!(received, said);
}

#[test]
fn a_request_that_waits_for_another_server_is_answered_during_the_shutdown() {
    for reactors in [1, 3] {
        let (asked, handles) = mpsc::channel();
        let server = local().reactors(reactors).drain_deadline(2 * LONG);
        let (running, log) = start(server, later(&asked));
        let (listener, addr) = upstream();
        let engine = running.engine().clone();
        let connect = |token| engine.connect(Connect::to(addr).token(token));
        let client = Client::to(&running);
        client.send("a");
        let inbound = handles.recv_timeout(LONG).expect("is asked");
        // One of the connections that it takes is there already and waits for its answer.
        connect(ASKS).expect("is taken");
        let (mut first, _) = listener.accept().expect("is connected to");
        expect(&mut first, b"w");
        let bystander = Client::to(&running);
        bystander.round_trip_with("p", "P");
        running.engine().shutdown();
        assert_eq!(bystander.recv_to_end(), b"<shutdown>");
        drop(bystander);
        let stopping = thread::spawn(move || running.join());
        first.write_all(b"W").expect("is read");
        handles.recv_timeout(LONG).expect("the answer is handled");
        expect(&mut first, b"<shutdown>");
        drop(first);
        // Others are made meanwhile, on any reactor: one that asks again, and one that never does.
        connect(0).expect("is taken: an answer is owed");
        let (mut silent, _) = listener.accept().expect("is connected to");
        connect(ASKS).expect("is taken: an answer is owed");
        let (mut second, _) = listener.accept().expect("is connected to");
        for _ in 0..2 {
            expect(&mut second, b"w");
            second.write_all(b"W").expect("is read");
            let outbound = handles.recv_timeout(LONG).expect("the answer is handled");
            // It is kept, and may be asked again.
            answer(&outbound, b"w");
        }
        expect(&mut second, b"w");
        answer(&inbound, b"A");
        assert_eq!(client.recv_to_end(), b"A<last><shutdown>");
        drop(client);
        // Nobody is left who could need the one; the answer to the other is still awaited.
        expect(&mut silent, b"<shutdown>");
        drop(silent);
        assert!(matches!(connect(0), Err(ConnectError::Stopped)));
        second.write_all(b"W").expect("is read");
        expect(&mut second, b"<shutdown>");
        drop(second);
        let report = stopping.join().expect("ends");
        assert_eq!((report.drained, report.forced), (5, 0));
        assert_eq!(log.ends.lock().expect("is sound").len(), 5);
    }
}

#[test]
fn a_connect_under_way_is_given_up_once_no_answer_is_owed() {
    let (asked, handles) = mpsc::channel();
    let (running, _) = start(local().drain_deadline(2 * LONG), later(&asked));
    // Its queue is full, so that nobody else gets through.
    let path = TempPath::new();
    let listener = UnixListener::bind(&path.0).expect("binds");
    socket2::SockRef::from(&listener)
        .listen(0)
        .expect("listens");
    let _queued = UnixStream::connect(&path.0).expect("connects");
    let client = Client::to(&running);
    client.send("a");
    let handle = handles.recv_timeout(LONG).expect("is asked");
    let bystander = Client::to(&running);
    bystander.round_trip_with("p", "P");
    let began = Instant::now();
    running.engine().shutdown();
    assert_eq!(bystander.recv_to_end(), b"<shutdown>");
    drop(bystander);
    let connect = Connect::to(path.addr()).timeout(2 * LONG);
    let taken = running.engine().connect(connect);
    taken.expect("an answer is owed");
    answer(&handle, b"A");
    assert_eq!(client.recv_to_end(), b"A<last><shutdown>");
    drop(client);
    let report = running.join();
    assert!(began.elapsed() < LONG);
    assert_eq!((report.drained, report.forced), (2, 0));
    assert_eq!(report.stats.total().connect_failures, 1);
}

#[test]
fn a_message_that_has_begun_has_the_read_timeout_also_with_nothing_left_over() {
    let server = local().read_timeout(Duration::from_millis(200));
    let (running, log) = start(server, at_once);
    let (slow, quick) = (Client::to(&running), Client::to(&running));
    slow.send("(");
    quick.send("()");
    assert_eq!(quick.recv(1), b")");
    assert_eq!(slow.recv_to_end(), b"<timeout>");
    drop(slow);
    let end = log.await_end();
    assert!(
        matches!(end.1, CloseReason::Timeout(TimeoutKind::Read)),
        "{}",
        end.1
    );
    // One whose message is complete has nothing to fear.
    quick.round_trip("y");
}

#[test]
fn an_answer_that_is_owed_has_no_read_timeout() {
    let (asked, handles) = mpsc::channel();
    let server = local().read_timeout(Duration::from_millis(50));
    let (running, _) = start(server, later(&asked));
    let client = Client::to(&running);
    client.send("ab");
    let handle = handles.recv_timeout(LONG).expect("is asked");
    thread::sleep(Duration::from_millis(200));
    answer(&handle, b"A");
    assert_eq!(client.recv(1), b"A");
}

#[test]
fn a_goodbye_is_awaited_for_the_fin_timeout() {
    let server = local().fin_timeout(Duration::from_millis(200));
    let (running, log) = start(server, |conn, frame| match frame {
        b'x' => conn.send(&b"close"[..]).into(),
        _ => Action::Continue,
    });
    let (polite, rude) = (Client::to(&running), Client::to(&running));
    polite.send("x");
    assert_eq!(polite.recv(5), b"close");
    // Meanwhile it goes on.
    polite.send("ypC");
    assert_eq!(polite.recv_to_end(), b"P<local>");
    drop(polite);
    assert!(matches!(log.await_end().1, CloseReason::Local));
    rude.send("x");
    // It cannot put that off.
    let shouting = rude.clone();
    thread::spawn(move || {
        use std::io::Write;
        while (&shouting.0).write_all(b".").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let (received, _) = rude.recv_to_any_end();
    assert_eq!(received, b"close<timeout>");
    let ended = || log.ends.lock().expect("is sound").get(1).cloned();
    let end = await_some("it is closed", ended);
    assert!(
        matches!(end.1, CloseReason::Timeout(TimeoutKind::Close)),
        "{}",
        end.1
    );
}

#[test]
fn the_last_that_is_said_ends_the_connection() {
    let (running, log) = start(local(), |conn, frame| match frame {
        b'x' => conn.send(&b"finish"[..]).into(),
        _ => at_once(conn, frame),
    });
    let client = Client::to(&running);
    client.send("yxy");
    assert_eq!(client.recv_to_end(), b"yfinish<local>");
    drop(client);
    assert!(matches!(log.await_end().1, CloseReason::Local));
    assert_eq!(log.frames(), b"yx");
}

#[test]
fn what_a_codec_was_saying_when_it_panics_is_taken_back() {
    expect_panics();
    let (running, log) = start(local(), at_once);
    let client = Client::to(&running);
    client.send("y*");
    assert_eq!(client.recv_to_end(), b"y<panic>");
    drop(client);
    assert!(matches!(log.await_end().1, CloseReason::Panic));
}

#[test]
fn what_takes_the_output_past_its_limit_is_sent_and_the_next_refused() {
    const LIMIT: usize = 256 << 10;
    let path = TempPath::new();
    let server = Server::bind(path.addr()).reactors(1).outbound_limit(LIMIT);
    let (running, log) = start(server, |conn, _| {
        shrink(conn);
        let large = vec![b'L'; 5 * LIMIT];
        // It cannot be taken back: the codec has noted that it was said.
        conn.send(&large[..]).expect("is taken");
        let refused = conn.send(&b"next"[..]);
        assert!(
            matches!(refused, Err(WriteError::Full { .. })),
            "{refused:?}"
        );
        Action::Continue
    });
    let client = Client::to(&running);
    client.send("x");
    eventually("it is handled", || !log.frames().is_empty());
    let received = client.recv(5 * LIMIT);
    assert!(received.iter().all(|byte| *byte == b'L'));
    assert_eq!(running.engine().stats().total().panics, 0);
    client.send("p");
    assert_eq!(client.recv(1), b"P");
}

#[test]
fn an_answer_that_can_no_longer_be_sent_keeps_no_connection_open() {
    let shut = |conn: &mut Conn<'_, Talk>, _| {
        conn.shutdown_write();
        Action::Continue
    };
    let (running, log) = start(local(), shut);
    let client = Client::to(&running);
    client.send("a");
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    assert!(matches!(log.await_end().1, CloseReason::Peer));
    // A shutdown does not wait for one either.
    let client = Client::to(&running);
    client.send("a");
    assert_eq!(client.recv_to_end(), b"");
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (1, 0));
}

#[test]
fn a_codec_speaks_in_datagrams_too() {
    let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    let (running, log) = start(
        Server::bind(listen).reactors(1),
        |conn, frame| match frame {
            b'x' => Action::Close,
            b'a' => Action::Continue,
            _ => at_once(conn, frame),
        },
    );
    let addr = running.local_addrs()[0].as_socket_addr().expect("is UDP");
    let asked = |said: &str, answers: &[&str]| {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
        peer.set_read_timeout(Some(LONG)).expect("is an option");
        peer.send_to(said.as_bytes(), addr).expect("sends");
        for answer in answers {
            let mut bytes = [0; 100];
            let n = peer.recv(&mut bytes).expect("receives");
            assert_eq!(bytes[..n].escape_ascii().to_string(), *answer, "{said}");
        }
    };
    asked(".yp", &["y", "P"]);
    asked("yx", &["y", "<local>"]);
    assert!(matches!(log.await_end().1, CloseReason::Local));
    // What is held back has no place to wait, and a shutdown waits for no answer.
    asked("yay", &["y"]);
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (2, 0));
    assert_eq!(log.frames(), b"yyxya");
}
