use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::{Msg, PubSub, RedisError};

use super::Redis;
use super::servers::is_about_user;
use crate::cluster::{Error, new_uuid};
use crate::engine::connect::{Backoff, Reconnect};

/// Subscriptions to channels, on one connection and one thread. They are made again whenever the connection was lost.
pub(in crate::cluster) struct Subscriptions(Arc<Shared>);

/// Hears what comes. It is called on the thread of the subscriptions, which must not wait for long.
pub(in crate::cluster) trait Listener: Send + Sync + 'static {
    /// A message came.
    fn on_message(&self, channel: &str, payload: &[u8]);
    /// All channels are subscribed to. Before it, messages may have been missed.
    fn on_found(&self) {}
    /// The connection is lost, so that messages are missed.
    fn on_lost(&self) {}
}

struct Shared {
    redis: Redis,
    prefix: String,
    /// A channel of our own. A message in it makes the thread, which waits for messages, look at what is wanted.
    control: String,
    /// The channels without which the others are of no use.
    required: HashSet<String>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Channels, with the number of those who want them.
    wanted: HashMap<String, usize>,
    confirmed: HashSet<String>,
    /// A channel that is confirmed is no longer wanted.
    is_stale: bool,
    /// The channels that the server has refused, with its reasons.
    refused: HashMap<String, String>,
    /// The problem, while there is no connection.
    lost: Option<String>,
    is_over: bool,
}

/// A connection without messages is asked for a sign of life after this time.
const QUIET: Duration = Duration::from_secs(5);
/// A thread that cannot be woken looks this often at what is wanted.
const LATE: Duration = Duration::from_millis(200);
/// The time that the answer may take.
const PONG: Duration = Duration::from_secs(3);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

impl Subscriptions {
    /// Subscribes to channels, now and whenever the backend is found again. If one is refused, that is a loss. `prefix` begins the name of the channel by which the
    /// thread is woken.
    pub(in crate::cluster) fn start(
        redis: &Redis,
        prefix: &str,
        channels: impl IntoIterator<Item = String>,
        listener: impl Listener,
    ) -> Result<Self, Error> {
        let required: HashSet<_> = channels.into_iter().collect();
        let shared = Arc::new(Shared {
            redis: redis.clone(),
            prefix: prefix.to_owned(),
            control: format!("{prefix}:control:{}", new_uuid()),
            state: Mutex::new(State {
                wanted: required.iter().map(|name| (name.clone(), 1)).collect(),
                ..State::default()
            }),
            required,
            changed: Condvar::new(),
        });
        let own = shared.clone();
        thread::Builder::new()
            .name("epicycle-redis".to_owned())
            .spawn(move || own.run(&listener))
            .map_err(|error| {
                Error::backend("redis", format!("no thread for its subscriptions: {error}"))
            })?;
        Ok(Self(shared))
    }

    /// Subscribes to a channel, and waits until that is confirmed. Whoever does so calls [`remove`](Self::remove) later.
    pub(in crate::cluster) fn add(&self, channel: &str, timeout: Duration) -> Result<(), Error> {
        let shared = &*self.0;
        let mut state = shared.state.lock();
        *state.wanted.entry(channel.to_owned()).or_default() += 1;
        state.refused.remove(channel);
        drop(state);
        shared.wake();
        let confirmed = self.confirm(channel, timeout);
        if confirmed.is_err() {
            self.remove(channel);
        }
        confirmed
    }

    /// Waits until a channel is confirmed that was added.
    pub(in crate::cluster) fn confirm(
        &self,
        channel: &str,
        timeout: Duration,
    ) -> Result<(), Error> {
        let shared = &*self.0;
        let deadline = Instant::now() + timeout;
        let mut state = shared.state.lock();
        while !state.confirmed.contains(channel) {
            let refusal = state.refused.remove(channel);
            if let Some(problem) = refusal.or_else(|| state.lost.clone()) {
                return Err(Error::backend("redis", problem));
            }
            if shared.changed.wait_until(&mut state, deadline).timed_out() {
                let problem = self.0.redis.describe(&late());
                return Err(Error::backend("redis", problem));
            }
        }
        Ok(())
    }

    /// Ends a subscription, without waiting for Redis: it hears of that when the next message comes, or after some seconds.
    pub(in crate::cluster) fn remove(&self, channel: &str) {
        let mut state = self.0.state.lock();
        if let Some(users) = state.wanted.get_mut(channel) {
            *users -= 1;
            if *users == 0 {
                state.wanted.remove(channel);
                state.refused.remove(channel);
                state.is_stale = true;
            }
        }
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.0.state.lock().is_over = true;
        self.0.changed.notify_all();
        let shared = self.0.clone();
        // Without it, the thread of the subscriptions ends only when it looks whether Redis lives.
        let _ = thread::Builder::new()
            .name("epicycle-redis".to_owned())
            .spawn(move || shared.wake());
    }
}

impl Shared {
    fn wake(&self) {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.control).arg("");
        // If it fails, the thread looks when it has a connection again, or after some time.
        let _ = self.redis.query::<()>(&publish);
    }

    fn run(&self, listener: &impl Listener) {
        let policy = Reconnect::new(FIRST_DELAY, LONGEST_DELAY);
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let Err(error) = self.listen(listener) else {
                return;
            };
            let delay = backoff.after_connection(began.elapsed(), &policy);
            listener.on_lost();
            let mut state = self.state.lock();
            if state.is_over {
                return;
            }
            state.confirmed.clear();
            let problem = self.redis.describe(&error);
            if state.lost.is_none() {
                log::warn!(target: "epicycle::cluster", "Redis: no subscriptions below {}: {problem}", self.prefix);
            }
            state.lost = Some(problem);
            self.redis.note_loss(&error);
            self.changed.notify_all();
            self.changed.wait_for(&mut state, delay);
            if state.is_over {
                return;
            }
        }
    }

    /// Returns when the subscriptions are over, or the connection is lost.
    fn listen(&self, listener: &impl Listener) -> Result<(), RedisError> {
        let mut connection = self.redis.dial_for_subscriptions()?;
        let mut subscriptions = connection.as_pubsub();
        let refused = self.attempt([&*self.control])?;
        // While they are lost, the log has it already.
        let is_new = self.state.lock().lost.is_none();
        for problem in refused.values().filter(|_| is_new) {
            log::warn!(target: "epicycle::cluster", "Redis: subscriptions begin late, since the channel {} is refused: {problem}", self.control);
        }
        if refused.is_empty() {
            subscriptions.subscribe(&self.control)?;
        }
        self.follow(&mut subscriptions)?;
        if self.state.lock().lost.take().is_some() {
            log::info!(target: "epicycle::cluster", "Redis: subscriptions below {} are there again", self.prefix);
        }
        self.redis.note_answer();
        listener.on_found();
        let turn = if refused.is_empty() { QUIET } else { LATE };
        let result = self.receive(listener, &mut subscriptions, turn);
        if result.is_err() {
            listener.on_lost();
            // Its drop waits for an answer.
            let _ = subscriptions.set_read_timeout(Some(Duration::from_millis(1)));
        }
        result
    }

    fn receive(
        &self,
        listener: &impl Listener,
        subscriptions: &mut PubSub<'_>,
        turn: Duration,
    ) -> Result<(), RedisError> {
        let (mut followed, mut heard) = (Instant::now(), Instant::now());
        subscriptions.set_read_timeout(Some(turn))?;
        loop {
            let mut state = self.state.lock();
            if state.is_over {
                return Ok(());
            }
            let is_stale = std::mem::take(&mut state.is_stale);
            drop(state);
            if is_stale || followed.elapsed() >= turn {
                self.follow(subscriptions)?;
                followed = Instant::now();
            }
            match subscriptions.get_message() {
                Ok(message) if message.get_channel_name() == self.control => {
                    self.follow(subscriptions)?;
                }
                Ok(message) => {
                    heard = Instant::now();
                    self.redis.note_answer();
                    listener.on_message(message.get_channel_name(), message.get_payload_bytes());
                }
                Err(error) if error.is_timeout() && heard.elapsed() < QUIET => {}
                Err(error) if error.is_timeout() => {
                    subscriptions.set_read_timeout(Some(PONG))?;
                    subscriptions.ping::<redis::Value>()?;
                    subscriptions.set_read_timeout(Some(turn))?;
                    heard = Instant::now();
                    self.redis.note_answer();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Subscribes to what is wanted, and to nothing else.
    fn follow(&self, subscriptions: &mut PubSub<'_>) -> Result<(), RedisError> {
        let (new, old): (Vec<String>, Vec<String>) = {
            let mut state = self.state.lock();
            let (wanted, confirmed) = (&state.wanted, &state.confirmed);
            let new = wanted.keys().filter(|name| !confirmed.contains(*name));
            let old = confirmed.iter().filter(|name| !wanted.contains_key(*name));
            let (new, old): (_, Vec<_>) = (new.cloned().collect(), old.cloned().collect());
            // They are wanted again only by a subscription that begins after this.
            for channel in &old {
                state.confirmed.remove(channel);
            }
            (new, old)
        };
        for channel in old {
            subscriptions.unsubscribe(&channel)?;
        }
        if !new.is_empty() {
            let refused = self.attempt(new.iter().map(String::as_str))?;
            for channel in new {
                if !refused.contains_key(&channel) {
                    subscriptions.subscribe(&channel)?;
                    self.state.lock().confirmed.insert(channel);
                }
            }
            for (channel, problem) in &refused {
                if self.required.contains(channel) {
                    let what = "a subscription is refused";
                    return Err((redis::ErrorKind::Client, what, problem.clone()).into());
                }
                log::warn!(target: "epicycle::cluster", "Redis: no subscription to {channel}: {problem}");
            }
            self.state.lock().refused.extend(refused);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Subscribes on a connection of its own, and returns what the server refuses, with the reasons. [`PubSub`] does not tell them.
    fn attempt<'c>(
        &self,
        channels: impl IntoIterator<Item = &'c str>,
    ) -> Result<HashMap<String, String>, RedisError> {
        let mut connection = self.redis.dial_for_subscriptions()?;
        let mut refused = HashMap::new();
        for channel in channels {
            let mut subscribe = redis::cmd("SUBSCRIBE");
            subscribe.arg(channel);
            connection.send_packed_command(&subscribe.get_packed_command())?;
            let answer = loop {
                let answer = connection.recv_response()?;
                if Msg::from_value(&answer).is_none() {
                    break answer;
                }
            };
            if let Err(error) = answer.extract_error() {
                if is_about_user(&error) {
                    return Err(error);
                }
                refused.insert(channel.to_owned(), error.to_string());
            }
        }
        Ok(refused)
    }
}

/// Returns the error of an answer that does not come.
fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
