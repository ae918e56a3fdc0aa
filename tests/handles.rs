//! Reaching connections and reactors from other threads.

mod util;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::codec::{LengthField, Lines};
use epicycle::{
    Action, Addr, Answer, Balance, Bytes, CloseReason, Conn, ConnId, ConnectError, Handle,
    HandleError, Outlet, Running, Server, Service, TimeoutKind, WorkerPool, WriteError, service,
};

use crate::util::app::{App, Cut, Gate, Session, local, start};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, eventually, expect_panics, noise};

const MIB: usize = 1 << 20;

/// What became of a write.
type Fate = Result<(), WriteError>;

/// A completion that sends what it was called with.
fn reporting() -> (impl FnOnce(Fate) + Send + 'static, Receiver<Fate>) {
    let (sender, receiver) = mpsc::channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    (done, receiver)
}

/// What a completion was called with, once; that it is dropped afterwards is how `recv` ends.
fn only(results: &Receiver<Fate>) -> Fate {
    let result = results.recv_timeout(LONG).expect("it is called");
    assert!(results.recv_timeout(LONG).is_err(), "called twice");
    result
}

#[test]
fn a_stale_handle_answers_closed_and_does_not_reach_the_new_tenant() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    let id = log.await_open(0);
    let stale = running.engine().handle(id).unwrap();
    assert!(stale.is_open());
    drop(client);
    log.await_close(0);
    eventually("the slot is free", || running.engine().connections() == 0);

    let tenant = Client::to(&running);
    let tenant_id = log.await_open(1);
    assert_eq!(
        tenant_id.as_u64() >> 32,
        id.as_u64() >> 32,
        "it has the same slot"
    );
    assert_ne!(tenant_id, id);
    assert!(!stale.is_open());
    assert!(running.engine().handle(id).is_none());
    assert_eq!(stale.write("ghost"), Err(HandleError::Closed));
    assert_eq!(stale.send("ghost"), Err(HandleError::Closed));
    assert_eq!(stale.close(), Err(HandleError::Closed));
    assert_eq!(stale.abort(), Err(HandleError::Closed));
    assert_eq!(stale.run(|_, _, _| ()), Err(HandleError::Closed));
    let (done, results) = reporting();
    assert_eq!(stale.write_flushed("ghost", done), Err(HandleError::Closed));
    assert!(results.recv_timeout(LONG).is_err(), "it is not called");
    tenant.round_trip("mine");
}

#[test]
fn a_request_under_way_does_not_reach_the_new_tenant() {
    let (running, log) = start(local(), |app| app);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Haunts every connection that ever was.
            let mut handles = Vec::new();
            while !stop.load(SeqCst) {
                let known = handles.len();
                let new = log.ids().into_iter().skip(known);
                handles.extend(new.map(|id| running.engine().handle(id)));
                for handle in handles.iter().rev().take(10).flatten() {
                    let _ = handle.run(|_, conn, _| {
                        assert!(conn.id().as_u64() != 0);
                    });
                    let _ = handle.abort();
                    let _ = handle.write("ghost");
                }
            }
        });
        for _ in 0..300 {
            let client = Client::to(&running);
            let (bytes, _) = client.recv_to_any_end();
            assert_eq!(bytes, b"", "written to another connection");
        }
        stop.store(true, SeqCst);
    });
}

/// Sends every connection to the first reactor.
struct First;

impl Balance for First {
    fn pick(&mut self, _peer: &Addr, _loads: &[usize]) -> usize {
        0
    }
}

#[test]
fn a_request_that_waited_while_its_slot_changed_hands_is_dropped() {
    let (running, log) = start(local().reactors(2).balance_with(First), |app| app);
    let engine = running.engine();
    let client = Client::to(&running);
    let stale = engine.handle(log.await_open(0)).unwrap();
    let gate = Gate::before(engine, 0);
    stale.abort().unwrap();
    // More than one turn's work, so that the slot is free before the newcomer is adopted.
    for _ in 0..5000 {
        engine.run_on(0, |_, _| ()).unwrap();
    }
    let tenant = Client::to(&running);
    eventually("it is on its way", || engine.connections() == 2);
    let (done, results) = reporting();
    stale.write("ghost").unwrap();
    stale.write_accepted("ghost", done).unwrap();
    stale.run(|_, conn, _| conn.abort()).unwrap();
    stale.close().unwrap();
    stale.abort().unwrap();
    drop(gate);
    let ids = (log.await_open(0), log.await_open(1));
    assert_eq!(
        ids.0.as_u64() >> 32,
        ids.1.as_u64() >> 32,
        "it has the same slot"
    );
    let result = only(&results);
    assert!(matches!(result, Err(WriteError::Closed)), "{result:?}");
    tenant.round_trip("mine");
    drop(client);
}

#[test]
fn accepted_means_that_the_connection_has_taken_the_bytes() {
    let server = local().high_water(1000).outbound_limit(MIB);
    let (running, log) = start(server, |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let client = Client::with_small_window(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let (done, results) = reporting();
    handle.write_accepted(vec![1; MIB], done).unwrap();
    assert!(only(&results).is_ok());
    // What the kernel has taken makes room, and the client reads nothing.
    let (done, results) = reporting();
    handle.write_accepted(vec![2; MIB], done).unwrap();
    let refused = only(&results);
    assert!(
        matches!(refused, Err(WriteError::Full { limit: MIB, .. })),
        "{refused:?}"
    );

    let gate = Gate::before(running.engine(), 0);
    handle.abort().unwrap();
    let (done, results) = reporting();
    handle.write_accepted("late", done).unwrap();
    drop(gate);
    let closed = only(&results);
    assert!(matches!(closed, Err(WriteError::Closed)), "{closed:?}");
    drop(client);
}

#[test]
fn flushed_means_that_the_kernel_has_the_bytes() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let client = Client::with_small_window(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let sent = noise(1, 8 * MIB);
    let (done, results) = reporting();
    handle.write_flushed(sent.clone(), done).unwrap();
    let (done, later) = reporting();
    handle.write_flushed("the end", done).unwrap();
    let (done, accepted) = reporting();
    handle.write_accepted("!", done).unwrap();
    assert!(only(&accepted).is_ok());
    assert!(results.try_recv().is_err(), "the peer has not read");
    assert!(client.recv(4 * MIB) == sent[..4 * MIB]);
    assert!(results.try_recv().is_err(), "half of it has not been read");
    assert!(client.recv(4 * MIB) == sent[4 * MIB..]);
    assert_eq!(client.recv(8), b"the end!");
    assert!(only(&results).is_ok());
    assert!(only(&later).is_ok());
}

#[test]
fn flushed_tells_when_the_connection_closes_before() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    for n in 0..3 {
        let client = Client::with_small_window(&running);
        let handle = running.engine().handle(log.await_open(n)).unwrap();
        let (done, results) = reporting();
        handle.write_flushed(vec![0; 8 * MIB], done).unwrap();
        client.recv(1);
        match n {
            0 => client.reset(),
            1 => handle.abort().unwrap(),
            _ => {
                running.engine().shutdown_within(Duration::from_millis(50));
            }
        }
        let result = only(&results);
        assert!(matches!(result, Err(WriteError::Closed)), "{result:?}");
    }
}

#[test]
fn a_task_tells_whether_it_was_run() {
    expect_panics();
    let (running, log) = start(local(), |app| app);
    let clients = [Client::to(&running), Client::to(&running)];
    let engine = running.engine();
    let [first, second] = [0, 1].map(|n| engine.handle(log.await_open(n)).expect("is open"));
    let ask = |handle: &Handle<App>, task: fn() -> u32| {
        let (tell, told) = mpsc::channel();
        let done = move |outcome| tell.send(outcome).expect("the test waits");
        let taken = handle.run_then(move |_, _, _| task(), done);
        taken.expect("is open");
        told
    };
    let outcome = |told: Receiver<Result<u32, HandleError>>| {
        let outcome = told.recv_timeout(LONG).expect("it is called");
        assert!(told.recv_timeout(LONG).is_err(), "called twice");
        outcome
    };
    assert_eq!(outcome(ask(&first, || 42)), Ok(42));
    let panicked = ask(&first, || panic!("on purpose"));
    assert_eq!(outcome(panicked), Err(HandleError::Closed));
    // A connection that closes in the turn before.
    let gate = Gate::before(engine, 0);
    second.abort().expect("is open");
    let next = thread::scope(|scope| {
        let next = scope.spawn(|| Gate::before(engine, 0));
        eventually("it is queued", || engine.stats().total().queued == 2);
        drop(gate);
        next.join().expect("is there")
    });
    let missed = ask(&second, || 42);
    drop(next);
    assert_eq!(outcome(missed), Err(HandleError::Closed));
    drop(clients);
}

fn lines(app: App) -> App {
    app.codec(Cut::Lines(Lines::new()))
}

/// Leaves the answers to the test.
fn later(asked: &Sender<Answer<App>>) -> impl Fn(App) -> App + Send + Sync + use<> {
    let asked = Mutex::new(asked.clone());
    move |app| {
        let asked = asked.lock().expect("is sound").clone();
        lines(app).react(move |conn, _, _| {
            asked.send(conn.defer_answer()).expect("the test waits");
            Action::Continue
        })
    }
}

#[test]
fn answers_that_are_deferred_are_waited_for_whatever_the_codec() {
    let brief = Duration::from_millis(100);
    let (asked, requests) = mpsc::channel();
    let server = local().idle_timeout(brief).drain_deadline(2 * LONG);
    let (running, log) = start(server, later(&asked));
    let (half_closed, at_the_end) = (Client::to(&running), Client::to(&running));
    let next = || requests.recv_timeout(LONG).expect("is asked");
    half_closed.send("a\nb\n");
    half_closed.end_writes();
    let answers = [next(), next()];
    at_the_end.send("c\n");
    let last = next();
    thread::sleep(3 * brief);
    assert_eq!(log.closed(), 0, "neither idle nor at an end");
    for (answer, line) in answers.into_iter().zip(["A", "B"]) {
        answer.send(line).expect("is open");
    }
    assert_eq!(half_closed.recv_to_end(), b"A\nB\n");
    running.engine().shutdown();
    drop(half_closed);
    eventually("the other is alone", || running.engine().connections() == 1);
    last.run(|_, conn, _| conn.send("C").expect("is taken"))
        .expect("is open");
    assert_eq!(at_the_end.recv_to_end(), b"C\n");
    drop(at_the_end);
    assert_eq!(running.join().forced, 0);
}

/// Asks a connection on its thread.
fn look<T: Send + 'static>(
    handle: &Handle<App>,
    look: impl FnOnce(&mut Conn<'_, App>) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let task = move |_: &mut App, conn: &mut Conn<'_, App>, _: &mut Session| {
        tell.send(look(conn)).expect("is awaited");
    };
    handle.run(task).expect("is open");
    told.recv_timeout(LONG).expect("is told")
}

/// Answers by letting the connection go, and awaits that.
fn let_go(answer: Answer<App>) {
    let (hand_out, detachments) = mpsc::channel();
    let leave = move |_: &mut App, conn: &mut Conn<'_, App>, _: &mut Session| {
        conn.detach(move |detached| hand_out.send(detached).expect("is awaited"))
            .expect("is let go");
    };
    answer.run(leave).expect("is open");
    drop(detachments.recv_timeout(LONG).expect("leaves"));
}

#[test]
fn a_deferred_answer_may_let_the_connection_go_at_its_end_and_at_a_shutdown() {
    let (asked, requests) = mpsc::channel();
    let (running, _log) = start(local().drain_deadline(2 * LONG), later(&asked));
    let next = || requests.recv_timeout(LONG).expect("is asked");
    let half_closed = Client::to(&running);
    half_closed.send("a\n");
    half_closed.end_writes();
    let answer = next();
    eventually("the end has come", || {
        look(answer.handle(), |conn| conn.peer_has_shut_down())
    });
    let_go(answer);
    let open = Client::to(&running);
    open.send("b\n");
    let answer = next();
    running.engine().shutdown();
    // The turn in which the first comes back has begun the shutdown.
    for _ in 0..2 {
        look(answer.handle(), |_| ());
    }
    let_go(answer);
    eventually("nobody is waited for any more", || {
        running.engine().run_on(0, |_, _| {}) == Err(HandleError::Closed)
    });
}

#[test]
fn an_answer_that_is_dropped_closes_where_the_codec_has_no_words_for_it() {
    let (asked, requests) = mpsc::channel();
    let (running, log) = start(local(), later(&asked));
    let client = Client::to(&running);
    client.send("a\nb\n");
    let next = || requests.recv_timeout(LONG).expect("is asked");
    let (first, second) = (next(), next());
    first.send("A").expect("is open");
    drop(second);
    assert_eq!(client.recv_to_end(), b"A\n");
    drop(client);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Unanswered), "{reason}");
}

#[test]
fn an_answer_that_is_dropped_can_have_a_substitute() {
    let (running, log) = start(local(), |app| {
        lines(app).react(|conn, _, line| {
            let answer = conn.defer_answer().if_dropped(|_, conn, _| {
                conn.send("sorry").expect("is taken");
            });
            if line == b"b" {
                answer.send("B").expect("is open");
            }
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("a\nb\nc\n");
    assert_eq!(client.recv(14), b"sorry\nB\nsorry\n");
    assert_eq!(log.closed(), 0);
}

#[test]
fn an_answer_that_does_not_come_has_a_timeout_whatever_the_codec() {
    let (asked, requests) = mpsc::channel();
    let server = local().answer_timeout(Duration::from_millis(100));
    let (running, log) = start(server, later(&asked));
    let (slow, quick) = (Client::to(&running), Client::to(&running));
    quick.send("b\n");
    let answer = requests.recv_timeout(LONG).expect("is asked");
    answer.send("B").expect("is open");
    assert_eq!(quick.recv(2), b"B\n");
    slow.send("a\n");
    let _owed = requests.recv_timeout(LONG).expect("is asked");
    assert_eq!(slow.recv_to_end(), b"");
    drop(slow);
    let (_, reason) = log.await_close(0);
    let in_vain = matches!(*reason, CloseReason::Timeout(TimeoutKind::Answer));
    assert!(in_vain, "{reason}");
    assert_eq!(log.closed(), 1);
    drop(quick);
}

#[test]
fn every_completion_is_called_exactly_once_whatever_happens() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..10 {
        let recent = Arc::<Mutex<VecDeque<Handle<App>>>>::default();
        let for_app = recent.clone();
        let (running, log) = start(local().reactors(2).mailbox(200), move |app| {
            let recent = for_app.clone();
            app.on_open(move |conn| {
                let mut recent = recent.lock().expect("no panics");
                recent.push_back(conn.handle());
                if recent.len() > 4 {
                    recent.pop_front();
                }
                true
            })
        });
        let taken = AtomicUsize::new(0);
        let called = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for thread in 0..3 {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(3 * round + thread));
                let (running, recent) = (&running, &recent);
                let (log, taken, called) = (&log, &taken, &called);
                scope.spawn(move || {
                    log.await_open(0);
                    let mut requests = 0;
                    while requests < 1000 {
                        if requests == 900 && thread == 0 {
                            running.engine().shutdown();
                        }
                        let handles = recent.lock().expect("no panics").clone();
                        let some = random.usize(..handles.len().max(1));
                        let open = handles.get(some).filter(|handle| handle.is_open());
                        let Some(handle) = open else {
                            if running.engine().is_stopping() {
                                break;
                            }
                            thread::yield_now();
                            continue;
                        };
                        requests += 1;
                        let called = called.clone();
                        let done = move |_| {
                            called.fetch_add(1, SeqCst);
                        };
                        let bytes = vec![0; random.usize(..100)];
                        let request = match random.u32(..20) {
                            0 => {
                                let _ = handle.close();
                                continue;
                            }
                            1..10 => handle.write_accepted(bytes, done),
                            _ => handle.write_flushed(bytes, done),
                        };
                        taken.fetch_add(usize::from(request.is_ok()), SeqCst);
                    }
                });
            }
            scope.spawn(|| {
                let mut clients = VecDeque::new();
                while !running.engine().is_stopping() {
                    clients.extend(Client::try_connect(&running.local_addrs()[0]));
                    if clients.len() > 3 {
                        clients.pop_front();
                    }
                }
            });
        });
        let _ = running.join();
        assert!(taken.load(SeqCst) > 0);
        assert_eq!(called.load(SeqCst), taken.load(SeqCst));
    }
}

#[test]
fn a_handle_serves_many_threads_at_once() {
    const THREADS: u32 = 8;
    const EACH: u32 = 5000;
    let (running, log) = start(local().reactors(2), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let handle = &handle;
            scope.spawn(move || {
                for n in 0..EACH {
                    let mut record = thread.to_be_bytes().to_vec();
                    record.extend_from_slice(&n.to_be_bytes());
                    handle.write(record).expect("the mailbox has room");
                }
            });
        }
        let mut next = HashMap::new();
        for _ in 0..THREADS * EACH {
            let record = client.recv(8);
            let (thread, n) = record.split_at(4);
            let expected = next.entry(thread.to_vec()).or_insert(0_u32);
            assert_eq!(n, expected.to_be_bytes(), "out of order");
            *expected += 1;
        }
        assert!(next.values().all(|count| *count == EACH));
    });
}

#[test]
fn a_full_mailbox_says_so_and_loses_nothing_it_took() {
    let (running, log) = start(local().mailbox(10), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let gate = Gate::before(running.engine(), 0);
    let mut taken = 0_u8;
    let error = loop {
        match handle.write(vec![taken]) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, error), (10, HandleError::MailboxFull));
    assert!(error.to_string().contains("mailbox"), "{error}");
    assert_eq!(running.engine().stats().total().queued, 10);
    let full = running.engine().broadcast("nor this");
    assert_eq!(full, Err(HandleError::MailboxFull));
    drop(gate);
    assert_eq!(client.recv(10), (0..10).collect::<Vec<_>>());
    eventually("there is room again", || handle.write("again").is_ok());
    assert_eq!(client.recv(5), b"again");
}

#[test]
fn a_full_mailbox_does_not_keep_the_server_from_stopping() {
    let (running, _log) = start(local().mailbox(1), |app| app);
    let gate = Gate::before(running.engine(), 0);
    while running.engine().run_on(0, |_, _| ()).is_ok() {}
    running.engine().shutdown();
    drop(gate);
    assert_eq!(running.join().forced, 0);
}

#[test]
fn a_handle_sends_through_the_codec_runs_tasks_and_closes() {
    let (running, log) = start(local(), |app| {
        app.codec(Cut::Length(LengthField::default()))
    });
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    assert_eq!(handle.id(), log.await_open(0));
    handle.send("abc").unwrap();
    assert_eq!(client.recv(7), b"\0\0\0\x03abc");
    // Refused by the codec: dropped, and the connection goes on.
    handle.send(vec![0; 2 * MIB]).unwrap();
    handle
        .run(|_, conn, session| {
            session.number = 7;
            conn.write(b"run").expect("taken");
        })
        .unwrap();
    handle
        .run(|_, conn, session| {
            let text = session.number.to_string();
            conn.write(text.as_bytes()).expect("taken");
        })
        .unwrap();
    assert_eq!(client.recv(4), b"run7");
    handle.close().unwrap();
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    log.await_close(0);
    eventually("the handle knows", || !handle.is_open());
}

#[test]
fn a_peer_that_leaves_during_a_worker_job_harms_nobody() {
    let pool = Arc::new(WorkerPool::builder().threads(2).queue(10).build().unwrap());
    let (begun, begins) = mpsc::channel::<Sender<()>>();
    let (answered, answers) = mpsc::channel();
    let (running, log) = start(local(), move |app| {
        let (pool, begun, answered) = (pool.clone(), begun.clone(), answered.clone());
        app.react(move |conn, _, frame| {
            let (handle, question) = (conn.handle(), frame.to_vec());
            let (begun, answered) = (begun.clone(), answered.clone());
            let job = move || {
                let (go, wait) = mpsc::channel();
                begun.send(go).expect("the test waits");
                let _ = wait.recv();
                answered
                    .send(handle.write(question))
                    .expect("the test waits");
            };
            pool.submit(job).expect("taken");
            Action::Continue
        })
    });
    let stays = Client::to(&running);
    stays.send("stays");
    let go_stays = begins.recv_timeout(LONG).unwrap();
    let leaves = Client::to(&running);
    leaves.send("leaves");
    let go_leaves = begins.recv_timeout(LONG).unwrap();
    drop(leaves);
    log.await_close(0);
    // Its slot has a new tenant by the time of the answer.
    let tenant = Client::to(&running);
    log.await_open(2);
    drop(go_leaves);
    assert_eq!(
        answers.recv_timeout(LONG).unwrap(),
        Err(HandleError::Closed)
    );
    drop(go_stays);
    assert_eq!(answers.recv_timeout(LONG).unwrap(), Ok(()));
    assert_eq!(stays.recv(5), b"stays");
    tenant.end_writes();
    assert_eq!(tenant.recv_to_end(), b"");
}

#[test]
fn a_broadcast_reaches_every_connection_of_every_reactor_once() {
    let (running, log) = start(local().reactors(4), |app| app);
    let clients: Vec<_> = (0..20).map(|_| Client::to(&running)).collect();
    eventually("all are open", || log.opened() == 20);
    let large = noise(2, 100_000);
    running.engine().broadcast("small").unwrap();
    running.engine().broadcast(large.clone()).unwrap();
    for client in &clients {
        assert_eq!(client.recv(5), b"small");
        assert!(client.recv(large.len()) == large);
    }
    let (sender, counts) = mpsc::channel();
    for reactor in 0..4 {
        let sender = sender.clone();
        running
            .engine()
            .run_on(reactor, move |_, reactor| {
                let taken = reactor.broadcast("by reactor");
                sender.send(taken).expect("the test waits");
            })
            .unwrap();
    }
    let taken: usize = counts.iter().take(4).sum();
    assert_eq!(taken, 20);
    for client in &clients {
        assert_eq!(client.recv(10), b"by reactor");
        client.round_trip("nothing else");
    }
}

#[test]
fn tasks_run_on_the_reactor_they_are_meant_for_and_not_before_their_time() {
    let (running, _log) = start(local().reactors(3), |app| app);
    let engine = running.engine();
    let delay = Duration::from_millis(30);
    let (sender, results) = mpsc::channel();
    for reactor in 0..3 {
        let (now, later) = (sender.clone(), sender.clone());
        let asked = Instant::now();
        engine
            .run_on(reactor, move |_, reactor| {
                now.send((reactor.id(), false)).expect("the test waits");
            })
            .unwrap();
        engine
            .schedule(reactor, delay, move |_, reactor| {
                assert!(asked.elapsed() >= delay, "early");
                later.send((reactor.id(), true)).expect("the test waits");
            })
            .unwrap();
    }
    drop(sender);
    let mut ran: Vec<_> = results.iter().collect();
    ran.sort_unstable();
    let all = [0, 1, 2].map(|reactor| [(reactor, false), (reactor, true)]);
    assert_eq!(ran, all.concat());
}

#[test]
fn a_reactor_that_does_not_exist_is_told_from_one_that_has_ended() {
    let (running, _log) = start(local().reactors(2), |app| app);
    let engine = running.engine().clone();
    let no_such = HandleError::NoSuchReactor {
        reactor: 99,
        reactors: 2,
    };
    assert_eq!(engine.run_on(99, |_, _| ()), Err(no_such));
    let later = engine.schedule(99, Duration::ZERO, |_, _| ());
    assert_eq!(later, Err(no_such));
    let connect = engine.connect_on(99, "tcp://127.0.0.1:9").map(|_| ());
    let error = connect.expect_err("there is no such reactor");
    assert!(
        matches!(
            error,
            ConnectError::NoSuchReactor {
                reactor: 99,
                reactors: 2
            }
        ),
        "{error}"
    );
    for message in [no_such.to_string(), error.to_string()] {
        assert!(message.contains("no reactor 99"), "{message}");
    }
    running.shutdown();
    assert_eq!(engine.run_on(1, |_, _| ()), Err(HandleError::Closed));
}

#[test]
fn a_reactor_reaches_its_connections_by_their_name() {
    let (running, log) = start(local(), |app| app);
    let clients: Vec<_> = (0..3).map(|_| Client::to(&running)).collect();
    let ids: Vec<_> = (0..3).map(|n| log.await_open(n)).collect();
    drop(Client::to(&running));
    let gone = log.await_open(3);
    log.await_close(0);
    let (sender, results) = mpsc::channel();
    let (first, all) = (ids[0], ids.clone());
    running
        .engine()
        .run_on(0, move |_, reactor| {
            let mut seen = Vec::new();
            reactor.for_each(|conn, _| seen.push(conn.id()));
            seen.sort_unstable();
            assert_eq!(seen, all);
            assert!(reactor.with(gone, |_, _| ()).is_none());
            let written = reactor.with(first, |conn, _| conn.write(b"you").is_ok());
            sender.send(written).expect("the test waits");
        })
        .unwrap();
    assert_eq!(results.recv_timeout(LONG).unwrap(), Some(true));
    // Connections are numbered in the order of accepting, which is that of connecting.
    assert_eq!(clients[0].recv(3), b"you");
}

#[test]
fn two_engines_in_one_process_keep_apart_and_can_work_together() {
    let (one, one_log) = start(Server::bind("tcp://127.0.0.1:0").reactors(2), |app| app);
    let client_of_one = Client::to(&one);
    let to_one: Handle<App> = one.engine().handle(one_log.await_open(0)).unwrap();
    let for_two = to_one.clone();
    let (two, two_log) = start(Server::bind("tcp://127.0.0.1:0").reactors(2), move |app| {
        let to_one = for_two.clone();
        app.react(move |_, _, frame| {
            to_one.write(frame.to_vec()).expect("taken");
            Action::Continue
        })
    });
    let client_of_two = Client::to(&two);
    client_of_two.send("from two to one");
    assert_eq!(client_of_one.recv(15), b"from two to one");
    client_of_one.round_trip("within one");
    assert_eq!((one_log.opened(), two_log.opened()), (1, 1));
    // Counted just after the kernel has taken it.
    eventually("all is counted", || {
        one.engine().stats().total().bytes_out == 25
    });
    assert_eq!(two.engine().stats().total().bytes_out, 0);
    drop(client_of_two);
    assert_eq!(two.shutdown().forced, 0);
    client_of_one.round_trip("one goes on");
}

/// Starts an engine whose handler is of another type than `App`. It registers each connection that sends something.
fn registering(registry: &Arc<Mutex<Vec<Outlet>>>) -> Running<Service> {
    let registry = registry.clone();
    Server::bind("tcp://127.0.0.1:0")
        .start(move |_| {
            let registry = registry.clone();
            service(move |conn, _| {
                registry.lock().expect("no panics").push(conn.outlet());
                Action::Continue
            })
        })
        .expect("it starts")
}

#[test]
fn one_registry_holds_the_outlets_of_engines_with_different_handlers() {
    let registry = Arc::<Mutex<Vec<Outlet>>>::default();
    let for_app = registry.clone();
    let (one, log) = start(local().reactors(2), move |app| {
        let registry = for_app.clone();
        app.on_open(move |conn| {
            registry.lock().expect("no panics").push(conn.outlet());
            true
        })
    });
    let two = registering(&registry);
    let mut clients: Vec<_> = (0..3).map(|_| Client::to(&one)).collect();
    clients.extend((0..3).map(|_| Client::to(&two)));
    for client in &clients[3..] {
        client.send("me too");
    }
    eventually("all have registered", || {
        registry.lock().expect("no panics").len() == 6
    });
    let outlets = registry.lock().expect("no panics").clone();

    let large = Bytes::from(noise(7, MIB));
    let (sender, results) = mpsc::channel();
    for outlet in &outlets {
        assert!(outlet.is_open());
        let sender = sender.clone();
        outlet.write("to all: ").unwrap();
        let done = move |result: Fate| sender.send(result).expect("the test waits");
        outlet.write_flushed(large.clone(), done).unwrap();
    }
    drop(sender);
    for client in &clients {
        assert_eq!(client.recv(8), b"to all: ");
        assert!(client.recv(MIB) == large);
    }
    let called: Vec<_> = results.iter().collect();
    assert_eq!(called.len(), 6);
    assert!(called.iter().all(Result::is_ok), "{called:?}");

    // The end of one engine is not that of the other one's connections.
    two.shutdown();
    let open: Vec<_> = outlets.iter().map(Outlet::is_open).collect();
    assert_eq!(open.iter().filter(|open| **open).count(), 3);
    for (outlet, is_open) in outlets.iter().zip(open) {
        let expected = match is_open {
            true => Ok(()),
            false => Err(HandleError::Closed),
        };
        assert_eq!(outlet.write("the rest"), expected);
    }
    for client in &clients[..3] {
        assert_eq!(client.recv(8), b"the rest");
    }
    assert_eq!(log.opened(), 3);
}

#[test]
fn an_identifier_comes_back_from_its_number_and_other_numbers_reach_nobody() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    let id = log.await_open(0);
    let number = id.as_u64();
    assert_eq!(ConnId::from_u64(number), id);
    let others = [0, number - 1, number + 1, number + (1 << 32), u64::MAX];
    for other in others.map(ConnId::from_u64) {
        assert!(running.engine().handle(other).is_none(), "{other}");
    }
    let (tell, told) = mpsc::channel();
    let ask = move |_: &mut App, reactor: &mut epicycle::Reactor<'_, App>| {
        let mut is_reached = |id| reactor.with(id, |_, _| ()).is_some();
        let reached = others
            .map(ConnId::from_u64)
            .into_iter()
            .any(&mut is_reached);
        let _ = tell.send((is_reached(id), reached));
    };
    running.engine().run_on(id.reactor(), ask).expect("runs");
    assert_eq!(told.recv_timeout(LONG), Ok((true, false)));
    client.round_trip("mine");
}

#[test]
fn a_stale_outlet_answers_closed_and_does_not_reach_the_new_tenant() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let stale = handle.outlet();
    drop(client);
    log.await_close(0);
    eventually("the slot is free", || running.engine().connections() == 0);

    let tenant = Client::to(&running);
    let id = log.await_open(1);
    assert_eq!(id.as_u64() >> 32, stale.id().as_u64() >> 32);
    assert!(!stale.is_open());
    assert_eq!(stale.write("ghost"), Err(HandleError::Closed));
    assert_eq!(stale.close(), Err(HandleError::Closed));
    assert_eq!(stale.abort(), Err(HandleError::Closed));
    for write in [Outlet::write_accepted, Outlet::write_flushed] {
        let (done, results) = reporting();
        assert_eq!(write(&stale, "ghost", done), Err(HandleError::Closed));
        assert!(results.recv_timeout(LONG).is_err(), "it is not called");
    }
    tenant.round_trip("mine");
}

#[test]
fn an_outlet_writes_closes_and_aborts_in_the_order_of_the_requests() {
    let (running, log) = start(local(), |app| app);
    let clients: Vec<_> = (0..2).map(|_| Client::to(&running)).collect();
    let outlet = |n| {
        let handle = running.engine().handle(log.await_open(n)).unwrap();
        handle.outlet()
    };
    let (polite, rude) = (outlet(0), outlet(1));
    let gate = Gate::before(running.engine(), 0);
    let (done, before) = reporting();
    polite.write("last words").unwrap();
    polite.write_accepted(".", done).unwrap();
    polite.close().unwrap();
    let (done, after) = reporting();
    polite.write_accepted("too late", done).unwrap();
    rude.abort().unwrap();
    drop(gate);
    assert!(only(&before).is_ok());
    assert!(matches!(only(&after), Err(WriteError::Closed)));
    assert_eq!(clients[0].recv_to_end(), b"last words.");
    let (bytes, end) = clients[1].recv_to_any_end();
    assert!(bytes.is_empty() && end.is_err(), "no RST");
}

#[test]
fn an_outlet_is_refused_by_a_full_mailbox_as_a_handle_is() {
    let (running, log) = start(local().mailbox(3), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    let outlet = handle.outlet();
    let gate = Gate::before(running.engine(), 0);
    outlet.write("a").unwrap();
    handle.write("b").unwrap();
    outlet.write("c").unwrap();
    assert_eq!(outlet.write("d"), Err(HandleError::MailboxFull));
    let (done, results) = reporting();
    let refused = outlet.write_flushed("e", done);
    assert_eq!(refused, Err(HandleError::MailboxFull));
    drop(gate);
    assert!(results.recv_timeout(LONG).is_err(), "it is not called");
    assert_eq!(client.recv(3), b"abc");
    client.round_trip("nothing else");
}

#[test]
fn outlets_are_equal_if_they_reach_the_same_connection_of_the_same_engine() {
    let registry = Arc::<Mutex<Vec<Outlet>>>::default();
    let engines = [registering(&registry), registering(&registry)];
    let clients = engines.each_ref().map(|running| {
        let client = Client::to(running);
        client.send("hello");
        client
    });
    eventually("both have registered", || {
        registry.lock().expect("no panics").len() == 2
    });
    let outlets = registry.lock().expect("no panics").clone();
    assert_eq!(outlets[0].id(), outlets[1].id(), "the first of its engine");
    assert_ne!(outlets[0], outlets[1]);
    let handle = engines.iter().find_map(|running| {
        let handle = running.engine().handle(outlets[0].id())?;
        (handle.outlet() == outlets[0]).then_some(handle)
    });
    let distinct: HashSet<Outlet> = outlets.iter().chain(&outlets).cloned().collect();
    assert_eq!(distinct.len(), 2);
    assert_eq!(size_of::<Outlet>(), 24, "as its page says");
    assert!(distinct.contains(&handle.expect("one of them").outlet()));
    drop(clients);
}
