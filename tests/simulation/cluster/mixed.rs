//! Everything at once: users come and go at two gates and are moved between real nodes, which are replaced one after the other, while
//! servers are separated for a moment, clients read slowly, and some log in twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use epicycle::cluster::drpc::{Scope, Target};
use epicycle::cluster::gate::{HeartbeatMode, ResumeOptions};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::packet::Control;
use epicycle::testing::{Link, Reading, each_seed};
use fastrand::Rng;

use super::field::{Client, Field, GATES, NODES};
use super::node::{ECHO, LOGIN, NEWS, PLAY, REFUSED, RESUMED, TOKEN, What};
use super::real::Game;
use crate::world;

const WINDOW: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(60);

/// The reason for a refusal that is only for a moment.
const UNAVAILABLE: u8 = 5;

/// A user with its clients.
struct Player {
    uid: i64,
    state: State,
    /// The packets that its session has had on earlier connections.
    before: u64,
    token: Option<String>,
    seq: i32,
    /// The seq of the last request for a token.
    asked: i32,
    /// The number of the last login.
    session: usize,
    /// True once that has been answered.
    is_in: bool,
    /// Requests that a node must handle, since their connection was not lost.
    sure: HashSet<String>,
    answers: HashSet<String>,
    /// The session of each push that was sent, or 0 if it was sent between two.
    pushed: Vec<usize>,
    news: Vec<usize>,
    /// Connections of sessions that another login has ended.
    ghosts: Vec<Client>,
}

enum State {
    /// With the number of packets that are dealt with.
    Online(Client, usize),
    Away,
    Coming(Client),
}

impl Player {
    fn enter(field: &mut Field, uid: i64) -> Self {
        let mut player = Self {
            uid,
            state: State::Away,
            before: 0,
            token: None,
            seq: 0,
            asked: 0,
            session: 0,
            is_in: false,
            sure: HashSet::new(),
            answers: HashSet::new(),
            pushed: Vec::new(),
            news: Vec::new(),
            ghosts: Vec::new(),
        };
        player.log_in(field);
        player
    }

    /// Begins a new session, which ends the one before.
    fn log_in(&mut self, field: &mut Field) {
        let gate = field.rng.usize(..GATES.len());
        let client = field.connect(gate);
        self.seq += 1;
        assert!(field.send(&client, LOGIN, self.seq, &self.uid.to_string()));
        (self.before, self.token) = (0, None);
        (self.session, self.is_in) = (self.session + 1, false);
        self.sure.clear();
        if let State::Online(older, _) =
            std::mem::replace(&mut self.state, State::Online(client, 0))
        {
            self.ghosts.push(older);
        }
    }

    /// Returns the name of its session, in requests.
    fn name(&self) -> String {
        format!("{}.{}", self.uid, self.session)
    }

    fn request(&mut self, field: &mut Field) {
        let (State::Online(client, _) | State::Coming(client)) = &self.state else {
            return;
        };
        if !self.is_in {
            return;
        }
        self.seq += 1;
        let data = format!("{}:{}", self.name(), self.seq);
        let route = if field.rng.bool() { ECHO } else { PLAY };
        assert!(field.send(client, route, self.seq, &data));
        self.sure.insert(data);
    }

    /// A node pushes to the user.
    fn push(&mut self, field: &mut Field) {
        let node = field.rng.usize(1..field.real.len());
        let (uid, number) = (self.uid, self.pushed.len());
        let pushed = field.real[node].later().run(move |cx| {
            let (scope, id) = (Scope::User, uid);
            cx.push_to(Target { scope, id }, NEWS, &number.to_string())
        });
        pushed.expect("there is room");
        let session = if self.is_in { self.session } else { 0 };
        self.pushed.push(session);
    }

    fn lose(&mut self, field: &mut Field) {
        self.take(field);
        if let State::Online(client, _) = &self.state {
            self.before += client.read.len() as u64;
            match field.rng.bool() {
                true => field.world.reset(client.peer),
                false => field.world.shutdown(client.peer),
            }
            self.state = State::Away;
            self.sure.clear();
        }
    }

    /// Comes back on a new connection. One that it has stays open, until the gate ends it.
    fn come_back(&mut self, field: &mut Field) {
        self.take(field);
        if let State::Online(client, _) = &self.state {
            self.before += client.read.len() as u64;
            self.sure.clear();
        }
        let gate = field.rng.usize(..GATES.len());
        let client = field.connect(gate);
        let resume = Control::Resume {
            token: self.token.as_deref().expect("has a token"),
            last: self.before,
        };
        assert!(field.control(&client, &resume));
        self.state = State::Coming(client);
    }

    /// Deals with what has come.
    fn take(&mut self, field: &mut Field) {
        if let State::Coming(client) = &mut self.state {
            field.read(client);
            match client.controls.first() {
                Some((RESUMED, _, before)) => {
                    assert_eq!(*before, 0, "a packet came before Resumed");
                    let State::Coming(client) = std::mem::replace(&mut self.state, State::Away)
                    else {
                        return;
                    };
                    (self.state, self.token) = (State::Online(client, 0), None);
                    self.ask_for_token(field);
                }
                Some((REFUSED, reason, _)) => {
                    assert_eq!(reason[..], [UNAVAILABLE], "user {}", self.uid);
                    field.world.shutdown(client.peer);
                    self.state = State::Away;
                    self.sure.clear();
                    self.come_back(field);
                }
                _ => {}
            }
        }
        let name = self.name();
        let State::Online(client, dealt) = &mut self.state else {
            return;
        };
        field.read(client);
        let (mut has_come_in, mut is_refused) = (false, false);
        for (route, seq, data) in &client.read[*dealt..] {
            match *route {
                LOGIN => {
                    has_come_in = *data == format!("{}=0", self.uid);
                    is_refused = !has_come_in;
                }
                TOKEN => {
                    if *seq == self.asked {
                        self.token = Some(data.clone());
                    }
                }
                NEWS => self.news.push(data.parse().expect("a number")),
                _ => {
                    let (request, _) = data.split_once('@').expect("a node sent it");
                    assert_eq!(request, format!("{name}:{seq}"));
                    assert!(self.answers.insert(request.to_owned()), "{data} came twice");
                }
            }
        }
        *dealt = client.read.len();
        // The node was about to stop.
        if is_refused {
            return self.log_in(field);
        }
        if has_come_in {
            // A push of a server that has not been told yet would go to the session before.
            field.catch_up();
            self.is_in = true;
            self.ask_for_token(field);
        }
    }

    fn ask_for_token(&mut self, field: &mut Field) {
        self.seq += 1;
        self.asked = self.seq;
        if let State::Online(client, _) = &self.state {
            assert!(field.send(client, TOKEN, self.seq, "a token"));
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.state, State::Online(..)) && self.token.is_some()
    }

    /// Returns true if all has come that must: the answers, and the pushes since the last login.
    fn has_all(&self) -> bool {
        let came: HashSet<usize> = self.news.iter().copied().collect();
        let pushed = self.pushed.iter().enumerate();
        let mut wanted = pushed.filter(|(_, session)| **session == self.session);
        self.sure.is_subset(&self.answers) && wanted.all(|(number, _)| came.contains(&number))
    }
}

/// Lets time pass until `done`.
fn await_all(
    what: &str,
    field: &mut Field,
    players: &mut [Player],
    done: impl Fn(&Player) -> bool,
) {
    for _ in 0..6000 {
        players.iter_mut().for_each(|player| player.take(field));
        if players.iter().all(&done) {
            return;
        }
        field.catch_up();
        field.world.run_for(Duration::from_millis(20));
    }
    let late = players.iter().filter(|player| !done(player));
    let late = late.map(|late| {
        let is_online = matches!(late.state, State::Online(..));
        let missing: Vec<_> = late.sure.difference(&late.answers).collect();
        (late.uid, is_online, missing, &late.pushed, &late.news)
    });
    let refused = field.gates.iter().map(|gate| gate.stats().refused);
    panic!(
        "{what}: {:?}, refused: {:?}",
        late.collect::<Vec<_>>(),
        refused.collect::<Vec<_>>()
    );
}

/// Separates two servers for a moment, now and then.
#[derive(Default)]
struct Cut(Option<([u8; 4], [u8; 4], Duration)>);

impl Cut {
    fn advance(&mut self, field: &mut Field) {
        match self.0 {
            Some((a, b, ends)) if ends <= field.world.now() => {
                field.world.heal(a, b);
                self.0 = None;
            }
            None if field.rng.u32(..10) == 0 => {
                let gate = field.rng.usize(..GATES.len());
                let peer = match field.rng.usize(..=NODES.len()) {
                    node if node < NODES.len() => NODES[node].1,
                    _ => GATES[1 - gate].1,
                };
                let lasts = Duration::from_millis(field.rng.u64(1..1000));
                field.world.cut(GATES[gate].1, peer);
                self.0 = Some((GATES[gate].1, peer, field.world.now() + lasts));
            }
            _ => {}
        }
    }
}

/// Replaces the nodes, one after the other.
struct Replacement {
    next: u8,
    is_draining: bool,
}

impl Replacement {
    fn advance(&mut self, field: &mut Field) {
        if !self.is_draining {
            let is_due = self.next < 4 + NODES.len() as u8 && field.rng.u32(..20) == 0;
            if is_due {
                field.start_real_node(&format!("node-{}", self.next), [10, 0, 1, self.next]);
                self.next += 1;
                self.is_draining = true;
            }
        } else if field.real[0].drain(&field.world, DRAIN) {
            let old = field.real.remove(0);
            old.finish(&mut field.world);
            self.is_draining = false;
        }
    }
}

/// Checks what nodes were told: each request once, those of a session in their order, and the events of each connection around its packets.
/// Returns the requests.
fn check_told(field: &Field) -> HashSet<String> {
    let (mut all, mut last) = (HashSet::new(), HashMap::<String, i32>::new());
    for (route, data) in field.order.lock().iter() {
        assert!(all.insert(data.clone()), "{data} is handled twice");
        let (session, seq) = data.split_once(':').expect("a request");
        let seq = seq.parse().expect("a seq");
        if *route == PLAY {
            let before = last.insert(session.to_owned(), seq);
            assert!(
                before < Some(seq),
                "{before:?} came before {seq} of {session}"
            );
        }
    }
    for ((node, gate, cid), told) in field.told() {
        let what = |told: &&super::node::Told, event| told.what == What::Event(event);
        let count = |event| told.iter().filter(|told| what(told, event)).count();
        let (begins, ends) = (count(1), count(3));
        assert!(
            begins <= 1 && ends <= 1,
            "{node} {gate} {cid}: {begins} {ends}"
        );
        let is_last = told.last().is_some_and(|last| what(&last, 3));
        assert!(
            ends == 0 || is_last,
            "{node}: {cid} is heard of after its end"
        );
        let mut uid = 0;
        for told in &told {
            match told.what {
                What::Event(2) => uid = told.uid,
                // A node that has started later was told neither of both.
                What::Packet(_) if told.uid != 0 && begins == 1 => {
                    assert_eq!(told.uid, uid, "a packet came before Reconnect");
                }
                _ => {}
            }
        }
    }
    all
}

/// Returns the users of which a node was told that they are gone.
fn gone(field: &Field) -> HashSet<i64> {
    let logs = field.logs.iter();
    let told = logs.flat_map(|log| log.lock().clone());
    told.filter(|told| told.what == What::Event(3) && told.uid != 0)
        .map(|told| told.uid)
        .collect()
}

/// Returns the trace.
pub(crate) fn mix(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let client_link = world::link(&mut rng).resets(0);
    let links = Link::calm()
        .segments(rng.usize(1..2000))
        .delay(Duration::ZERO..=Duration::from_millis(rng.u64(1..50)));
    let resume = ResumeOptions::new().window(WINDOW);
    let mut field = Field::start_real(seed, client_link, links, |gate| {
        gate.resume(resume)
            .heartbeat(HeartbeatMode::Respond, Duration::ZERO)
    });
    field.open_links();
    let count = rng.i64(1..=6);
    let mut players: Vec<Player> = (1..=count)
        .map(|uid| Player::enter(&mut field, uid))
        .collect();
    await_all("no tokens", &mut field, &mut players, Player::is_ready);
    let mut cut = Cut::default();
    let mut replacement = Replacement {
        next: 4,
        is_draining: false,
    };
    for _ in 0..200 {
        cut.advance(&mut field);
        replacement.advance(&mut field);
        let player = &mut players[rng.usize(..count as usize)];
        player.take(&mut field);
        let can_go = player.token.is_some();
        match (&player.state, rng.u32(..16)) {
            (State::Online(..), 0) if can_go => player.lose(&mut field),
            (State::Online(..), 1) | (State::Away, 0..6) if can_go => {
                player.come_back(&mut field);
            }
            (State::Online(..) | State::Away, 6) if can_go => player.log_in(&mut field),
            (State::Online(client, _), 7) => {
                let reading = match rng.bool() {
                    true => Reading::Slowly(rng.u32(100..2000)),
                    false => Reading::Freely,
                };
                field.world.set_reading(client.peer, reading);
            }
            (State::Online(..), 8) if can_go => {
                let (uid, node) = (player.uid, rng.usize(1..field.real.len()));
                let later = field.real[node].later();
                let bind = later.bind_node(uid, |_: &mut Game, _, bound| bound);
                bind.expect("the node runs");
            }
            (State::Online(..) | State::Coming(_), 9..13) => player.request(&mut field),
            (_, 13..) => player.push(&mut field),
            _ => {}
        }
        field.pass(Duration::from_millis([1, 20, 200][rng.usize(..3)]));
    }
    while cut.0.is_some() || replacement.is_draining {
        field.pass(Duration::from_millis(20));
        if cut.0.is_some() {
            cut.advance(&mut field);
        }
        if replacement.is_draining {
            replacement.advance(&mut field);
        }
    }
    for player in &mut players {
        if matches!(player.state, State::Away) {
            player.come_back(&mut field);
        }
    }
    await_all("no token", &mut field, &mut players, Player::is_ready);
    for player in &players {
        if let State::Online(client, _) = &player.state {
            field.world.set_reading(client.peer, Reading::Freely);
        }
    }
    await_all(
        "something is lost",
        &mut field,
        &mut players,
        Player::has_all,
    );
    // Nothing comes twice later.
    for _ in 0..100 {
        field.catch_up();
        field.world.run_for(Duration::from_millis(200));
    }
    let handled = check_told(&field);
    for player in &mut players {
        player.take(&mut field);
        let came: HashSet<_> = player.news.iter().collect();
        assert_eq!(came.len(), player.news.len(), "a push came twice");
        assert!(player.answers.is_subset(&handled));
        for ghost in &player.ghosts {
            assert!(!field.is_open(ghost), "two have the user {}", player.uid);
        }
    }
    assert!(
        gone(&field).is_empty(),
        "a user that came back left: {:?}",
        gone(&field)
    );
    for player in &mut players {
        player.lose(&mut field);
    }
    field.world.run_for(2 * WINDOW);
    field.catch_up();
    field.world.run_for(WINDOW);
    assert_eq!(gone(&field), (1..=count).collect());
    for gate in &field.gates {
        let stats = gate.stats();
        assert_eq!(
            (stats.away, stats.users, stats.resume_bytes, stats.waiting),
            (0, 0, 0, 0)
        );
    }
    check_told(&field);
    let locator = field.locator.clone();
    let trace = field.finish();
    assert!(
        (1..=count).all(|uid| {
            let located = locator.locate_gate(uid);
            located.expect("is in memory").is_none()
        }),
        "a user stays located"
    );
    trace
}

#[test]
fn promises_are_kept_while_everything_happens_at_once() {
    // One of them stops a node whose gate is cut off at that moment.
    each_seed(76..86, |seed| drop(mix(seed)));
}
