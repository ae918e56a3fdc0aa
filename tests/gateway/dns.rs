//! The addresses of a name as the nodes of a pool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::gateway::discover::DnsSource;
use epicycle::gateway::settings::{DnsSettings, PoolSettings, RouteSettings, SourceSettings};
use epicycle::gateway::{Gateway, Running};
use log::Level;

use crate::peers::{Asker, Origin, builder, ok};
use crate::rig::{Client, Folder, Program, metric};
use crate::util::eventually;
use crate::util::logs::logs;

/// The addresses that a name has now, or the error of the look-up.
type Answer = Result<Vec<IpAddr>, &'static str>;

/// Origins at different addresses with the same port, and a name for some of them.
struct Zone {
    origins: Vec<Origin>,
    port: u16,
    answer: Arc<Mutex<Answer>>,
}

/// Returns the address `127.0.0.N`.
fn ip(n: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n as u8).into()
}

/// Listens at `127.0.0.1` and so on, at the same port of each.
pub(crate) fn at_one_port(count: usize) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind((ip(1), 0)).expect("a port");
        let port = first.local_addr().expect("an address").port();
        let others = (2..=count).map(|n| TcpListener::bind((ip(n), port)));
        // The port may be taken at one of the others.
        if let Ok(others) = others.collect::<Result<Vec<_>, _>>() {
            return std::iter::once(first).chain(others).collect();
        }
    }
}

impl Zone {
    /// Starts origins at `127.0.0.1` and so on. Each answers with its number.
    fn new(count: usize) -> Self {
        let listeners = at_one_port(count);
        let port = listeners[0].local_addr().expect("an address").port();
        let origins = (1..).zip(listeners);
        let origins = origins.map(|(n, at)| Origin::on(at, move |_, _| ok(n.to_string())));
        Self {
            origins: origins.collect(),
            port,
            answer: Arc::new(Mutex::new(Ok(vec![ip(1)]))),
        }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("sound") = answer;
    }

    /// Returns a source that asks for the name.
    fn source(&self) -> DnsSource {
        let mut settings = DnsSettings::new(format!("app.test:{}", self.port));
        settings.every = Duration::from_millis(100);
        let answer = self.answer.clone();
        let source = DnsSource::new(settings, false).expect("it is sound");
        source.resolver(move |host: &str| {
            assert_eq!(host, "app.test");
            let answer = answer.lock().expect("sound").clone();
            let addrs = answer.map_err(io::Error::other)?;
            let with_port = |ip| SocketAddr::new(ip, 0);
            Ok(addrs.into_iter().map(with_port).collect())
        })
    }
}

/// Returns the names of the origins that serve the next requests, in order and without repetition.
fn serving(client: &mut Asker) -> Vec<String> {
    let mut names: Vec<_> = (0..8).map(|_| client.get("/").text().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn gateway_of(pool: PoolSettings) -> Gateway {
    let gateway = builder(pool).route(RouteSettings::to("app")).build();
    gateway.expect("it is sound")
}

fn figure<H: epicycle::gateway::Hooks>(running: &Running<H>, name: &str) -> Option<f64> {
    let name = format!("epicycle_gateway_discovery_{name}{{pool=\"app\"}}");
    metric(&running.control().metrics(), &name)
}

#[test]
fn requests_go_to_the_addresses_that_a_name_has_now_and_stay_if_it_has_none() {
    logs();
    let zone = Zone::new(3);
    let gateway = gateway_of(PoolSettings::of([zone.origins[0].url()]));
    let running = gateway.start_plain().expect("it starts");
    running
        .control()
        .discover("app", zone.source())
        .expect("there is such a pool");
    let mut client = Asker::to(&running);
    zone.answers(Ok(vec![ip(3), ip(2)]));
    eventually("both are asked", || serving(&mut client) == ["2", "3"]);
    let changes = figure(&running, "changes_total");
    // Another order is no change.
    zone.answers(Ok(vec![ip(2), ip(3), ip(2)]));
    let lists = figure(&running, "lists_total");
    eventually("it is asked again", || {
        figure(&running, "lists_total") > lists
    });
    assert_eq!(figure(&running, "changes_total"), changes);

    for failure in [Err("the name server is out of order"), Ok(Vec::new())] {
        let failures = figure(&running, "failures_total");
        zone.answers(failure.clone());
        eventually("it has failed twice", || {
            figure(&running, "failures_total") >= failures.map(|n| n + 2.0)
        });
        assert_eq!(figure(&running, "failing"), Some(1.0));
        assert_eq!(serving(&mut client), ["2", "3"], "{failure:?}");
    }
    let told = logs().with("the name server is out of order");
    let warnings = told.iter().filter(|(level, _)| *level == Level::Warn);
    assert_eq!(warnings.count(), 1, "{told:?}");

    zone.answers(Ok(vec![ip(1)]));
    eventually("the first one is asked", || serving(&mut client) == ["1"]);
    // The list is taken before that is noted.
    eventually("it is sound again", || {
        figure(&running, "failing") == Some(0.0)
    });
    running.shutdown();
}

#[test]
fn a_source_of_the_settings_ends_when_they_have_it_no_more_and_goes_on_if_they_stay() {
    let origin = Origin::start(|_, _| ok("by name"));
    let listed = Origin::start(|_, _| ok("listed"));
    let mut dns = DnsSettings::new(format!("tcp4://localhost:{}", origin.addr.port()));
    dns.every = Duration::from_millis(100);
    let mut pool = PoolSettings::of([listed.url()]);
    let without = gateway_of(pool.clone());
    pool.discover = Some(SourceSettings::Dns(dns.clone()));
    let with = gateway_of(pool.clone());
    let running = with.start_plain().expect("it starts");
    let mut client = Asker::to(&running);
    let mut is_asked = |name: &str| {
        let mut text = String::new();
        eventually(name, || {
            client.get("/").text().clone_into(&mut text);
            text == name
        });
    };
    is_asked("by name");
    let lists = |running: &Running<_>| figure(running, "lists_total").unwrap_or(0.0);
    eventually("it is asked several times", || lists(&running) >= 5.0);
    // The same settings: the same source, and its nodes.
    running.reload(&with).expect("they are sound");
    assert!(lists(&running) >= 5.0);
    assert_eq!(serving(&mut Asker::to(&running)), ["by name"]);
    // Other settings of it: another source. Until it tells its list, that of the old one stays.
    dns.every = Duration::from_secs(3600);
    pool.discover = Some(SourceSettings::Dns(dns));
    running.reload(&gateway_of(pool)).expect("they are sound");
    assert_eq!(serving(&mut Asker::to(&running)), ["by name"]);
    eventually("the new one is asked", || lists(&running) == 1.0);
    // None: the nodes of the settings.
    running.reload(&without).expect("they are sound");
    assert_eq!(serving(&mut Asker::to(&running)), ["listed"]);
    assert_eq!(figure(&running, "lists_total"), None);
    running.reload(&with).expect("they are sound");
    is_asked("by name");
    running.shutdown();
}

#[test]
fn a_name_in_the_file_is_looked_up_by_the_program() {
    let origin = crate::rig::Origin::start("by name");
    let folder = Folder::new();
    let port = origin.addr.port();
    folder.write(
        "gateway.toml",
        format!(
            "listen = [{{ on = \"tcp://127.0.0.1:0\" }}]\nroute = [{{ pool = \"app\" }}]\n\
             pool.app.discover = {{ dns = \"tcp4://localhost:{port}\", every = \"200ms\" }}\n"
        ),
    );
    let program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    eventually("the name is looked up", || {
        client
            .get("/")
            .is_ok_and(|answer| answer.status == 200 && answer.body == "by name")
    });
}

#[cfg(feature = "tls")]
#[test]
fn nodes_that_a_name_has_must_prove_that_name() {
    use epicycle::tls::{TlsClient, TlsServer};

    use crate::pki::TRUSTED;
    use crate::secure;

    for (certificate, status) in [("localhost", 200), ("other.test", 502)] {
        let issued = TRUSTED.issue(&[certificate]);
        let (_node, port) = secure::node(&TlsServer::new(issued.identity()).expect("is set up"));
        let mut pool = PoolSettings::default();
        pool.tls = Some(TlsClient::new(&TRUSTED.roots()).expect("is set up"));
        pool.retries.max = 0;
        let dns = DnsSettings::new(format!("tcp4://localhost:{port}"));
        pool.discover = Some(SourceSettings::Dns(dns));
        let running = gateway_of(pool).start_plain().expect("it starts");
        eventually("the name is looked up", || {
            figure(&running, "lists_total") == Some(1.0)
        });
        let answer = Asker::to(&running).get("/");
        assert_eq!(answer.status(), status, "{certificate}");
        running.shutdown();
    }
}
