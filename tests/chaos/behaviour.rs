//! The steps of hostile clients, and the close reasons that the server must report for them.

use std::net::Ipv4Addr;
use std::time::Duration;

use fastrand::Rng;

use super::garbage;
use super::kind::Kind;
use super::services::MAX_PAYLOAD;
use super::tls;

/// The behaviour of a hostile client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Connects, and closes at once.
    Passing,
    /// Connects, and sends nothing.
    Silent,
    /// Sends some valid messages, then begins one that it never completes.
    Stuck,
    /// Sends a message byte by byte, too slowly.
    Trickling,
    /// Reads its answers slowly, and not to the end.
    SlowReading,
    /// Sends as fast as it can, and reads nothing.
    Flooding,
    /// Resets the connection at any point.
    Resetting,
    /// Sends, ends its stream, and reads the rest.
    HalfClosing,
    /// Sends bytes that form no valid message.
    Garbage,
    /// Closes in the middle of a message.
    Vanishing,
    /// Requests much data, and closes before it arrives.
    Deaf,
    /// Connects from an address with more connections than allowed, and sends nothing.
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

/// One step of a client's script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends all of the bytes.
    Send(Vec<u8>),
    /// Sends a byte at a time, with a pause after each.
    Trickle(Vec<u8>, Duration),
    /// Sends the bytes repeatedly, until the server closes the connection or this number of bytes is sent. Reads nothing.
    Flood(Vec<u8>, usize),
    /// Reads this number of bytes.
    Read(usize),
    /// Reads a number of bytes, a number of times, with a pause after each.
    ReadSlowly(usize, usize, Duration),
    /// Reads until the server closes the connection.
    ReadToEnd,
    /// Ends its stream.
    Fin,
    Wait(Duration),
    /// Closes with a reset.
    Reset,
}

/// The input that a client must have received by the end.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Nothing,
    /// The answers to these payloads, or a beginning of them.
    Some(Vec<Vec<u8>>),
    /// The answers to these payloads and nothing else.
    All(Vec<Vec<u8>>),
    /// The answers to these payloads. After them, an HTTP server must send an error response.
    Refusal(Vec<Vec<u8>>),
}

/// The script of a client. It closes after the last step.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    pub(crate) check: Check,
    /// True if its socket has small buffers in both directions.
    pub(crate) cramped: bool,
}

impl Behaviour {
    /// Returns a description for the summary.
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

    /// Returns the address of the `n`th client of this behaviour. Its second number tells the server's process which behaviour
    /// it is. There are many addresses, so that none exceeds the limit on connections, except for the behaviour that tests it.
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

    /// Returns the name of a client's behaviour, by its address.
    pub(crate) fn at(address: Ipv4Addr) -> &'static str {
        match address.octets()[1] {
            0 => CONTROL,
            n => BEHAVIOURS
                .get(usize::from(n) - 1)
                .map_or("unknown", |behaviour| behaviour.words()),
        }
    }

    /// Returns the reasons for which a server may close the connection of such a client. The TLS server never opens one.
    pub(crate) fn ends(self, kind: Kind) -> &'static [&'static str] {
        match (self, kind) {
            // The client has not read all of the echo, so its close is a reset.
            (Behaviour::Vanishing, Kind::Echo) => &["Peer", "Reset"],
            (Behaviour::Passing | Behaviour::HalfClosing | Behaviour::Vanishing, _) => &["Peer"],
            (Behaviour::Silent | Behaviour::Crowding, _) => &["Timeout(Handshake)"],
            (Behaviour::Stuck, Kind::Echo) => &["Timeout(Idle)"],
            (Behaviour::Stuck, _) => &["Timeout(Read)"],
            (Behaviour::Trickling | Behaviour::Garbage, Kind::Echo) => &["Peer"],
            (Behaviour::Trickling, _) => &["Timeout(Handshake)"],
            (Behaviour::Garbage, _) => &["Frame"],
            (Behaviour::Flooding, _) => &["Timeout(WriteStall)"],
            // The kernel's buffers also affect the pace.
            (Behaviour::SlowReading, _) => &["Reset", "Timeout(WriteStall)"],
            (Behaviour::Resetting | Behaviour::Deaf, _) => &["Reset"],
        }
    }

    /// Returns a random script for such a client.
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
                // Not more than the kernel and the server accept before the client reads.
                let payloads: Vec<_> = (0..3).map(|n| vec![b'0' + n; MAX_PAYLOAD]).collect();
                steps.extend(payloads.iter().map(|some| Step::Send(kind.request(some))));
                let (times, pause) = (rng.usize(5..20), Duration::from_millis(50));
                steps.push(Step::ReadSlowly(1500, times, pause));
                script.check = Check::Some(payloads);
            }
            Behaviour::Flooding => {
                script.cramped = true;
                let request = kind.request(&payload(rng, MAX_PAYLOAD));
                let most = match kind {
                    // More than the gate's limit of rate. It drops the rest until the client has ended its stream.
                    #[cfg(feature = "cluster")]
                    Kind::Packets => 768 << 10,
                    _ => 4 << 20,
                };
                steps.push(Step::Flood(request, most));
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
                script.check = match kind {
                    // To a gate the end of its stream is the end of a client.
                    #[cfg(feature = "cluster")]
                    Kind::Packets => Check::Some(payloads),
                    _ => Check::All(payloads),
                };
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

/// The name of the control group.
pub(crate) const CONTROL: &str = "control group";

fn part_of_a_request(kind: Kind, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = kind.request(&vec![b'p'; 500]);
    bytes.truncate(rng.usize(1..bytes.len()));
    bytes
}
