//! Containers: the order of the steps, what fails and panics, what takes too long, signals, and the pid file.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::container::{
    ClientComponent, Component, Container, ContainerError, ContainerHandle, Failure, Report, Step,
};
use epicycle::cluster::gate::Gate;
use epicycle::cluster::mesh::MeshClient;
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Cluster, Monitor, State};
use parking_lot::Mutex;

use crate::util::client::TempPath;
use crate::util::{LONG, eventually, expect_panics};

/// The steps of all components of a test, as `NAME STEP`.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn entries(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn has(&self, entry: &str) -> bool {
        self.0.lock().iter().any(|found| found == entry)
    }
}

type Action = Box<dyn FnMut() -> Result<(), Failure> + Send>;

/// A component that keeps a diary, and does something else at one step.
struct Part {
    name: &'static str,
    diary: Diary,
    at: Option<(&'static str, Action)>,
}

impl Part {
    fn new(name: &'static str, diary: &Diary) -> Self {
        Self {
            name,
            diary: diary.clone(),
            at: None,
        }
    }

    fn at(
        mut self,
        step: &'static str,
        action: impl FnMut() -> Result<(), Failure> + Send + 'static,
    ) -> Self {
        self.at = Some((step, Box::new(action)));
        self
    }

    fn step(&mut self, step: &'static str) -> Result<(), Failure> {
        self.diary.0.lock().push(format!("{} {step}", self.name));
        match &mut self.at {
            Some((at, action)) if *at == step => action(),
            _ => Ok(()),
        }
    }
}

impl Component for Part {
    fn name(&self) -> &str {
        self.name
    }

    fn init(&mut self) -> Result<(), Failure> {
        self.step("init")
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.step("start")
    }

    fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
        self.step("close")
    }

    fn destroy(&mut self) -> Result<(), Failure> {
        self.step("destroy")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.step("drop");
    }
}

type Served = Result<Report, ContainerError>;

fn serve(container: Container) -> (ContainerHandle, JoinHandle<Served>) {
    let handle = container.handle();
    (handle, thread::spawn(move || container.serve()))
}

fn report(served: JoinHandle<Served>) -> Report {
    let served = served.join().expect("does not panic");
    served.expect("all have started")
}

fn problem(report: &Report, component: usize, step: Step) -> &str {
    let outcome = report.components[component].step(step);
    let outcome = outcome.unwrap_or_else(|| panic!("no {step}: {report}"));
    outcome.problem.as_deref().unwrap_or_default()
}

#[test]
fn components_start_in_order_close_at_once_and_are_destroyed_in_reverse() {
    let diary = Diary::default();
    // Each waits at its close for the other, so that one after the other would never end.
    let (here, there) = (channel(), channel());
    let meet = |tell: std::sync::mpsc::Sender<()>, hear: Receiver<()>| {
        move || {
            tell.send(())?;
            hear.recv_timeout(LONG)?;
            Ok(())
        }
    };
    let container = Container::new()
        .add(Part::new("a", &diary).at("close", meet(here.0, there.1)))
        .add(Part::new("b", &diary).at("close", meet(there.0, here.1)));
    let (handle, served) = serve(container);
    eventually("both have started", || diary.has("b start"));
    assert!(!diary.has("a close"));
    handle.stop();
    let report = report(served);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.cause, "a call of stop");

    let mut entries = diary.entries();
    entries[4..6].sort_unstable();
    let wanted = [
        "a init",
        "b init",
        "a start",
        "b start",
        "a close",
        "b close",
        "b destroy",
        "b drop",
        "a destroy",
        "a drop",
    ];
    assert_eq!(entries, wanted);
    let text = report.to_string();
    assert!(
        text.contains("a: init ") && text.contains(", destroy "),
        "{text}"
    );
}

#[test]
fn a_component_that_does_not_start_ends_those_before_it_and_is_the_error() {
    let diary = Diary::default();
    let container = Container::new()
        .add(Part::new("a", &diary))
        .add(Part::new("b", &diary).at("start", || Err("no licence".into())))
        .add(Part::new("c", &diary));
    let error = container.serve().expect_err("b does not start");
    assert_eq!(
        error.to_string(),
        "the component \"b\" fails to start: no licence"
    );
    let wanted = [
        "a init",
        "b init",
        "c init",
        "a start",
        "b start",
        "a close",
        "c destroy",
        "c drop",
        "b destroy",
        "b drop",
        "a destroy",
        "a drop",
    ];
    assert_eq!(diary.entries(), wanted);
}

#[test]
fn a_component_that_cannot_be_prepared_keeps_all_from_starting() {
    let diary = Diary::default();
    let container = Container::new()
        .add(Part::new("a", &diary))
        .add(Part::new("b", &diary).at("init", || Err("no disk".into())))
        .add(Part::new("c", &diary));
    let error = container.serve().expect_err("b is not prepared");
    assert!(
        error.to_string().contains("fails to init: no disk"),
        "{error}"
    );
    // Of c nothing was asked, so that nothing has to be undone.
    let wanted = [
        "a init",
        "b init",
        "c drop",
        "b destroy",
        "b drop",
        "a destroy",
        "a drop",
    ];
    assert_eq!(diary.entries(), wanted);
}

#[test]
fn a_panic_is_an_error_of_its_component() {
    expect_panics();
    let diary = Diary::default();
    let container = Container::new()
        .add(Part::new("a", &diary))
        .add(Part::new("b", &diary).at("start", || panic!("on purpose")));
    let error = container.serve().expect_err("b panics");
    assert!(
        error
            .to_string()
            .ends_with("fails to start: it panicked: on purpose"),
        "{error}"
    );
    assert!(diary.has("a destroy") && diary.has("b destroy"));

    let diary = Diary::default();
    let container = Container::new()
        .add(Part::new("a", &diary).at("close", || panic!("on purpose")))
        .add(Part::new("b", &diary).at("destroy", || panic!("on purpose")))
        .add(Part::new("c", &diary).at("drop", || panic!("on purpose")));
    let (handle, served) = serve(container);
    eventually("all have started", || diary.has("c start"));
    handle.stop();
    let report = report(served);
    assert_eq!(problem(&report, 0, Step::Close), "it panicked: on purpose");
    assert_eq!(
        problem(&report, 1, Step::Destroy),
        "it panicked: on purpose"
    );
    assert_eq!(
        problem(&report, 2, Step::Destroy),
        "it panicked: on purpose"
    );
    assert!(!report.is_clean());
    assert!(diary.has("a destroy"));
}

#[test]
fn a_component_that_does_not_close_in_time_is_left_behind() {
    let diary = Diary::default();
    let (release, held) = channel::<()>();
    let container = Container::new()
        .shutdown_max_wait(Duration::from_millis(50))
        .add(Part::new("a", &diary))
        .add(Part::new("b", &diary).at("close", move || Ok(held.recv()?)));
    let (handle, served) = serve(container);
    eventually("both have started", || diary.has("b start"));
    handle.stop();
    let report = report(served);
    assert!(
        problem(&report, 1, Step::Close).starts_with("left behind"),
        "{report}"
    );
    assert!(diary.has("a drop") && !diary.has("b destroy"));
    drop(release);
    eventually("what was left behind is dropped when it has ended", || {
        diary.has("b drop")
    });
}

#[test]
fn a_second_call_ends_the_wait() {
    let diary = Diary::default();
    let (release, held) = channel::<()>();
    let container = Container::new()
        .shutdown_max_wait(Duration::MAX)
        .add(Part::new("a", &diary).at("close", move || Ok(held.recv()?)));
    let (handle, served) = serve(container);
    eventually("it has started", || diary.has("a start"));
    handle.stop();
    eventually("it closes", || diary.has("a close"));
    assert!(!served.is_finished());
    handle.stop_now();
    assert!(problem(&report(served), 0, Step::Close).starts_with("left behind"));
    drop(release);
}

#[test]
fn a_stop_while_components_start_starts_no_more_of_them() {
    let diary = Diary::default();
    let container = Container::new();
    let handle = container.handle();
    let container = container
        .add(Part::new("a", &diary).at("start", move || {
            handle.stop();
            Ok(())
        }))
        .add(Part::new("b", &diary));
    let report = container.serve().expect("nothing failed");
    assert!(report.is_clean(), "{report}");
    assert!(diary.has("a close") && !diary.has("b start") && !diary.has("b close"));
    assert!(diary.has("b destroy"));
}

#[test]
fn the_pid_file_is_there_while_the_process_serves() {
    let folder = TempPath::new();
    let path = folder.0.join("run/cluster.pid");
    let diary = Diary::default();
    let (ended, seen) = (path.clone(), Arc::new(Mutex::new(false)));
    let told = seen.clone();
    let part = Part::new("a", &diary).at("close", move || {
        *told.lock() = ended.exists();
        Ok(())
    });
    let (handle, served) = serve(Container::new().pid_file(&path).add(part));
    let number = format!("{}\n", std::process::id());
    eventually("it is written", || {
        fs::read_to_string(&path).is_ok_and(|text| text == number)
    });
    handle.stop();
    report(served);
    assert!(*seen.lock(), "it is there until all have closed");
    assert!(!path.exists());

    // The file of a successor stays.
    let (handle, served) = serve(Container::new().pid_file(&path));
    eventually("it is written", || {
        fs::read_to_string(&path).is_ok_and(|text| text == number)
    });
    fs::write(&path, "1\n").expect("writes");
    handle.stop();
    report(served);
    assert!(path.exists());
    fs::remove_dir_all(&folder.0).expect("was made");

    let error = Container::new().pid_file("/proc/none/pid").serve();
    let error = error.expect_err("cannot be written").to_string();
    assert!(
        error.contains("/proc/none/pid") && error.contains("choose another"),
        "{error}"
    );
}

#[test]
fn gates_nodes_and_clients_start_and_end_with_their_container() {
    let cluster = Cluster::embedded();
    let node = cluster.node().name("game").state(|_| 0);
    let node = node.route(1, |count: &mut u32, cx| {
        *count += 1;
        cx.respond(count)
    });
    let gate = cluster.gate().name("hall").listen("tcp://127.0.0.1:0");
    let running = cluster.gate().listen("tcp://127.0.0.1:0").start();
    let running = running.expect("starts");
    let addr = running.client_addrs()[0].to_string();
    let client = Client::builder().connect(&addr).expect("connects");
    let watched = client.clone();
    let container = Container::new()
        .add(node)
        .add(gate)
        .add(running)
        .add(client)
        .add(ClientComponent::new("bot", Client::builder(), &addr));
    let (handle, served) = serve(container);
    let registry = cluster.registry();
    let states = |kind| {
        let all = registry.services(kind).expect("is in memory").into_iter();
        all.map(|one| (one.alias, one.state)).collect::<Vec<_>>()
    };
    eventually("both gates are registered", || states("gate").len() == 2);
    assert!(states("gate").contains(&("hall".to_owned(), State::Work)));
    assert_eq!(states("node"), [("game".to_owned(), State::Work)]);
    eventually("the gate knows the node", || {
        watched
            .request(1, "")
            .is_ok_and(|answer| !answer.is_empty())
    });
    handle.stop();
    let report = report(served);
    assert!(report.is_clean(), "{report}");
    assert!(states("gate").is_empty() && states("node").is_empty());
    eventually("it is closed", || !watched.is_connected());
    let names: Vec<&str> = report.components.iter().map(|one| &*one.name).collect();
    assert_eq!(names[..2], ["game", "hall"]);
    assert_eq!(names[3..], ["client", "bot"]);
}

#[test]
fn clients_that_stay_do_not_keep_a_gate_from_its_end() {
    let gate = Cluster::embedded().gate().listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let addr = gate.client_addrs()[0].to_string();
    let client = Client::builder()
        .reconnect(None)
        .connect(&addr)
        .expect("connects");
    let diary = Diary::default();
    let container = Container::new().shutdown_max_wait(Duration::from_secs(8));
    let container = container.add(gate).add(Part::new("last", &diary));
    let (handle, served) = serve(container);
    eventually("both have started", || diary.has("last start"));
    handle.stop();
    let report = report(served);
    assert!(report.is_clean(), "{report}");
    eventually("it is closed", || !client.is_connected());
}

#[test]
fn meshes_and_admin_interfaces_start_and_end_with_their_container() {
    let (cluster, monitor) = (Cluster::embedded(), Monitor::new());
    let mesh = cluster.mesh().id("mesh-1").name("counts");
    let mesh = mesh.monitor(&monitor).service("math", |routes| {
        routes.call("add", |_ctx, n: Vec<i64>| Ok(n.iter().sum::<i64>()));
    });
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("is bound");
    drop(taken);
    let admin = cluster
        .admin()
        .listen(format!("tcp://{addr}"))
        .without_token();
    let container = Container::new().add(mesh).add(admin.monitor(&monitor));
    let (handle, served) = serve(container);
    eventually("the interface answers", || TcpStream::connect(addr).is_ok());
    let client = MeshClient::builder().registry(cluster.registry().clone());
    let client = client.start().expect("starts");
    let sum = client.call::<_, i64>("/math/add", &[1, 2, 3]).wait();
    assert_eq!(sum.expect("is answered"), 6);
    handle.stop();
    let report = report(served);
    assert!(report.is_clean(), "{report}");
    let names: Vec<&str> = report.components.iter().map(|part| &*part.name).collect();
    assert_eq!(names, ["counts", "admin"]);
    assert!(
        cluster
            .registry()
            .services("mesh")
            .expect("is in memory")
            .is_empty()
    );
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_gate_that_cannot_listen_is_the_error_of_its_container() {
    let error = Container::new()
        .add(Gate::builder().listen("tpc://127.0.0.1:0"))
        .serve();
    let error = error.expect_err("cannot start").to_string();
    assert!(
        error.contains("\"gate\"") && error.contains("tpc://127.0.0.1:0"),
        "{error}"
    );
}

#[cfg(feature = "signals")]
mod signals {
    use std::process::{Child, ExitStatus};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::util::await_some;
    use crate::util::process::Partner;

    /// Runs a container with one component in a process of its own. It prints its steps and its report.
    fn partner(
        test: &str,
        close: impl FnMut() -> Result<(), Failure> + Send + 'static,
    ) -> Option<Partner> {
        const ROLE: &str = "EPICYCLE_TEST_CONTAINER";
        if std::env::var(ROLE).is_err() {
            return Some(Partner::start(test, &[(ROLE, "1")]));
        }
        // It has to end even if nobody is left to end it.
        thread::spawn(|| {
            thread::sleep(3 * LONG);
            std::process::abort();
        });
        let diary = Diary::default();
        let seen = diary.clone();
        thread::spawn(move || {
            eventually("it has started", || seen.has("a start"));
            println!("started");
            eventually("it closes", || seen.has("a close"));
            println!("closes");
        });
        let container = Container::new().shutdown_max_wait(LONG);
        let report = container
            .add(Part::new("a", &diary).at("close", close))
            .serve();
        println!("{}", report.expect("starts").cause);
        None
    }

    fn signal(child: &Child, signal: Signal) {
        kill_process(Pid::from_child(child), signal).expect("it runs");
    }

    fn await_line(partner: &mut Partner, wanted: &str) {
        let mut lines = partner.lines.by_ref().map_while(Result::ok);
        assert!(
            lines.any(|line| line.ends_with(wanted)),
            "it never said {wanted:?}"
        );
    }

    fn ended(partner: &mut Partner) -> ExitStatus {
        await_some("it ends", || partner.child.try_wait().expect("is a child"))
    }

    #[test]
    fn each_of_the_three_signals_closes_the_components() {
        const TEST: &str = "container::signals::each_of_the_three_signals_closes_the_components";
        for (which, name) in [
            (Signal::INT, "SIGINT"),
            (Signal::TERM, "SIGTERM"),
            (Signal::QUIT, "SIGQUIT"),
        ] {
            let Some(mut partner) = partner(TEST, || Ok(())) else {
                return;
            };
            await_line(&mut partner, "started");
            signal(&partner.child, which);
            await_line(&mut partner, name);
            assert!(ended(&mut partner).success());
        }
    }

    #[test]
    fn a_second_signal_ends_the_wait() {
        const TEST: &str = "container::signals::a_second_signal_ends_the_wait";
        let Some(mut partner) = partner(TEST, || {
            thread::sleep(LONG);
            Ok(())
        }) else {
            return;
        };
        await_line(&mut partner, "started");
        signal(&partner.child, Signal::TERM);
        await_line(&mut partner, "closes");
        // Signals within half a second count as one.
        thread::sleep(Duration::from_millis(600));
        signal(&partner.child, Signal::QUIT);
        let status = ended(&mut partner);
        assert!(status.success(), "{status}");
    }
}
