//! Lookups of host names: bounded, shared, cached for a while, and dropped when nobody waits for them.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use epicycle::metrics::LookupStats;
use epicycle::{Action, Client, Connect, ConnectError, Reconnect, Resolve, Running};

use crate::util::app::{App, start_client};
use crate::util::ports::DeadPort;
use crate::util::process::{alone, resident};
use crate::util::{LONG, eventually, expect_panics};
use crate::{client, plain_echo};

/// A resolver that knows every name, as this host's, and does not answer for some of them until it is told to.
#[derive(Clone, Default)]
struct Names(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The names it was asked for, in order.
    asked: Mutex<Vec<String>>,
    hanging: Mutex<HashSet<String>>,
    released: Condvar,
}

impl Names {
    /// Does not answer for these.
    fn hanging(names: &[&str]) -> Self {
        let this = Self::default();
        this.hang(names);
        this
    }

    fn hang(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned());
        self.0.hanging.lock().expect("is whole").extend(names);
    }

    /// Answers for all from now on.
    fn release(&self) {
        self.0.hanging.lock().expect("is whole").clear();
        self.0.released.notify_all();
    }

    fn asked(&self) -> Vec<String> {
        self.0.asked.lock().expect("is whole").clone()
    }

    /// Waits until it has been asked so often.
    fn await_asked(&self, times: usize) {
        eventually("it is asked", || self.asked().len() == times);
    }

    fn weak(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }
}

impl Resolve for Names {
    fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        self.0.asked.lock().expect("is whole").push(host.to_owned());
        let hanging = self.0.hanging.lock().expect("is whole");
        let waited = self
            .0
            .released
            .wait_while(hanging, |names| names.contains(host));
        drop(waited.expect("is whole"));
        match host {
            "broken" => panic!("on purpose"),
            "nobody" => Err(io::Error::other("nobody knows it")),
            "empty" => Ok(Vec::new()),
            _ => Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))]),
        }
    }
}

/// One reactor that looks up with these, and a handler that opens and waits.
fn with(names: &Names) -> Client {
    client(1).resolver(names.clone())
}

fn echo_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    plain_echo(listener);
    port
}

fn stats(running: &Running<App>) -> LookupStats {
    running.engine().stats().lookups
}

/// Waits until so many connects wait for a lookup: each has a timer then.
fn await_waiting(running: &Running<App>, connects: u64) {
    eventually("they wait", || {
        running.engine().stats().total().timers == connects
    });
}

fn connect(running: &Running<App>, connect: impl Into<Connect>) {
    running.engine().connect(connect).expect("is taken");
}

#[test]
fn a_resolver_of_ones_own_is_asked_and_its_ports_are_not_looked_at() {
    let port = echo_port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    let closure = move |host: &str| -> io::Result<Vec<SocketAddr>> {
        note.lock().expect("is whole").push(host.to_owned());
        Ok(vec![([127, 0, 0, 1], 9).into()])
    };
    let (running, log) = start_client(client(1).resolver(closure), |app| {
        app.on_open(|conn| conn.write(b"hello").is_ok())
            .react(|_, _, _| Action::Close)
    });
    connect(&running, format!("tcp://no-such-host.invalid:{port}"));
    assert_eq!(log.await_close(0).0.bytes_in, 5);
    assert_eq!(*asked.lock().expect("is whole"), ["no-such-host.invalid"]);
    // An address is no name.
    connect(&running, format!("tcp://127.0.0.1:{port}"));
    log.await_close(1);
    assert_eq!(asked.lock().expect("is whole").len(), 1);
}

#[test]
fn a_name_that_nobody_waits_for_any_more_is_not_looked_up() {
    let names = Names::hanging(&["hangs.test"]);
    let (running, log) = start_client(with(&names).lookup_threads(1), |app| app);
    connect(&running, Connect::to("tcp://hangs.test:80").timeout(LONG));
    names.await_asked(1);
    // Some give up by themselves, some are made to.
    for n in 0..100 {
        let timeout = if n % 2 == 0 {
            Duration::from_millis(20)
        } else {
            LONG
        };
        let connect = Connect::to(format!("tcp://name{n}.test:80")).timeout(timeout);
        let connecting = running.engine().connect(connect).expect("is taken");
        if n % 2 == 1 {
            connecting.cancel().expect("is taken");
        }
    }
    log.await_failure(99);
    for failed in log.failures() {
        let error = &failed.error;
        let given_up = matches!(error, ConnectError::Timeout | ConnectError::Cancelled);
        assert!(given_up, "{error}");
    }
    assert_eq!((stats(&running).waiting, stats(&running).dropped), (0, 100));
    connect(&running, "tcp://wanted.test:80");
    eventually("it waits", || stats(&running).waiting == 1);
    names.release();
    names.await_asked(2);
    assert_eq!(names.asked(), ["hangs.test", "wanted.test"]);
    eventually("all are done", || stats(&running).completed == 2);
}

#[test]
fn connects_that_time_out_at_a_resolver_that_hangs_leave_no_memory_behind() {
    let name = "lookups::connects_that_time_out_at_a_resolver_that_hangs_leave_no_memory_behind";
    alone(name, || {
        let names = Names::hanging(&["hangs.test"]);
        let (running, _) = start_client(with(&names).lookup_threads(1), |app| app);
        connect(&running, Connect::to("tcp://hangs.test:80").timeout(LONG));
        names.await_asked(1);
        let fail = |connects: u64| {
            let before = running.engine().stats().total().connect_failures;
            for n in 0..connects {
                let connect = Connect::to(format!("tcp://name{n}.test:80"));
                let connect = connect.timeout(Duration::from_millis(10));
                eventually("there is room", || {
                    running.engine().stats().total().queued < 1000
                });
                running.engine().connect(connect).expect("is taken");
            }
            eventually("all are told", || {
                running.engine().stats().total().connect_failures == before + connects
            });
            assert_eq!(stats(&running).waiting, 0);
        };
        fail(5_000);
        let before = resident();
        fail(30_000);
        if let (Some(before), Some(after)) = (before, resident()) {
            let grown = after.saturating_sub(before);
            // The failures that the log keeps are some 200 bytes each; each lookup would be another 200.
            assert!(grown < 30_000 * 320, "grown by {grown} bytes");
        }
        assert_eq!(names.asked().len(), 1);
        names.release();
    });
}

#[test]
fn connects_to_one_name_share_a_lookup() {
    let port = echo_port();
    let names = Names::hanging(&["shared.test"]);
    let (running, log) = start_client(with(&names).reactors(2), |app| app);
    for _ in 0..50 {
        connect(&running, format!("tcp://shared.test:{port}"));
    }
    let cancelled = running
        .engine()
        .connect(format!("tcp://shared.test:{port}"));
    cancelled.expect("is taken").cancel().expect("is taken");
    log.await_failure(0);
    await_waiting(&running, 50);
    names.release();
    log.await_open(49);
    assert_eq!(names.asked(), ["shared.test"]);
    assert_eq!(log.failures().len(), 1);
}

#[test]
fn addresses_are_kept_for_a_while_and_a_fresh_lookup_passes_them_over() {
    let port = echo_port();
    let names = Names::default();
    let (running, log) = start_client(with(&names), |app| app);
    let to = |name: &str| Connect::to(format!("tcp://{name}:{port}"));
    for n in 0..3 {
        connect(&running, to("kept.test"));
        log.await_open(n);
    }
    assert_eq!(names.asked().len(), 1);
    assert_eq!(stats(&running).kept, 1);
    connect(&running, to("kept.test").fresh_lookup(true));
    log.await_open(3);
    assert_eq!(names.asked().len(), 2);
    // Whoever does not ask for a fresh one need not wait for it.
    names.hang(&["kept.test"]);
    connect(&running, to("kept.test").fresh_lookup(true));
    names.await_asked(3);
    connect(&running, to("kept.test"));
    log.await_open(4);
    names.release();
    log.await_open(5);

    // A short while.
    let names = Names::default();
    let ttl = Duration::from_millis(50);
    let (running, log) = start_client(with(&names).lookup_ttl(ttl), |app| app);
    connect(&running, to("kept.test"));
    log.await_open(0);
    std::thread::sleep(2 * ttl);
    connect(&running, to("kept.test"));
    log.await_open(1);
    assert_eq!(names.asked().len(), 2);

    // Not at all.
    let names = Names::default();
    let (running, log) = start_client(with(&names).lookup_ttl(Duration::ZERO), |app| app);
    for n in 0..3 {
        connect(&running, to("kept.test"));
        log.await_open(n);
    }
    assert_eq!((names.asked().len(), stats(&running).kept), (3, 0));
}

#[test]
fn kept_addresses_are_bounded() {
    let names = Names::default();
    let ttl = Duration::MAX;
    let dead = DeadPort::new();
    let (running, log) = start_client(with(&names).lookup_ttl(ttl), |app| app);
    for n in 0..1100 {
        connect(&running, format!("tcp://name{n}.test:{}", dead.addr.port()));
        // Few sockets at a time: other tests of this process need descriptors too.
        if n % 50 == 49 {
            log.await_failure(n);
        }
    }
    log.await_failure(1099);
    assert_eq!(
        (stats(&running).completed, stats(&running).kept),
        (1100, 1024)
    );
}

#[test]
fn an_attempt_that_follows_a_failure_looks_the_name_up_again() {
    let dead = DeadPort::new();
    let names = Names::default();
    let (running, log) = start_client(with(&names), |app| app);
    let pause = Duration::from_millis(1);
    let connect_to = Connect::to(format!("tcp://moves.test:{}", dead.addr.port()));
    connect(
        &running,
        connect_to.reconnect(Reconnect::new(pause, pause).limit(3)),
    );
    log.await_failure(2);
    assert_eq!(names.asked().len(), 3);
}

#[test]
fn failures_are_told_to_all_who_wait_and_are_not_kept() {
    expect_panics();
    for (name, why) in [
        ("nobody", "nobody knows it"),
        ("empty", "no address"),
        ("broken", "panicked"),
    ] {
        let names = Names::hanging(&[name]);
        let (running, log) = start_client(with(&names), |app| app);
        for _ in 0..3 {
            connect(&running, format!("tcp://{name}:80"));
        }
        await_waiting(&running, 3);
        names.release();
        for n in 0..3 {
            let failed = log.await_failure(n);
            assert!(matches!(failed.error, ConnectError::Address(_)));
            let error = failed.error.to_string();
            assert!(error.contains(name) && error.contains(why), "{error}");
        }
        connect(&running, format!("tcp://{name}:80"));
        log.await_failure(3);
        assert_eq!(names.asked().len(), 2);
        let LookupStats {
            completed, failed, ..
        } = stats(&running);
        assert_eq!((completed, failed), (2, 2));
    }
}

#[test]
fn a_full_queue_is_told_and_a_place_in_it_is_given_back() {
    let names = Names::hanging(&["hangs.test", "second.test"]);
    let client = with(&names).lookup_threads(1).lookup_queue(2);
    let (running, log) = start_client(client, |app| app);
    let engine = running.engine();
    let to = |name: &str| Connect::to(format!("tcp://{name}:80")).timeout(LONG);
    connect(&running, to("hangs.test"));
    names.await_asked(1);
    let second = engine.connect(to("second.test")).expect("is taken");
    connect(&running, to("third.test"));
    // These share places.
    connect(&running, to("third.test"));
    connect(&running, to("hangs.test"));
    connect(&running, to("fourth.test").token(4));
    let failed = log.await_failure(0);
    assert_eq!(failed.token, 4);
    let error = &failed.error;
    let full = matches!(error, ConnectError::LookupQueueFull { capacity: 2 });
    assert!(
        full && error.to_string().contains("lookup_queue"),
        "{error}"
    );
    assert_eq!((stats(&running).waiting, stats(&running).refused), (2, 1));
    second.cancel().expect("is taken");
    log.await_failure(1);
    connect(&running, to("fifth.test"));
    eventually("it waits", || stats(&running).waiting == 2);
    names.release();
    names.await_asked(3);
    assert_eq!(names.asked(), ["hangs.test", "third.test", "fifth.test"]);
}

#[test]
fn a_name_that_hangs_holds_up_only_its_thread() {
    let port = echo_port();
    let names = Names::hanging(&["one.test", "two.test", "three.test", "four.test"]);
    let (running, log) = start_client(with(&names).lookup_threads(5), |app| app);
    for name in ["one", "two", "three", "four"] {
        connect(&running, format!("tcp://{name}.test:80"));
    }
    names.await_asked(4);
    for n in 0..20 {
        connect(&running, format!("tcp://name{n}.test:{port}"));
    }
    log.await_open(19);
    assert_eq!(stats(&running).running, 4);
    names.release();
}

#[test]
fn a_shutdown_waits_for_no_lookup_and_leaves_nothing() {
    let name = "lookups::a_shutdown_waits_for_no_lookup_and_leaves_nothing";
    alone(name, || {
        let names = Names::hanging(&["hangs.test"]);
        let (running, log) = start_client(with(&names).lookup_threads(3), |app| app);
        for name in ["hangs.test", "hangs.test", "quick.test"] {
            connect(
                &running,
                Connect::to(format!("tcp://{name}:9")).timeout(LONG),
            );
        }
        names.await_asked(2);
        log.await_failure(0);
        eventually("the threads run", || threads_named("epicycle-names") == 3);
        let engine = running.engine().clone();
        running.shutdown();
        let stopped = log.failures();
        let stopped = stopped[1..].iter();
        assert_eq!(stopped.clone().count(), 2);
        assert!(
            stopped
                .clone()
                .all(|failed| matches!(failed.error, ConnectError::Stopped))
        );
        // The one that hangs cannot be ended; it is alone, and keeps nothing but the resolver.
        eventually("the others end", || threads_named("epicycle-names") == 1);
        assert_eq!(engine.stats().lookups.kept, 0);
        let resolver = names.weak();
        names.release();
        eventually("it ends", || threads_named("epicycle-names") == 0);
        assert!(matches!(
            engine.connect("tcp://late.test:80").map(|_| ()),
            Err(ConnectError::Stopped)
        ));
        drop((names, engine));
        eventually("the resolver is let go", || resolver.strong_count() == 0);
    });
}

/// How many threads of this process have names that begin so, where the system tells.
fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this is Linux");
    let comm = |task: io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks
        .filter_map(comm)
        .filter(|name| name.starts_with(prefix))
        .count()
}

/// Allows 127.0.0.2 alone, and keeps what it was asked.
fn only_the_second(
    asked: &Arc<Mutex<Vec<IpAddr>>>,
) -> impl Fn(IpAddr) -> bool + Send + Sync + use<> {
    let asked = asked.clone();
    move |ip| {
        asked.lock().expect("is whole").push(ip);
        ip == Ipv4Addr::new(127, 0, 0, 2)
    }
}

#[test]
fn each_address_is_asked_about_before_it_is_dialled() {
    let listener = TcpListener::bind("127.0.0.2:0").expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    plain_echo(listener);
    // The first is this host as IPv6 writes IPv4 addresses.
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
    let found = [mapped, Ipv4Addr::new(127, 0, 0, 2).into()];
    let resolver = move |_: &str| -> io::Result<Vec<SocketAddr>> {
        Ok(found.map(|ip| SocketAddr::new(ip, 9)).to_vec())
    };
    let (running, log) = start_client(client(1).resolver(resolver), |app| app);
    let asked = Arc::default();
    let to = Connect::to(format!("tcp://twofold.test:{port}"));
    connect(&running, to.allow(only_the_second(&asked)));
    log.await_open(0);
    assert!(log.failures().is_empty());
    let both = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];
    assert_eq!(*asked.lock().expect("is whole"), both.map(IpAddr::V4));
}

#[test]
fn a_connect_to_addresses_that_are_not_allowed_is_denied() {
    expect_panics();
    let port = echo_port();
    let (running, log) = start_client(with(&Names::default()), |app| app);
    let named = format!("tcp://name.test:{port}");
    let direct = format!("tcp://127.0.0.1:{port}");
    connect(&running, Connect::to(&named).allow(|_| false));
    connect(&running, Connect::to(&direct).allow(|_| false));
    connect(
        &running,
        Connect::to(&direct).allow(|_| panic!("on purpose")),
    );
    // Each attempt is asked about anew.
    let asked = Arc::default();
    let pause = Duration::from_millis(1);
    let again = Connect::to(&named).reconnect(Reconnect::new(pause, pause).limit(3));
    connect(&running, again.allow(only_the_second(&asked)));
    log.await_failure(5);
    for failed in log.failures() {
        assert!(
            matches!(failed.error.last(), ConnectError::Denied { addr } if addr.port() == port),
            "{}",
            failed.error
        );
        assert!(failed.error.to_string().contains("not allowed"));
    }
    assert_eq!(asked.lock().expect("is whole").len(), 3);
    let total = running.shutdown().stats.total();
    assert_eq!((total.connected, total.panics), (0, 1));
}
