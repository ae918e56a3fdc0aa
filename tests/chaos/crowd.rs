//! The hostile clients: a few threads, each with many places, and in each place one client after another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::behaviour::Behaviour;
use super::client::{Client, Turn};
use super::kind::{KINDS, Kind};

const THREADS: usize = 4;

/// A turn of a thread that takes longer than this counts as a delay of its clients.
const SHORT: Duration = Duration::from_millis(100);

/// The delay of a client after which the server may close it by a timeout that its behaviour does not cause.
const LATE: Duration = Duration::from_millis(600);

/// The time by which each client must have ended. No script takes longer than a few seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The results of a crowd.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The connections made, by behaviour and kind of server.
    pub(crate) connected: BTreeMap<(&'static str, &'static str), u64>,
    /// Descriptions of clients that were treated wrongly.
    pub(crate) wronged: Vec<String>,
    /// The connections whose clients this machine has delayed.
    pub(crate) late: BTreeMap<(&'static str, &'static str), u64>,
}

/// The composition of a crowd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd<'a> {
    pub(crate) seed: u64,
    /// The number of clients at a time.
    pub(crate) count: usize,
    /// The time for which new clients arrive.
    pub(crate) lasting: Duration,
    /// The behaviours, each of which is equally frequent.
    pub(crate) behaviours: &'a [Behaviour],
    /// The kinds of servers, each of which is equally frequent.
    pub(crate) kinds: &'a [Kind],
}

/// Runs a crowd against the servers, with an address for each kind, and waits until each client has ended.
pub(crate) fn unleash(crowd: Crowd<'_>, servers: &[SocketAddr; KINDS.len()]) -> Done {
    let threads = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let places = (thread..crowd.count).step_by(THREADS);
                scope.spawn(move || Share::new(crowd, places, servers)?.run())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic").expect("a poll works"))
            .collect::<Vec<_>>()
    });
    let mut all = Done::default();
    for done in threads {
        for (sum, part) in [
            (&mut all.connected, done.connected),
            (&mut all.late, done.late),
        ] {
            for (who, count) in part {
                *sum.entry(who).or_default() += count;
            }
        }
        all.wronged.extend(done.wronged);
    }
    all
}

/// A place, in which one client follows another.
struct Place {
    rng: Rng,
    /// The number of clients so far.
    past: usize,
    /// The time when the next client may start.
    next: Instant,
    client: Option<Client>,
}

/// The clients of a thread.
struct Share<'a> {
    poll: Poll,
    places: Vec<Place>,
    /// The times at which places are due for a turn.
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
    until: Instant,
    behaviours: &'a [Behaviour],
    kinds: &'a [Kind],
    /// The time of the next check for stuck clients.
    inspection: Instant,
    servers: &'a [SocketAddr; KINDS.len()],
    /// The total time of the turns that were not short.
    away: Duration,
    done: Done,
}

impl<'a> Share<'a> {
    fn new(
        crowd: Crowd<'a>,
        places: impl Iterator<Item = usize>,
        servers: &'a [SocketAddr; KINDS.len()],
    ) -> io::Result<Self> {
        let now = Instant::now();
        let place = |number: usize| {
            let mut rng = Rng::with_seed(crowd.seed.wrapping_mul(1_000_003) + number as u64);
            Place {
                next: now + Duration::from_millis(rng.u64(..400)),
                past: number,
                rng,
                client: None,
            }
        };
        let places: Vec<_> = places.map(place).collect();
        let alarms = places
            .iter()
            .enumerate()
            .map(|(n, place)| Reverse((place.next, n)));
        Ok(Self {
            poll: Poll::new()?,
            alarms: alarms.collect(),
            places,
            until: now + crowd.lasting,
            behaviours: crowd.behaviours,
            kinds: crowd.kinds,
            inspection: now + PATIENCE,
            servers,
            away: Duration::ZERO,
            done: Done::default(),
        })
    }

    fn run(mut self) -> io::Result<Done> {
        let mut events = Events::with_capacity(256);
        let mut last = Instant::now();
        loop {
            let now = Instant::now();
            if now - last > SHORT {
                self.away += now - last;
            }
            last = now;
            while let Some(&Reverse((at, place))) = self.alarms.peek() {
                if at > now {
                    break;
                }
                self.alarms.pop();
                self.look_after(place, now);
            }
            if now >= self.until && self.places.iter().all(|place| place.client.is_none()) {
                return Ok(self.done);
            }
            if now >= self.inspection {
                self.inspection = now + PATIENCE / 10;
                (0..self.places.len()).for_each(|place| self.look_after(place, now));
            }
            let next = self
                .alarms
                .peek()
                .map(|Reverse((at, _))| at.saturating_duration_since(now));
            let at_most = Duration::from_millis(50);
            match self.poll.poll(
                &mut events,
                Some(next.map_or(at_most, |next| next.min(at_most))),
            ) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                self.look_after(event.token().0, now);
            }
        }
    }

    /// Gives the client of a place its turn, or starts a new client there.
    fn look_after(&mut self, number: usize, now: Instant) {
        let place = &mut self.places[number];
        if place.client.is_none() && place.next <= now && now < self.until {
            match place.welcome(
                &self.poll,
                number,
                self.behaviours,
                self.kinds,
                self.servers,
            ) {
                Ok(mut client) => {
                    client.away_at_birth = self.away;
                    place.client = Some(client);
                }
                Err(error) => self
                    .done
                    .wronged
                    .push(format!("cannot begin to connect: {error}")),
            }
        }
        let Some(client) = &mut place.client else {
            return;
        };
        let late = self.away - client.away_at_birth > LATE;
        match client.proceed(now) {
            Ok(Turn::Sleeps(until)) => {
                self.alarms.push(Reverse((until, number)));
                return;
            }
            Ok(Turn::Waits) if now - client.born < PATIENCE => return,
            Ok(Turn::Waits) => {
                let (words, kind) = (client.behaviour.words(), client.kind.name());
                self.done.wronged.push(format!(
                    "the {kind} server has forgotten a client to {words:?}"
                ));
            }
            Ok(Turn::Ended) => {
                if let Err(why) = client.check(late) {
                    self.done.wronged.push(why);
                }
            }
            Err(error) => self.done.wronged.push(format!("cannot connect: {error}")),
        }
        if client.has_connected() {
            let who = (client.behaviour.words(), client.kind.name());
            *self.done.connected.entry(who).or_default() += 1;
            *self.done.late.entry(who).or_default() += u64::from(late);
        }
        place.client = None;
        place.next = now + Duration::from_millis(place.rng.u64(..100));
        if place.next < self.until {
            self.alarms.push(Reverse((place.next, number)));
        }
    }
}

impl Place {
    fn welcome(
        &mut self,
        poll: &Poll,
        number: usize,
        behaviours: &[Behaviour],
        kinds: &[Kind],
        servers: &[SocketAddr; KINDS.len()],
    ) -> io::Result<Client> {
        let behaviour = behaviours[self.rng.usize(..behaviours.len())];
        let kind = kinds[self.rng.usize(..kinds.len())];
        let script = behaviour.script(kind, &mut self.rng);
        self.past += 1;
        let from = SocketAddr::new(behaviour.address(self.past).into(), 0);
        let client = Client::start(behaviour, kind, script, from, servers[kind.server()])?;
        let fd = client.socket.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut SourceFd(&fd), Token(number), interest)?;
        Ok(client)
    }
}
