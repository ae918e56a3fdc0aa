//! Clients that lose their connections, and take their users back at the same gate or at the other one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use epicycle::cluster::drpc::{Request, Scope, Target};
use epicycle::cluster::gate::{HeartbeatMode, ResumeOptions};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::packet::{Control, Packet, PacketOptions};
use epicycle::testing::each_seed;
use fastrand::Rng;

use super::field::{Client, Field, GATES, NODES};
use super::node::{ECHO, LOGIN, NEWS, REFUSED, RESUMED, TOKEN, What};
use crate::world;

const WINDOW: Duration = Duration::from_secs(60);

/// A user, and its client.
struct Player {
    uid: i64,
    state: State,
    /// The packets that its client has had before those of its present connection.
    before: u64,
    token: Option<String>,
    /// The seq of its last request, and of its last request for a token.
    seq: i32,
    asked: i32,
    /// The attempts to come back so far.
    moves: u64,
    /// Those that were refused because the other of two was faster.
    refused: u64,
    /// The requests that were answered.
    answers: HashSet<String>,
    /// The pushes that were sent: where from, and the moves before it if no attempt was going on.
    pushed: Vec<(usize, Option<u64>)>,
    /// The numbers of the pushes that have come.
    news: Vec<usize>,
}

enum State {
    /// With the number of packets that are dealt with.
    Online(Client, usize),
    Away,
    /// Coming back on one connection or two.
    Coming(Vec<Client>),
}

impl Player {
    fn enter(field: &mut Field, uid: i64) -> Self {
        let client = field.connect(field_gate(uid));
        assert!(field.send(&client, LOGIN, 1, &uid.to_string()));
        Self {
            state: State::Online(client, 0),
            ..Self::new(uid)
        }
    }

    fn new(uid: i64) -> Self {
        Self {
            uid,
            state: State::Away,
            before: 0,
            token: None,
            seq: 1,
            asked: 0,
            moves: 0,
            refused: 0,
            answers: HashSet::new(),
            pushed: Vec::new(),
            news: Vec::new(),
        }
    }

    fn ask_for_token(&mut self, field: &mut Field) {
        self.seq += 1;
        self.asked = self.seq;
        if let State::Online(client, _) = &self.state {
            assert!(field.send(client, TOKEN, self.seq, "a token"));
        }
    }

    fn request(&mut self, field: &mut Field) {
        self.seq += 1;
        if let State::Online(client, _) = &self.state {
            let data = format!("{}:{}", self.uid, self.seq);
            assert!(field.send(client, ECHO, self.seq, &data));
        }
    }

    /// A node pushes to the user.
    fn push(&mut self, field: &mut Field) {
        let located = field.locator.locate_gate(self.uid).expect("is in memory");
        let gate = located.expect("the user is at a gate");
        let number = self.pushed.len();
        let packet = Packet {
            route: NEWS,
            seq: 0,
            data: &number.to_string().into_bytes(),
        };
        let packet = PacketOptions::default().encode(&packet).expect("is short");
        let (scope, id) = (Scope::User, self.uid);
        let node = field.rng.usize(..NODES.len());
        let engine = field.world.engine(field.nodes[node]);
        let pushed = engine.run_on(0, move |node, reactor| {
            let push = Request::Push {
                target: Target { scope, id },
                disconnect: false,
                packet: packet.as_bytes(),
            };
            node.send(&gate, &push, reactor);
        });
        pushed.expect("the mailbox has room");
        // The order of pushes around a change of the gate is not promised.
        let is_calm = !matches!(self.state, State::Coming(_));
        self.pushed.push((node, is_calm.then_some(self.moves)));
    }

    /// The connection is lost.
    fn lose(&mut self, field: &mut Field) {
        self.take(field);
        if let State::Online(client, _) = &self.state {
            self.before += client.read.len() as u64;
            match field.rng.bool() {
                true => field.world.reset(client.peer),
                false => field.world.shutdown(client.peer),
            }
            self.state = State::Away;
        }
    }

    /// Comes back, at two gates at once if it is `torn`. A connection that it has stays open.
    fn come_back(&mut self, field: &mut Field, is_torn: bool) {
        self.take(field);
        if let State::Online(client, _) = &self.state {
            self.before += client.read.len() as u64;
        }
        self.moves += 1;
        let token = self.token.take().expect("has a token");
        let gates = match is_torn {
            true => vec![0, 1],
            false => vec![field.rng.usize(..GATES.len())],
        };
        let resume = Control::Resume {
            token: &token,
            last: self.before,
        };
        let coming = gates.into_iter().map(|gate| {
            let client = field.connect(gate);
            assert!(field.control(&client, &resume));
            // It need not wait for an answer.
            if field.rng.bool() {
                self.seq += 1;
                let data = format!("{}:{}", self.uid, self.seq);
                assert!(is_torn || field.send(&client, ECHO, self.seq, &data));
            }
            client
        });
        self.state = State::Coming(coming.collect());
    }

    /// Deals with what has come.
    fn take(&mut self, field: &mut Field) {
        if let State::Coming(clients) = &mut self.state {
            clients.iter_mut().for_each(|client| {
                field.read(client);
            });
            let answer = |client: &Client| client.controls.first().map(|(route, ..)| *route);
            clients.retain(|client| {
                let is_refused = answer(client) == Some(REFUSED);
                if is_refused {
                    self.refused += 1;
                    field.world.shutdown(client.peer);
                }
                !is_refused
            });
            assert!(!clients.is_empty(), "nobody gets the user {}", self.uid);
            let back: Vec<usize> = (0..clients.len())
                .filter(|at| answer(&clients[*at]) == Some(RESUMED))
                .collect();
            assert!(back.len() < 2, "two have the user {}", self.uid);
            // The other one must have been refused.
            if back.len() == 1 && clients.len() == 1 {
                let client = clients.remove(0);
                assert_eq!(client.controls[0].2, 0, "a packet came before Resumed");
                self.state = State::Online(client, 0);
                self.ask_for_token(field);
            }
        }
        let State::Online(client, dealt) = &mut self.state else {
            return;
        };
        field.read(client);
        let mut is_in = false;
        for (route, seq, data) in &client.read[*dealt..] {
            match *route {
                LOGIN => {
                    assert_eq!(*data, format!("{}=0", self.uid));
                    is_in = true;
                }
                TOKEN if *seq == self.asked => {
                    assert!(!data.is_empty(), "no token");
                    self.token = Some(data.clone());
                }
                TOKEN => {}
                ECHO => {
                    let (request, _) = data.split_once('@').expect("a node sent it");
                    assert_eq!(request, format!("{}:{seq}", self.uid));
                    assert!(self.answers.insert(request.to_owned()), "{data} came twice");
                }
                _ => self.news.push(data.parse().expect("a number")),
            }
        }
        *dealt = client.read.len();
        if is_in {
            self.ask_for_token(field);
        }
    }

    /// Checks that all pushes have come once, and in order where that is promised.
    fn check(&self) {
        let came = self.check_order();
        assert_eq!(came, self.pushed.len(), "a push is lost");
    }

    /// Checks that no push has come twice, or too early. Returns their number.
    fn check_order(&self) -> usize {
        let mut last: HashMap<(usize, u64), usize> = HashMap::new();
        let mut came = HashSet::new();
        for number in &self.news {
            assert!(came.insert(*number), "the push {number} came twice");
            let (node, moves) = self.pushed[*number];
            if let Some(moves) = moves {
                let before = last.insert((node, moves), *number);
                assert!(before < Some(*number), "{before:?} came before {number}");
            }
        }
        came.len()
    }
}

fn field_gate(uid: i64) -> usize {
    uid as usize % GATES.len()
}

/// Returns the requests that came to nodes. Checks that each came once, and those of a user to one node in its order.
fn handled(field: &Field) -> HashSet<String> {
    let mut all = HashSet::new();
    for node in 0..NODES.len() {
        let mut last: HashMap<String, i32> = HashMap::new();
        for data in field.packets(node) {
            let Some((uid, seq)) = data.split_once(':') else {
                continue;
            };
            let seq: i32 = seq.parse().expect("a seq");
            let before = last.insert(uid.to_owned(), seq);
            assert!(
                before < Some(seq),
                "{before:?} came before {seq} of user {uid}"
            );
            assert!(all.insert(data.clone()), "{data} came twice");
        }
    }
    all
}

/// Returns the number of Disconnects of each user that a node was told.
fn gone(field: &Field, node: usize) -> HashMap<i64, usize> {
    let mut gone = HashMap::new();
    for told in field.logs[node].lock().iter() {
        if told.what == What::Event(3) && told.uid != 0 {
            *gone.entry(told.uid).or_default() += 1;
        }
    }
    gone
}

/// Lets time pass until `done`, and the players deal with what comes.
fn await_all(
    what: &str,
    field: &mut Field,
    players: &mut [Player],
    done: impl Fn(&Field, &Player) -> bool,
) {
    for _ in 0..12_000 {
        players.iter_mut().for_each(|player| player.take(field));
        if players.iter().all(|player| done(field, player)) {
            return;
        }
        field.catch_up();
        field.world.run_for(Duration::from_millis(20));
    }
    let late = players.iter().filter(|player| !done(field, player));
    let late = late.map(|late| match &late.state {
        State::Online(client, _) => (late.uid, Some((field.is_open(client), &client.controls))),
        _ => (late.uid, None),
    });
    panic!("{what}: {:?}", late.collect::<Vec<_>>());
}

fn has_token(_: &Field, player: &Player) -> bool {
    matches!(player.state, State::Online(..)) && player.token.is_some()
}

/// Users come and go at two gates. Returns the trace, with the tokens.
pub(crate) fn come_and_go(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let (client_link, link) = (world::link(&mut rng), world::link(&mut rng));
    let resume = ResumeOptions::new().window(WINDOW);
    let mut field = Field::start(seed, client_link.resets(0), link.resets(0), |gate| {
        gate.resume(resume)
            .heartbeat(HeartbeatMode::Respond, Duration::ZERO)
    });
    field.open_links();
    let count = rng.i64(1..=6);
    let mut players: Vec<Player> = (1..=count)
        .map(|uid| Player::enter(&mut field, uid))
        .collect();
    await_all("no tokens", &mut field, &mut players, has_token);
    let mut torn = 0;
    for _ in 0..100 {
        let player = &mut players[rng.usize(..count as usize)];
        player.take(&mut field);
        let can_go = player.token.is_some();
        // Something is on its way when the connection is lost.
        if matches!(player.state, State::Online(..)) && can_go && rng.bool() {
            (0..rng.u32(1..5)).for_each(|_| player.request(&mut field));
            field.pass(Duration::from_millis(20));
        }
        match (&player.state, rng.u32(..8)) {
            (State::Online(..), 0) if can_go => player.lose(&mut field),
            (State::Online(..), 1) | (State::Away, 0..3) if can_go => {
                let is_torn = rng.u32(..4) == 0;
                torn += u64::from(is_torn);
                player.come_back(&mut field, is_torn);
            }
            (State::Online(..), 2..5) => player.request(&mut field),
            (_, 5..) => player.push(&mut field),
            _ => {}
        }
        field.pass(Duration::from_millis([1, 20, 200][rng.usize(..3)]));
    }
    for player in &mut players {
        if matches!(player.state, State::Away) {
            player.come_back(&mut field, false);
        }
    }
    await_all(
        "users do not come back",
        &mut field,
        &mut players,
        has_token,
    );
    await_all("a push is lost", &mut field, &mut players, |_, player| {
        player.news.len() >= player.pushed.len()
    });
    await_all("no answer", &mut field, &mut players, |field, player| {
        let prefix = format!("{}:", player.uid);
        let mut all = handled(field).into_iter();
        all.all(|request| !request.starts_with(&prefix) || player.answers.contains(&request))
    });
    // Nothing comes twice later.
    for _ in 0..100 {
        field.catch_up();
        field.world.run_for(Duration::from_millis(200));
    }
    players.iter_mut().for_each(|player| {
        player.take(&mut field);
        player.check();
    });
    let refused: u64 = players.iter().map(|player| player.refused).sum();
    assert_eq!(refused, torn, "one of two is refused, and nobody else");
    for node in 0..NODES.len() {
        assert!(gone(&field, node).is_empty(), "a user that came back left");
    }

    // Half of them do not come back.
    let leaving: Vec<i64> = (1..=count).filter(|_| rng.bool()).collect();
    for uid in &leaving {
        players[*uid as usize - 1].lose(&mut field);
    }
    field.world.run_for(WINDOW / 2);
    for node in 0..NODES.len() {
        assert!(gone(&field, node).is_empty(), "the window is open");
    }
    field.world.run_for(WINDOW);
    field.catch_up();
    field.world.run_for(WINDOW / 2);
    for node in 0..NODES.len() {
        let gone = gone(&field, node);
        let users: HashSet<i64> = gone.keys().copied().collect();
        assert_eq!(users, leaving.iter().copied().collect());
        assert!(gone.values().all(|count| *count == 1), "{gone:?}");
    }
    for gate in &field.gates {
        let stats = gate.stats();
        assert_eq!((stats.away, stats.pushes_dropped), (0, 0));
    }
    let open = players.iter().filter(
        |player| matches!(&player.state, State::Online(client, _) if field.is_open(client)),
    );
    assert_eq!(open.count(), count as usize - leaving.len());
    let tokens: Vec<_> = players.iter().map(|player| &player.token).collect();
    let locator = field.locator.clone();
    let trace = field.finish();
    assert!(locator.is_empty(), "a user stays located");
    format!("{trace} {tokens:?}")
}

#[test]
fn users_that_lose_their_connections_miss_nothing_and_are_gone_only_if_they_stay_away() {
    each_seed(0..80, |seed| drop(come_and_go(seed)));
}

/// Clients try to come back, and lose their connections before they have an answer.
fn come_back_in_vain(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (client_link, link) = (world::link(&mut rng), world::link(&mut rng));
    let resume = ResumeOptions::new().window(WINDOW);
    let mut field = Field::start(seed, client_link.resets(0), link.resets(0), |gate| {
        gate.resume(resume)
            .heartbeat(HeartbeatMode::Respond, Duration::ZERO)
    });
    field.open_links();
    let mut players = [Player::enter(&mut field, 1)];
    let mut logins = 0;
    for _ in 0..8 {
        await_all("no token", &mut field, &mut players, has_token);
        await_all("a push is lost", &mut field, &mut players, |_, player| {
            player.news.len() >= player.pushed.len()
        });
        let [player] = &mut players;
        player.lose(&mut field);
        let (token, last) = (player.token.take().expect("has one"), player.before);
        player.push(&mut field);
        player.moves += 1;
        let resume = Control::Resume {
            token: &token,
            last,
        };
        let mut tries = rng.usize(1..4);
        let client = loop {
            let mut client = field.connect(rng.usize(..GATES.len()));
            assert!(field.control(&client, &resume));
            tries -= 1;
            let most = if tries == 0 { 60_000 } else { rng.u64(1..200) };
            for _ in 0..most {
                field.pass(Duration::from_millis(1));
                field.read(&mut client);
                if !client.controls.is_empty() {
                    break;
                }
            }
            if tries == 0 || !client.controls.is_empty() {
                break client;
            }
            field.world.reset(client.peer);
        };
        let (answer, fields, _) = client.controls.first().expect("is answered");
        if *answer == RESUMED {
            player.state = State::Online(client, 0);
            player.ask_for_token(&mut field);
            continue;
        }
        // It was lost at the moment in which it had its user, who has left then.
        assert_eq!((*answer, &fields[..]), (REFUSED, &[3_u8][..]));
        assert!(field.send(&client, LOGIN, 1, "1"));
        logins += 1;
        player.check_order();
        *player = Player {
            state: State::Online(client, 0),
            ..Player::new(1)
        };
    }
    await_all("no token", &mut field, &mut players, has_token);
    await_all("a push is lost", &mut field, &mut players, |_, player| {
        player.news.len() >= player.pushed.len()
    });
    players[0].check();
    // Either it was told, or the login has taken its place. A gate that learns late may see both.
    let replaced: u64 = field.gates.iter().map(|gate| gate.stats().replaced).sum();
    for node in 0..NODES.len() {
        let gone = gone(&field, node).get(&1).copied().unwrap_or_default();
        assert!(gone as u64 + replaced >= logins, "a session ends untold");
    }
    players[0].lose(&mut field);
    field.world.run_for(WINDOW * 2);
    field.catch_up();
    field.world.run_for(WINDOW);
    for gate in &field.gates {
        let stats = gate.stats();
        assert_eq!((stats.away, stats.resume_bytes), (0, 0));
    }
    let locator = field.locator.clone();
    field.finish();
    assert!(locator.is_empty(), "the user stays located");
}

#[test]
fn attempts_that_are_given_up_cost_nothing() {
    each_seed(0..40, come_back_in_vain);
}
