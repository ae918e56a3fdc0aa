use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use super::calls::Calls;
use super::queue::Queue;
use super::{Identity, LaneEvent, LaneOptions, LaneStats};
use crate::cluster::Error;
use crate::cluster::drpc::{
    Answer, Code, Frame, Hello, Incoming, LinkHeartbeat, MAC, NONCE, Op, Party, Request, Role,
    Secret, VERSION, Value,
};

/// The dialler's side of one connection to a peer. It outlives the connection: the next one goes on with what waits.
///
/// It keeps the order of the frames, and sends each at most once. `T` is the token of a caller, which comes back exactly once: from
/// [`cancel`](Self::cancel), with a refused [`call`](Self::call), or in a [`LaneEvent::Answered`].
///
/// The owner writes [`take_output`](Self::take_output) to the connection after each call of a method.
pub struct Lane<T> {
    ours: Identity,
    theirs: Identity,
    secret: Option<Secret>,
    options: LaneOptions,
    phase: Phase,
    calls: Calls<T>,
    queue: Queue,
    output: Vec<u8>,
    next_seq: u64,
    next_heartbeat: Duration,
    stats: LaneStats,
}

enum Phase {
    /// There is no connection.
    Down,
    /// The peer has not answered everything of the opening.
    Opening(Opening),
    /// The peer is known. One of due does not know the extensions.
    Up { extensions: bool },
    /// The peer takes no more. It still answers what was asked, and a Ping.
    Leaving,
}

struct Opening {
    deadline: Duration,
    nonce: [u8; NONCE],
    greeted: bool,
    /// The peer's answer to Hello, if it knows the extensions.
    hello: Option<Option<[u8; MAC]>>,
    /// The state of the peer, if it told one.
    state: Option<u8>,
    /// True once GetState has been answered.
    told: bool,
    /// True once the peer has said Bye.
    leaves: bool,
}

/// The largest buffer for output that is kept, in bytes.
const KEPT_OUTPUT: usize = 256 << 10;

/// The numbers of the opening's requests. Calls have higher ones.
const HANDSHAKE: u64 = 1;
const HELLO: u64 = 2;
const GET_STATE: u64 = 3;
const PROVE: u64 = 4;
const FIRST_CALL: u64 = 16;

impl<T> Lane<T> {
    /// Returns a lane without a connection.
    pub fn new(
        ours: Identity,
        theirs: Identity,
        secret: Option<Secret>,
        options: LaneOptions,
    ) -> Self {
        Self {
            ours,
            theirs,
            secret,
            phase: Phase::Down,
            calls: Calls::new(options.max_calls),
            queue: Queue::new(options.queue_bytes, options.queue_time),
            output: Vec::new(),
            next_seq: FIRST_CALL,
            next_heartbeat: Duration::ZERO,
            stats: LaneStats::default(),
            options,
        }
    }

    /// Begins on a new connection. `nonce` must never have been used before.
    ///
    /// Without a secret, the frames that wait follow the opening at once. With one, they follow the peer's proof.
    pub fn connected(&mut self, now: Duration, nonce: [u8; NONCE]) {
        self.output.clear();
        self.phase = Phase::Opening(Opening {
            deadline: now.saturating_add(self.options.handshake_timeout),
            nonce,
            greeted: false,
            hello: None,
            state: None,
            told: false,
            leaves: false,
        });
        self.next_heartbeat = now.saturating_add(self.options.heartbeat);
        let hello = Hello {
            version: VERSION,
            features: 0,
            nonce,
        };
        let handshake = Request::Handshake {
            kind: self.ours.kind.code(),
            id: &self.ours.id,
        };
        let opening = [
            (HANDSHAKE, handshake),
            (HELLO, Request::Hello(hello)),
            (GET_STATE, Request::GetState),
        ];
        for (seq, request) in opening {
            // Only an id of 16 MiB could be refused; then the peer's silence ends the link.
            let _ = request.encode_into(seq, &mut self.output);
        }
        if self.secret.is_none() {
            self.flush(None);
        }
    }

    /// Ends the connection. The calls that were sent on it fail; the frames that wait go on the next one.
    pub fn disconnected(&mut self, events: &mut impl FnMut(LaneEvent<'_, T>)) {
        self.phase = Phase::Down;
        self.output.clear();
        let queued: HashSet<u64> = self.queue.seqs().collect();
        for token in self.calls.take_if(|seq| !queued.contains(&seq)) {
            let peer = self.theirs.id.clone();
            let result = Err(Error::LinkDown { peer });
            events(LaneEvent::Answered { token, result });
        }
    }

    /// Sends a request without an answer. [`Request::GetAddr`] waits until the peer is known, and one of due is asked
    /// [`Request::GetIp`] in its place. `backlog` is the number of bytes that the connection has not sent yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if there is no room, [`Error::Draining`] if the peer takes no more, and the error of
    /// [`Request::encode_into`]. Nothing is sent then.
    pub fn send(
        &mut self,
        request: &Request<'_>,
        now: Duration,
        backlog: usize,
    ) -> Result<(), Error> {
        self.transmit(request, 0, now, backlog)
    }

    /// Sends a request whose answer is passed to [`LaneEvent::Answered`] with `token`. Returns its number, for
    /// [`cancel`](Self::cancel).
    ///
    /// A gate of due answers a [`Request::Publish`] that nobody got with a frame that is shorter than its size, after which the link cannot
    /// be read. So it is told to publish without an answer, and asked for its state: the answer is one to [`Request::GetState`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`Error::Busy`] if too many calls wait. The token is given back.
    pub fn call(
        &mut self,
        request: &Request<'_>,
        token: T,
        now: Duration,
        backlog: usize,
    ) -> Result<u64, (T, Error)> {
        if self.calls.is_full() {
            self.stats.refused += 1;
            let what = "table of calls to a server";
            return Err((token, Error::Busy { what }));
        }
        let seq = self.next_seq;
        if let Err(error) = self.transmit(request, seq, now, backlog) {
            return Err((token, error));
        }
        self.next_seq += 1;
        let deadline = now.saturating_add(self.options.call_timeout);
        self.calls.insert(seq, token, deadline);
        Ok(seq)
    }

    /// Forgets a call. Its answer will be dropped. Returns `None` if it has ended.
    pub fn cancel(&mut self, seq: u64) -> Option<T> {
        self.calls.remove(seq)
    }

    /// Takes a frame of the peer.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unauthorized`] if the peer does not prove that it has the secret, [`Error::Refused`] if it does not accept
    /// this side, and [`Error::InvalidMessage`] if its opening cannot be read. Close the connection then.
    pub fn receive(
        &mut self,
        frame: Incoming<'_>,
        events: &mut impl FnMut(LaneEvent<'_, T>),
    ) -> Result<(), Error> {
        let Incoming::Frame(frame) = frame else {
            return Ok(());
        };
        // Whoever has not proved that it has the secret has nothing to say yet.
        if self.secret.is_some()
            && matches!(self.phase, Phase::Opening(_))
            && !(1..FIRST_CALL).contains(&frame.seq)
        {
            return Err(Error::secrets_differ());
        }
        match frame.seq {
            0 => self.receive_notice(&frame, events),
            1..FIRST_CALL => self.receive_opening(&frame, events)?,
            seq => match self.calls.remove(seq) {
                None => self.stats.late += 1,
                Some(token) => {
                    let result = Answer::decode(&frame);
                    self.stats.malformed += u64::from(result.is_err());
                    events(LaneEvent::Answered { token, result });
                }
            },
        }
        Ok(())
    }

    /// Does what is due at this time: heartbeats, and the end of what has waited for too long. Returns the time of the next call.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Timeout`] if the peer has not answered the opening in time. Close the connection then.
    pub fn tick(
        &mut self,
        now: Duration,
        events: &mut impl FnMut(LaneEvent<'_, T>),
    ) -> Result<Option<Duration>, Error> {
        let (mut frames, mut bytes) = (0, 0);
        while let Some(queued) = self.queue.pop_expired(now) {
            if let Some(token) = self.calls.remove(queued.seq) {
                let peer = self.theirs.id.clone();
                let result = Err(Error::LinkDown { peer });
                events(LaneEvent::Answered { token, result });
            }
            (frames, bytes) = (frames + 1, bytes + queued.frame.len() as u64);
        }
        if frames > 0 {
            self.stats.given_up += frames;
            events(LaneEvent::GaveUp { frames, bytes });
        }
        while let Some(token) = self.calls.pop_expired(now) {
            self.stats.timeouts += 1;
            let result = Err(Error::Timeout {
                what: "a call to a server".into(),
                after: self.options.call_timeout,
            });
            events(LaneEvent::Answered { token, result });
        }
        if let Phase::Opening(opening) = &self.phase
            && opening.deadline <= now
        {
            return Err(Error::Timeout {
                what: "the opening of a link".into(),
                after: self.options.handshake_timeout,
            });
        }
        if !matches!(self.phase, Phase::Down) && self.next_heartbeat <= now {
            // A lane with little to send does not keep the buffer of a busy hour.
            self.output.shrink_to_fit();
            self.output.extend_from_slice(LinkHeartbeat.as_bytes());
            self.next_heartbeat = now.saturating_add(self.options.heartbeat);
        }
        Ok(self.next_tick())
    }

    /// Returns the time at which [`tick`](Self::tick) has something to do.
    pub fn next_tick(&self) -> Option<Duration> {
        let opening = match &self.phase {
            Phase::Opening(opening) => Some(opening.deadline),
            _ => None,
        };
        let is_down = matches!(self.phase, Phase::Down);
        let heartbeat = (!is_down).then_some(self.next_heartbeat);
        let (calls, queue) = (self.calls.deadline(), self.queue.deadline());
        let all = [calls, queue, opening, heartbeat];
        all.into_iter().flatten().min()
    }

    /// Returns the bytes to write to the connection.
    #[must_use = "they are not kept"]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Passes the bytes to write to the connection to `write`, and keeps their buffer for the next ones.
    pub(in crate::cluster) fn write_output(&mut self, write: impl FnOnce(&[u8])) {
        if !self.output.is_empty() {
            write(&self.output);
            self.output.clear();
            self.output.shrink_to(KEPT_OUTPUT);
        }
    }

    /// Returns the number of bytes to write to the connection.
    pub(in crate::cluster) fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Returns true if more waits for the peer than what may wait, divided by 2 to the power of `shift`. `backlog` is the number of
    /// bytes that the connection has not sent yet.
    #[inline]
    pub(in crate::cluster) fn exceeds(&self, shift: u32, backlog: usize) -> bool {
        let LaneOptions {
            max_backlog,
            queue_bytes,
            ..
        } = self.options;
        backlog + self.output.len() > max_backlog >> shift
            || self.queue.bytes() > queue_bytes >> shift
    }

    /// Returns true if the peer is known and takes requests.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    pub(in crate::cluster) fn max_backlog(&self) -> usize {
        self.options.max_backlog
    }

    pub(in crate::cluster) fn handshake_timeout(&self) -> Duration {
        self.options.handshake_timeout
    }

    /// Returns the counters.
    pub fn stats(&self) -> LaneStats {
        LaneStats {
            calls: self.calls.len() as u64,
            queued_bytes: self.queue.bytes() as u64,
            ..self.stats
        }
    }

    fn transmit(
        &mut self,
        request: &Request<'_>,
        seq: u64,
        now: Duration,
        backlog: usize,
    ) -> Result<(), Error> {
        let leaves = match &self.phase {
            Phase::Opening(opening) => opening.leaves,
            phase => matches!(phase, Phase::Leaving),
        };
        if leaves && *request != Request::Ping {
            return Err(Error::Draining);
        }
        let goes_on = match &self.phase {
            Phase::Down => false,
            // It is not known yet how the peer understands this one.
            Phase::Opening(_) => {
                self.secret.is_none()
                    && !needs_extensions(request.op())
                    && !(seq != 0 && request.op() == Op::Publish)
            }
            Phase::Up { .. } | Phase::Leaving => true,
        };
        let request = match (request, &self.phase) {
            (Request::GetAddr { target }, Phase::Up { extensions: false }) => {
                &Request::GetIp { target: *target }
            }
            (request, Phase::Up { extensions: false }) if needs_extensions(request.op()) => {
                let reason = "a server of due does not know that".to_owned();
                return Err(Error::Refused { reason });
            }
            (request, _) => request,
        };
        if goes_on {
            if backlog + self.output.len() > self.options.max_backlog {
                return Err(self.full("output to a server"));
            }
            if seq != 0
                && request.op() == Op::Publish
                && matches!(self.phase, Phase::Up { extensions: false })
            {
                request.encode_into(0, &mut self.output)?;
                Request::GetState.encode_into(seq, &mut self.output)?;
            } else {
                request.encode_into(seq, &mut self.output)?;
            }
            self.stats.sent += 1;
            return Ok(());
        }
        let mut frame = Vec::new();
        request.encode_into(seq, &mut frame)?;
        if self.queue.push(frame, seq, now) {
            Ok(())
        } else {
            Err(self.full("queue of a link without a connection"))
        }
    }

    fn full(&mut self, what: &'static str) -> Error {
        self.stats.refused += 1;
        Error::Busy { what }
    }

    /// Writes the frames that wait. Calls that have ended meanwhile are left out. Until it is known whether the peer knows the
    /// extensions, what depends on that waits on.
    fn flush(&mut self, extensions: Option<bool>) {
        let mut waiting = Vec::new();
        while let Some(mut queued) = self.queue.pop() {
            if queued.seq != 0 && !self.calls.contains(queued.seq) {
                continue;
            }
            if Op::from_code(queued.op()).is_some_and(needs_extensions) {
                match extensions {
                    None => {
                        waiting.push(queued);
                        continue;
                    }
                    Some(true) => {}
                    // The bodies are alike.
                    Some(false) if queued.op() == Op::GetAddr.code() => {
                        queued.set_op(Op::GetIp.code());
                    }
                    Some(false) => continue,
                }
            }
            if queued.seq != 0 && queued.op() == Op::Publish.code() {
                match extensions {
                    None => {
                        waiting.push(queued);
                        continue;
                    }
                    Some(true) => {}
                    Some(false) => {
                        queued.forget_seq();
                        self.output.extend_from_slice(&queued.frame);
                        // Always fits.
                        let _ = Request::GetState.encode_into(queued.seq, &mut self.output);
                        self.stats.sent += 1;
                        continue;
                    }
                }
            }
            self.output.extend_from_slice(&queued.frame);
            self.stats.sent += 1;
        }
        self.queue.put_back(waiting);
    }

    /// Takes a frame that answers nothing.
    fn receive_notice(&mut self, frame: &Frame<'_>, events: &mut impl FnMut(LaneEvent<'_, T>)) {
        match Request::decode(frame) {
            Ok(Request::Bye) => match &mut self.phase {
                // The kind of the peer comes first, so that its owner knows how to treat what was sent to it.
                Phase::Opening(opening) => opening.leaves = true,
                _ => self.leave(events),
            },
            Ok(Request::Reject {
                cid,
                route,
                seq,
                reason,
            }) => events(LaneEvent::Rejected {
                cid,
                route,
                seq,
                reason,
            }),
            _ => self.stats.malformed += 1,
        }
    }

    /// Takes an answer of the opening.
    fn receive_opening(
        &mut self,
        frame: &Frame<'_>,
        events: &mut impl FnMut(LaneEvent<'_, T>),
    ) -> Result<(), Error> {
        let Phase::Opening(opening) = &mut self.phase else {
            self.stats.late += 1;
            return Ok(());
        };
        let answer = Answer::decode(frame)?;
        match (frame.seq, answer.value) {
            (HANDSHAKE, _) if answer.code == Code::Done => opening.greeted = true,
            (HELLO, Value::Hello(hello, mac)) if answer.code == Code::Done => {
                opening.hello = Some(mac);
                let nonce = opening.nonce;
                self.prove(nonce, hello, mac)?;
            }
            (GET_STATE, Value::State(state)) => {
                opening.told = true;
                opening.state = (answer.code == Code::Done).then_some(state);
            }
            (PROVE, _) if answer.code == Code::Done => return self.enter(true, events),
            (PROVE, _) => return Err(Error::secrets_differ()),
            (HANDSHAKE | HELLO, _) => {
                let reason = format!("{} does not accept the opening of a link", self.theirs.id);
                return Err(Error::Refused { reason });
            }
            _ => self.stats.malformed += 1,
        }
        self.consider(events)
    }

    /// Sends the proof, if there is a secret and the peer has proved that it has it.
    fn prove(
        &mut self,
        nonce: [u8; NONCE],
        hello: Hello,
        mac: Option<[u8; MAC]>,
    ) -> Result<(), Error> {
        let Some(secret) = &self.secret else {
            return Ok(());
        };
        let dialler = Party {
            kind: self.ours.kind.code(),
            id: &self.ours.id,
            nonce,
        };
        let listener = Party {
            kind: self.theirs.kind.code(),
            id: &self.theirs.id,
            nonce: hello.nonce,
        };
        let proved = |mac| secret.verify(&mac, Role::Listener, &dialler, &listener);
        if !mac.is_some_and(proved) {
            return Err(Error::secrets_differ());
        }
        let mac = secret.mac(Role::Dialler, &dialler, &listener);
        Request::Prove { mac }.encode_into(PROVE, &mut self.output)
    }

    /// Enters the phase that the answers so far allow.
    fn consider(&mut self, events: &mut impl FnMut(LaneEvent<'_, T>)) -> Result<(), Error> {
        let Phase::Opening(opening) = &self.phase else {
            return Ok(());
        };
        if !opening.greeted || !opening.told {
            return Ok(());
        }
        match (&self.secret, &opening.hello) {
            // A link is served in order, so that a peer which has not answered Hello by now does not know it.
            (None, None) => self.enter(false, events),
            (Some(_), None) => Err(Error::secrets_differ()),
            // The peer has a secret and refuses those that have none.
            (None, Some(Some(_))) if opening.state.is_none() => Err(Error::secrets_differ()),
            (None, Some(_)) => self.enter(true, events),
            // The answer to the proof is awaited.
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn enter(
        &mut self,
        extensions: bool,
        events: &mut impl FnMut(LaneEvent<'_, T>),
    ) -> Result<(), Error> {
        let up = Phase::Up { extensions };
        let (state, leaves) = match std::mem::replace(&mut self.phase, up) {
            Phase::Opening(opening) => (opening.state, opening.leaves),
            _ => (None, false),
        };
        self.flush(Some(extensions));
        events(LaneEvent::Up { extensions, state });
        if leaves {
            self.leave(events);
        }
        Ok(())
    }

    /// Sends the peer no more, and tells it so behind all that was sent: then it knows that nothing is under way.
    fn leave(&mut self, events: &mut impl FnMut(LaneEvent<'_, T>)) {
        if !matches!(self.phase, Phase::Leaving) {
            self.phase = Phase::Leaving;
            // It has no part that could be too long.
            let _ = Request::Bye.encode_into(0, &mut self.output);
            events(LaneEvent::Bye);
        }
    }
}

/// Returns true if a request must wait until the peer has told whether it knows the extensions.
fn needs_extensions(op: Op) -> bool {
    matches!(
        op,
        Op::GetAddr
            | Op::GetToken
            | Op::Take
            | Op::Leave
            | Op::GiveBack
            | Op::PassOn
            | Op::Collected
    )
}

impl<T> fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("ours", &self.ours)
            .field("theirs", &self.theirs)
            .field("up", &self.is_up())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
