mod channel;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::channel::{Channel, Failed, Received, Target};
use self::wire::{Args, Reader};
use super::BackendStats;
use super::pool::{Dial, Failure, Pool};
use super::stream::Server;
use crate::cluster::Error;
use crate::engine::connect::{Backoff, Reconnect};
use crate::tls::TlsClient;

/// A RabbitMQ server, or the servers of a cluster. Clones share the connections.
///
/// It speaks AMQP 0-9-1. Messages go through a topic exchange.
#[derive(Clone)]
pub struct RabbitMq(Arc<Shared>);

/// Sets up a [`RabbitMq`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct RabbitMqBuilder {
    servers: Vec<String>,
    user: (String, String),
    vhost: String,
    exchange: String,
    group: Option<String>,
    connections: usize,
    timeout: Duration,
    tls: Option<TlsClient>,
}

struct Shared {
    publishers: Pool<Publishers>,
    common: Arc<Common>,
}

struct Common {
    target: Target,
    exchange: String,
    group: Option<String>,
}

/// The connections for publishing, one message at a time on each.
struct Publishers(Arc<Common>);

/// A message that was received.
pub(in crate::cluster) struct Delivery {
    tag: u64,
    acks: SyncSender<u64>,
}

/// A subscription. Its drop ends it.
pub(in crate::cluster) struct RabbitMqSubscription(Arc<Subscribed>);

/// The state of a subscription.
#[derive(Default)]
struct Subscribed {
    is_over: AtomicBool,
    /// The problem, while there is no connection.
    lost: Mutex<Option<String>>,
}

const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;
/// The seconds between two signs of life of a subscription.
const HEARTBEAT: u16 = 5;
/// A subscription whose server is silent for longer is lost.
const SILENCE: Duration = Duration::from_secs(10);
/// Acknowledgements, and the end of a subscription, wait for at most this time.
const TURN: Duration = Duration::from_millis(20);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

impl RabbitMq {
    /// Returns the server at `HOST:PORT`, for the user `guest`. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// As [`RabbitMqBuilder::build`].
    pub fn open(server: &str) -> Result<Self, Error> {
        Self::builder().server(server).build()
    }

    /// Returns a builder.
    pub fn builder() -> RabbitMqBuilder {
        RabbitMqBuilder {
            servers: Vec::new(),
            user: ("guest".to_owned(), "guest".to_owned()),
            vhost: "/".to_owned(),
            exchange: "due.eventbus".to_owned(),
            group: None,
            connections: 4,
            timeout: Duration::from_secs(3),
            tls: None,
        }
    }

    /// Returns its state, as calls and subscriptions know it. The connections are those for publishing.
    pub fn stats(&self) -> BackendStats {
        self.0.publishers.stats()
    }

    /// Publishes a message, and waits until the server has it.
    pub(in crate::cluster) fn publish(&self, key: &str, body: &[u8]) -> Result<(), Error> {
        check("topic", key)?;
        let exchange = &self.0.common.exchange;
        self.0.publishers.run(|channel| {
            // The channel of a refused message is closed.
            channel
                .publish(exchange, key, body)
                .map_err(|failed| Failure::Connection(failed.problem()))
        })
    }

    /// Calls `deliver` with each message of a topic, on a thread of the subscription. `prefetch` is the most messages that the server
    /// sends before the first of them is acknowledged.
    pub(in crate::cluster) fn subscribe(
        &self,
        key: &str,
        prefetch: u16,
        deliver: impl Fn(&[u8], Delivery) + Send + 'static,
    ) -> Result<RabbitMqSubscription, Error> {
        let shared = self.0.clone();
        check("topic", &shared.common.queue(key))?;
        let first = shared.common.consume(key, prefetch);
        let first = first.map_err(|failed| {
            shared.note_loss(&failed);
            Error::backend(Publishers::BACKEND, failed.problem())
        })?;
        let subscribed = Arc::new(Subscribed::default());
        let (own, key) = (subscribed.clone(), key.to_owned());
        thread::Builder::new()
            .name("epicycle-rabbit".to_owned())
            .spawn(move || shared.follow(&key, prefetch, first, &own, &deliver))
            .map_err(|error| {
                let problem = format!("no thread for a subscription: {error}");
                Error::backend(Publishers::BACKEND, problem)
            })?;
        Ok(RabbitMqSubscription(subscribed))
    }
}

impl Common {
    fn declare(&self, channel: &mut Channel) -> Result<(), Failed> {
        // Durable.
        let declare = Args::of(wire::DECLARE_EXCHANGE).short(0);
        let declare = declare.text(&self.exchange).text("topic").byte(2).long(0);
        channel.call(declare, wire::DECLARE_EXCHANGE_OK).map(drop)
    }

    /// Returns the name of the queue of a topic, or nothing if the server names it.
    fn queue(&self, key: &str) -> String {
        match &self.group {
            Some(group) => format!("{}.{group}.{key}", self.exchange),
            None => String::new(),
        }
    }

    /// Returns a channel on which the messages of a topic come.
    fn consume(&self, key: &str, prefetch: u16) -> Result<Channel, Failed> {
        let mut channel = Channel::dial(&self.target, HEARTBEAT)?;
        self.declare(&mut channel)?;
        // Durable; or named by the server, exclusive, and deleted at the end.
        let flags = if self.group.is_some() { 2 } else { 4 | 8 };
        let declare = Args::of(wire::DECLARE_QUEUE)
            .short(0)
            .text(&self.queue(key));
        let declared = channel.call(declare.byte(flags).long(0), wire::DECLARE_QUEUE_OK)?;
        let queue = Reader(&declared).text();
        let queue = queue.ok_or_else(|| Failed::Lost("a queue without a name".to_owned()))?;
        let bind = Args::of(wire::BIND_QUEUE).short(0).text(&queue);
        let bind = bind.text(&self.exchange).text(key).byte(0).long(0);
        channel.call(bind, wire::BIND_QUEUE_OK)?;
        let qos = Args::of(wire::QOS).long(0).short(prefetch).byte(0);
        channel.call(qos, wire::QOS_OK)?;
        let consume = Args::of(wire::CONSUME).short(0).text(&queue).text("");
        channel.call(consume.byte(0).long(0), wire::CONSUME_OK)?;
        Ok(channel)
    }
}

impl Shared {
    /// Receives messages, on a new connection whenever the last one was lost.
    fn follow(
        &self,
        key: &str,
        prefetch: u16,
        first: Channel,
        subscribed: &Subscribed,
        deliver: &impl Fn(&[u8], Delivery),
    ) {
        let mut channel = Some(first);
        let policy = Reconnect::new(FIRST_DELAY, LONGEST_DELAY);
        let mut backoff = Backoff::default();
        while !subscribed.is_over() {
            let opened = match channel.take() {
                Some(channel) => Ok(channel),
                None => self.common.consume(key, prefetch),
            };
            let began = Instant::now();
            let received = opened.and_then(|opened| {
                if subscribed.lost.lock().take().is_some() {
                    log::info!(target: "epicycle::cluster", "RabbitMQ: messages of {key} come again");
                }
                self.receive(opened, prefetch, subscribed, deliver)
            });
            let Err(failed) = received else {
                return;
            };
            self.note_loss(&failed);
            let failed = failed.problem();
            let before = subscribed.lost.lock().replace(failed.clone());
            if before.is_none() {
                log::warn!(target: "epicycle::cluster", "RabbitMQ: no messages of {key}: {failed}");
            }
            let until = Instant::now() + backoff.after_connection(began.elapsed(), &policy);
            while Instant::now() < until && !subscribed.is_over() {
                thread::sleep(TURN);
            }
        }
    }

    /// Receives messages until the connection is lost, or the subscription over.
    fn receive(
        &self,
        mut channel: Channel,
        prefetch: u16,
        subscribed: &Subscribed,
        deliver: &impl Fn(&[u8], Delivery),
    ) -> Result<(), Failed> {
        let (acks, waiting) = mpsc::sync_channel(prefetch.into());
        let (mut heard, mut said) = (Instant::now(), Instant::now());
        self.publishers.health().answered();
        while !subscribed.is_over() {
            let heard_something = match channel.receive(TURN)? {
                Received::Message { tag, body } => {
                    let acks = acks.clone();
                    deliver(&body, Delivery { tag, acks });
                    true
                }
                Received::Other => true,
                Received::Nothing => false,
            };
            if heard_something {
                heard = Instant::now();
                self.publishers.health().answered();
            } else if heard.elapsed() > SILENCE {
                return Err(Failed::Lost("it is silent".to_owned()));
            }
            if acknowledge(&mut channel, &waiting)? {
                said = Instant::now();
            } else if said.elapsed() > Duration::from_secs(HEARTBEAT.into()) / 2 {
                channel.send_heartbeat()?;
                said = Instant::now();
            }
        }
        acknowledge(&mut channel, &waiting).map(drop)
    }

    /// Notes that the connection of a subscription was lost. One on which the server has refused something was not.
    fn note_loss(&self, failed: &Failed) {
        if let Failed::Lost(problem) = failed {
            self.publishers.health().lost(problem);
        }
    }
}

impl Subscribed {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// Returns true if there was something to acknowledge.
fn acknowledge(channel: &mut Channel, waiting: &Receiver<u64>) -> Result<bool, Failed> {
    let mut has_any = false;
    for tag in waiting.try_iter() {
        has_any = true;
        channel.send_to_channel(Args::of(wire::ACK).long_long(tag).byte(0))?;
    }
    Ok(has_any)
}

impl Delivery {
    /// Tells the server that the message was handled.
    pub(in crate::cluster) fn acknowledge(&self) {
        // If the connection is lost, the server sends it again. No more wait than were sent.
        let _ = self.acks.try_send(self.tag);
    }
}

impl RabbitMqSubscription {
    /// Returns an error if the server is lost.
    pub(in crate::cluster) fn confirm(&self) -> Result<(), Error> {
        match &*self.0.lost.lock() {
            Some(problem) => Err(Error::backend(Publishers::BACKEND, problem.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for RabbitMqSubscription {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Dial for Publishers {
    type Connection = Channel;

    const BACKEND: &'static str = "rabbitmq";

    fn dial(&self) -> Result<Channel, String> {
        let dial = || {
            let mut channel = Channel::dial(&self.0.target, 0)?;
            self.0.declare(&mut channel)?;
            channel.call(Args::of(wire::CONFIRM).byte(0), wire::CONFIRM_OK)?;
            Ok(channel)
        };
        dial().map_err(Failed::problem)
    }

    fn is_alive(&self, channel: &mut Channel) -> bool {
        self.0.declare(channel).is_ok()
    }
}

/// A name in the protocol has at most 255 bytes.
fn check(name: &'static str, text: &str) -> Result<(), Error> {
    if text.len() > 255 {
        let problem = format!("{} bytes, where AMQP allows 255", text.len());
        return Err(Error::argument(name, problem));
    }
    Ok(())
}

impl RabbitMqBuilder {
    /// Adds a server, as `HOST` or `HOST:PORT`. If one is lost, the next one is dialled.
    pub fn server(mut self, address: impl Into<String>) -> Self {
        self.servers.push(address.into());
        self
    }

    /// Sets the user. The default is `guest` with the password `guest`, which a server allows only from its own machine.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = (name.into(), password.into());
        self
    }

    /// Sets the virtual host. The default is `/`.
    pub fn vhost(mut self, name: impl Into<String>) -> Self {
        self.vhost = name.into();
        self
    }

    /// Sets the topic exchange, which is declared as durable. The default is that of due, `due.eventbus`.
    pub fn exchange(mut self, name: impl Into<String>) -> Self {
        self.exchange = name.into();
        self
    }

    /// Has each subscription read a durable queue, `EXCHANGE.GROUP.TOPIC`: what is published while this process is away is delivered
    /// when it is back. Each process needs a group of its own, such as the id of its server. Without a group, the queue ends with the
    /// connection.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Sets the maximum number of connections for publishing. Calls of more threads wait. The default is 4.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the time that a call may take: to wait for a connection, to dial, and to get an answer, each. The default is 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has the connections use TLS, by default to port 5671. The default is none.
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Returns the backend. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no server, one is not `HOST:PORT`, a name is longer than 255 bytes, or the timeout
    /// is below 1 ms or above an hour.
    pub fn build(self) -> Result<RabbitMq, Error> {
        super::check_timeout(self.timeout)?;
        check("vhost", &self.vhost)?;
        check("exchange", &self.exchange)?;
        check("group", self.group.as_deref().unwrap_or_default())?;
        let port = if self.tls.is_some() { TLS_PORT } else { PORT };
        let servers = self.servers.iter().map(|address| {
            Server::parse(address, port)
                .ok_or_else(|| Error::argument("server", format!("{address:?} is not HOST:PORT")))
        });
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            let problem = "there is none; give one, such as 127.0.0.1:5672";
            return Err(Error::argument("server", problem));
        }
        let (connections, timeout) = (self.connections, self.timeout);
        let (user, password) = self.user;
        let common = Arc::new(Common {
            target: Target {
                servers,
                user,
                password,
                vhost: self.vhost,
                timeout,
                tls: self.tls,
            },
            exchange: self.exchange,
            group: self.group,
        });
        let publishers = Pool::new(Publishers(common.clone()), connections, timeout);
        Ok(RabbitMq(Arc::new(Shared { publishers, common })))
    }
}

impl fmt::Debug for RabbitMqBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqBuilder")
            .field("servers", &self.servers)
            .field("vhost", &self.vhost)
            .field("exchange", &self.exchange)
            .field("group", &self.group)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Reads what a server has sent on a channel, up to the end or a fault. Returns the messages. For fuzzing.
#[cfg(feature = "internals")]
pub fn amqp_messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut channel = Channel::over(super::stream::Recorded(bytes));
    let mut messages = Vec::new();
    while let Ok(received) = channel.receive(TURN) {
        if let Received::Message { body, .. } = received {
            messages.push(body);
        }
    }
    messages
}
