//! The steps of hostile clients, and the close reasons that the server must report for them.

use std::net::Ipv4Addr;
use std::time::Duration;

use fastrand::Rng;

use super::garbage;
use super::kind::Kind;
use super::services::MAX_PAYLOAD;
use super::tls;

/// What a client is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Connects, and closes at once.
    Passing,
    /// Connects, and says nothing.
    Silent,
    /// Begins a message after some good ones, and never ends it.
    Stuck,
    /// Sends a message byte by byte, too slowly.
    Trickling,
    /// Reads its answers slowly, and not to the end.
    SlowReading,
    /// Sends as fast as it can, and reads nothing.
    Flooding,
    /// Ends with a reset, wherever it stands.
    Resetting,
    /// Sends, ends its stream, and reads the rest.
    HalfClosing,
    /// Sends what is no message.
    Garbage,
    /// Closes amid a message.
    Vanishing,
    /// Asks for much, and closes before it comes.
    Deaf,
    /// Connects from an address that has more connections than one may have, and says nothing.
    Crowding,
}

pub(crate) const BEHAVIOURS: [Behaviour; 12] = [
    Behaviour::Passing,
    Behaviour::Silent,
    Behaviour::Stuck,
    Behaviour::Trickling,
    Behaviour::SlowReading,
    Behaviour::Flooding,
    Behaviour::Resetting,
    Behaviour::HalfClosing,
    Behaviour::Garbage,
    Behaviour::Vanishing,
    Behaviour::Deaf,
    Behaviour::Crowding,
];

/// One thing that a client does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends all of it.
    Send(Vec<u8>),
    /// Sends a byte at a time, with a pause behind each.
    Trickle(Vec<u8>, Duration),
    /// Sends it over and over, until the server ends the connection or has let so many bytes pass. Reads nothing.
    Flood(Vec<u8>, usize),
    /// Reads so many bytes.
    Read(usize),
    /// Reads so many bytes at a time, so many times, with a pause behind each.
    ReadSlowly(usize, usize, Duration),
    /// Reads until the server ends the connection.
    ReadToEnd,
    /// Ends its stream.
    Fin,
    Wait(Duration),
    /// Closes with a reset.
    Reset,
}

/// What has to have come by the end.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Nothing,
    /// The answers to these payloads, or what there is of them so far.
    Some(Vec<Vec<u8>>),
    /// The answers to these payloads and nothing else.
    All(Vec<Vec<u8>>),
    /// The answers to these payloads; behind them an HTTP server has to say what is wrong.
    Refusal(Vec<Vec<u8>>),
}

/// A client's life. At the end of the steps it closes.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    pub(crate) check: Check,
    /// Whether its socket has little room, for what it sends and what it receives.
    pub(crate) cramped: bool,
}

impl Behaviour {
    /// In plain words, for the summary.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Behaviour::Passing => "connect and leave",
            Behaviour::Silent => "say nothing",
            Behaviour::Stuck => "stop amid a message",
            Behaviour::Trickling => "send byte by byte",
            Behaviour::SlowReading => "read slowly",
            Behaviour::Flooding => "flood and do not read",
            Behaviour::Resetting => "reset",
            Behaviour::HalfClosing => "half-close and read on",
            Behaviour::Garbage => "send garbage",
            Behaviour::Vanishing => "vanish amid a message",
            Behaviour::Deaf => "ask for much and leave",
            Behaviour::Crowding => "crowd from one address",
        }
    }

    /// The address that the `n`th client of this behaviour comes from: by its second number the server's process tells who
    /// it is. There are many, so that none has more connections than an address may have, but for those who want just that.
    pub(crate) fn address(self, n: usize) -> Ipv4Addr {
        let index = BEHAVIOURS.iter().position(|other| *other == self);
        let index = index.unwrap_or_default() as u8;
        let n = if self == Behaviour::Crowding {
            0
        } else {
            n % 64
        };
        Ipv4Addr::new(127, index + 1, 0, n as u8 + 1)
    }

    /// The name that the server's process gives to a client, by its address.
    pub(crate) fn at(address: Ipv4Addr) -> &'static str {
        match address.octets()[1] {
            0 => CONTROL,
            n => BEHAVIOURS
                .get(usize::from(n) - 1)
                .map_or("unknown", |behaviour| behaviour.words()),
        }
    }

    /// The reasons for which a server may close the connection of such a client. The TLS server opens none for it.
    pub(crate) fn ends(self, kind: Kind) -> &'static [&'static str] {
        match (self, kind) {
            // What it has not read of the echo makes a reset of its close.
            (Behaviour::Vanishing, Kind::Echo) => &["Peer", "Reset"],
            (Behaviour::Passing | Behaviour::HalfClosing | Behaviour::Vanishing, _) => &["Peer"],
            (Behaviour::Silent | Behaviour::Crowding, _) => &["Timeout(Handshake)"],
            (Behaviour::Stuck, Kind::Echo) => &["Timeout(Idle)"],
            (Behaviour::Stuck, _) => &["Timeout(Read)"],
            (Behaviour::Trickling | Behaviour::Garbage, Kind::Echo) => &["Peer"],
            (Behaviour::Trickling, _) => &["Timeout(Handshake)"],
            (Behaviour::Garbage, _) => &["Frame"],
            (Behaviour::Flooding, _) => &["Timeout(WriteStall)"],
            // How slow it is the kernel decides, too.
            (Behaviour::SlowReading, _) => &["Reset", "Timeout(WriteStall)"],
            (Behaviour::Resetting | Behaviour::Deaf, _) => &["Reset"],
        }
    }

    /// A life of such a client, as chance will have it.
    pub(crate) fn script(self, kind: Kind, rng: &mut Rng) -> Script {
        let payload = |rng: &mut Rng, most: usize| {
            let mut bytes = vec![0; rng.usize(1..=most)];
            rng.fill(&mut bytes);
            bytes
        };
        let mut script = Script {
            steps: Vec::new(),
            check: Check::Nothing,
            cramped: false,
        };
        if kind == Kind::Tls {
            script.steps = tls::steps(self, rng);
            return script;
        }
        let steps = &mut script.steps;
        match self {
            Behaviour::Passing => {}
            Behaviour::Silent | Behaviour::Crowding => steps.push(Step::ReadToEnd),
            Behaviour::Stuck => {
                let payloads: Vec<_> = (0..rng.usize(1..4)).map(|_| payload(rng, 2000)).collect();
                steps.extend(payloads.iter().map(|some| Step::Send(kind.request(some))));
                if kind != Kind::Echo {
                    steps.push(Step::Send(part_of_a_request(kind, rng)));
                }
                steps.push(Step::ReadToEnd);
                script.check = Check::Refusal(payloads);
            }
            Behaviour::Trickling if kind == Kind::Echo => {
                let payload = payload(rng, 50);
                steps.push(Step::Trickle(payload.clone(), Duration::from_millis(20)));
                steps.extend([Step::Fin, Step::ReadToEnd]);
                script.check = Check::All(vec![payload]);
            }
            Behaviour::Trickling => {
                let bytes = kind.request(&vec![b'x'; 1000]);
                let every = Duration::from_millis(rng.u64(20..60));
                steps.push(Step::Trickle(bytes, every));
            }
            Behaviour::SlowReading => {
                script.cramped = true;
                // No more than the kernel and the server take before it reads.
                let payloads: Vec<_> = (0..3).map(|n| vec![b'0' + n; MAX_PAYLOAD]).collect();
                steps.extend(payloads.iter().map(|some| Step::Send(kind.request(some))));
                let (times, pause) = (rng.usize(5..20), Duration::from_millis(50));
                steps.push(Step::ReadSlowly(1500, times, pause));
                script.check = Check::Some(payloads);
            }
            Behaviour::Flooding => {
                script.cramped = true;
                let request = kind.request(&payload(rng, MAX_PAYLOAD));
                steps.push(Step::Flood(request, 4 << 20));
            }
            Behaviour::Resetting => {
                match rng.u32(..3) {
                    0 => {}
                    1 => steps.push(Step::Send(kind.request(&payload(rng, MAX_PAYLOAD)))),
                    _ => steps.push(Step::Send(part_of_a_request(kind, rng))),
                }
                if rng.bool() {
                    steps.push(Step::Wait(Duration::from_millis(rng.u64(1..20))));
                }
                steps.push(Step::Reset);
            }
            Behaviour::HalfClosing => {
                script.cramped = rng.bool();
                let payloads: Vec<_> = (0..rng.usize(1..6)).map(|_| payload(rng, 8000)).collect();
                steps.extend(payloads.iter().map(|some| Step::Send(kind.request(some))));
                steps.extend([Step::Fin, Step::ReadToEnd]);
                script.check = Check::All(payloads);
            }
            Behaviour::Garbage if kind == Kind::Echo => {
                let payload = payload(rng, 20_000);
                steps.push(Step::Send(payload.clone()));
                steps.extend([Step::Read(payload.len()), Step::Fin, Step::ReadToEnd]);
                script.check = Check::All(vec![payload]);
            }
            Behaviour::Garbage => {
                steps.push(Step::Send(garbage::of(kind, rng)));
                steps.push(Step::ReadToEnd);
                script.check = Check::Refusal(Vec::new());
            }
            Behaviour::Vanishing => steps.push(Step::Send(part_of_a_request(kind, rng))),
            Behaviour::Deaf => {
                script.cramped = true;
                let request = kind.request(&vec![b'd'; MAX_PAYLOAD]);
                steps.extend((0..3).map(|_| Step::Send(request.clone())));
                steps.push(Step::Read(1));
            }
        }
        script
    }
}

/// What the group that behaves well is called.
pub(crate) const CONTROL: &str = "control group";

fn part_of_a_request(kind: Kind, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = kind.request(&vec![b'p'; 500]);
    bytes.truncate(rng.usize(1..bytes.len()));
    bytes
}
