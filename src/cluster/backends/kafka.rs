use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::BackendStats;
use super::health::Health;
use crate::cluster::Error;

/// The brokers of a Kafka cluster, by librdkafka, which has threads of its own. Clones share the connections.
#[derive(Clone)]
pub struct Kafka(Arc<Shared>);

/// Sets up a [`Kafka`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct KafkaBuilder {
    brokers: Vec<String>,
    group: Option<String>,
    timeout: Duration,
    options: Vec<(String, String)>,
}

struct Shared {
    producer: ThreadedProducer<Context>,
    config: ClientConfig,
    has_group: bool,
    timeout: Duration,
    /// The time after which a subscription looks for new partitions, or `None` if it does not.
    refresh: Option<Duration>,
    state: Arc<Mutex<State>>,
}

/// The state of the brokers, as far as it is known.
struct State {
    health: Health,
    /// Of the producer and all consumers.
    connections: usize,
}

/// The receiver of what librdkafka tells of one producer or consumer.
struct Context {
    state: Arc<Mutex<State>>,
    /// The part of the connections that is its own.
    connections: AtomicUsize,
}

/// The consumer of a subscription.
struct Receiving {
    consumer: Arc<BaseConsumer<Context>>,
    topic: String,
    /// The partitions that are consumed.
    partitions: HashSet<i32>,
    looked: Instant,
    shared: Arc<Shared>,
}

/// A message that was received.
pub(in crate::cluster) struct Received {
    consumer: std::sync::Weak<BaseConsumer<Context>>,
    topic: String,
    partition: i32,
    offset: i64,
}

/// A subscription. Its drop ends it.
pub(in crate::cluster) struct KafkaSubscription {
    is_over: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

const BACKEND: &str = "kafka";

/// The end of a subscription is noticed after this time.
const TURN: Duration = Duration::from_millis(100);
/// librdkafka tells its state this often. What a broker sent within twice the time is a sign of life.
const TELL: Duration = Duration::from_secs(1);
/// The option with the milliseconds after which librdkafka asks for the partitions of its topics. Its own default is 5 minutes.
const REFRESH: &str = "topic.metadata.refresh.interval.ms";
const REFRESH_DEFAULT: &str = "30000";

impl Kafka {
    /// Returns the cluster of a broker at `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// As [`KafkaBuilder::build`].
    pub fn open(broker: &str) -> Result<Self, Error> {
        Self::builder().broker(broker).build()
    }

    /// Returns a builder.
    pub fn builder() -> KafkaBuilder {
        KafkaBuilder {
            brokers: Vec::new(),
            group: None,
            timeout: Duration::from_secs(5),
            options: Vec::new(),
        }
    }

    /// Returns its state. The queue is that of messages that are not confirmed yet. The connections are those of the producer and of all
    /// subscriptions, as they were within the last second.
    pub fn stats(&self) -> BackendStats {
        let state = self.0.state.lock();
        BackendStats {
            queue: usize::try_from(self.0.producer.in_flight_count()).unwrap_or(0),
            connections: state.connections,
            ..state.health.stats()
        }
    }

    /// Publishes a message, and waits until the brokers have confirmed it.
    pub(in crate::cluster) fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let record: BaseRecord<'_, (), [u8], _> =
            BaseRecord::with_opaque_to(topic, Box::new(sender)).payload(payload);
        self.0
            .producer
            .send(record)
            .map_err(|(error, _)| match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Error::Busy {
                    what: "queue of a backend",
                },
                _ => failed(&error),
            })?;
        // The producer gives a message up after the timeout.
        match receiver.recv_timeout(self.0.timeout * 2) {
            Ok(result) => result.map_err(|error| failed(&error)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Error::backend(BACKEND, "it has not answered in time"))
            }
        }
    }

    /// Calls `deliver` with each payload of a topic, on a thread of the subscription.
    pub(in crate::cluster) fn subscribe(
        &self,
        topic: &str,
        deliver: impl Fn(&[u8], Received) + Send + 'static,
    ) -> Result<KafkaSubscription, Error> {
        let consumer: BaseConsumer<Context> = self
            .0
            .config
            .create_with_context(Context::new(&self.0.state))
            .map_err(|error| failed(&error))?;
        let mut receiving = Receiving {
            consumer: Arc::new(consumer),
            topic: topic.to_owned(),
            partitions: HashSet::new(),
            looked: Instant::now(),
            shared: self.0.clone(),
        };
        receiving.begin()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        thread::Builder::new()
            .name("epicycle-kafka".to_owned())
            .spawn(move || receiving.run(&over, deliver))
            .map_err(|error| {
                Error::backend(BACKEND, format!("no thread for a subscription: {error}"))
            })?;
        Ok(KafkaSubscription {
            is_over,
            state: self.0.state.clone(),
        })
    }
}

impl Receiving {
    /// Begins in each partition behind what the group has handled, or else at the end. So a message that is published after this is not
    /// missed.
    fn begin(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.shared.timeout;
        let left = || deadline.saturating_duration_since(Instant::now()).max(TURN);
        let partitions = loop {
            let partitions = self.find(left()).map_err(|error| self.lost(&error))?;
            if !partitions.is_empty() {
                break partitions;
            }
            // The brokers are making it.
            if Instant::now() >= deadline {
                let topic = &self.topic;
                let problem = format!("there is no topic {topic}, and it is not made by itself");
                return Err(Error::backend(BACKEND, problem));
            }
            thread::sleep(TURN);
        };
        self.consume(partitions, left, |own, partition| {
            let marks = (own.consumer).fetch_watermarks(&own.topic, partition, left());
            marks.map(|(_, end)| Offset::Offset(end))
        })
        .map_err(|error| self.lost(&error))?;
        self.shared.state.lock().health.answered();
        Ok(())
    }

    fn run(mut self, is_over: &AtomicBool, deliver: impl Fn(&[u8], Received)) {
        while !is_over.load(Ordering::Acquire) {
            match self.consumer.poll(TURN) {
                None => {}
                // Another subscription may have begun meanwhile, which gets it.
                Some(Ok(_)) if is_over.load(Ordering::Acquire) => return,
                Some(Ok(message)) => {
                    self.shared.state.lock().health.answered();
                    let received = Received {
                        consumer: Arc::downgrade(&self.consumer),
                        topic: message.topic().to_owned(),
                        partition: message.partition(),
                        offset: message.offset(),
                    };
                    deliver(message.payload().unwrap_or_default(), received);
                }
                // It goes on by itself when the brokers are back.
                Some(Err(error)) => {
                    log::debug!(target: "epicycle::cluster", "Kafka: {error}");
                    thread::sleep(TURN);
                }
            }
            if self
                .shared
                .refresh
                .is_some_and(|refresh| self.looked.elapsed() >= refresh)
            {
                if let Err(error) = self.look() {
                    self.lost(&error);
                }
                self.looked = Instant::now();
            }
        }
    }

    /// Consumes the partitions that were added to the topic, from their beginning, so that nothing in them is missed.
    fn look(&mut self) -> Result<(), KafkaError> {
        let timeout = self.shared.timeout;
        let found = self.find(timeout)?;
        self.shared.state.lock().health.answered();
        let new: HashSet<_> = found.difference(&self.partitions).copied().collect();
        if !new.is_empty() {
            let count = new.len();
            self.consume(new, || timeout, |_, _| Ok(Offset::Beginning))?;
            log::info!(target: "epicycle::cluster", "Kafka: the topic {} has {count} new partitions", self.topic);
        }
        Ok(())
    }

    /// Returns the partitions of the topic: none if it does not exist yet.
    fn find(&self, timeout: Duration) -> Result<HashSet<i32>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), timeout)?;
        let topics = metadata.topics().iter();
        let partitions = topics.flat_map(MetadataTopic::partitions);
        Ok(partitions.map(MetadataPartition::id).collect())
    }

    /// Consumes more partitions, each from behind what the group has handled, or else from where `otherwise` says.
    fn consume(
        &mut self,
        partitions: HashSet<i32>,
        timeout: impl Fn() -> Duration,
        otherwise: impl Fn(&Self, i32) -> Result<Offset, KafkaError>,
    ) -> Result<(), KafkaError> {
        let mut positions = TopicPartitionList::new();
        for partition in &partitions {
            positions.add_partition(&self.topic, *partition);
        }
        if self.shared.has_group {
            positions = self.consumer.committed_offsets(positions, timeout())?;
        }
        for partition in &partitions {
            let known = positions.find_partition(&self.topic, *partition);
            if known.is_some_and(|known| matches!(known.offset(), Offset::Offset(_))) {
                continue;
            }
            let begin = otherwise(self, *partition)?;
            positions.set_partition_offset(&self.topic, *partition, begin)?;
        }
        self.consumer.incremental_assign(&positions)?;
        self.partitions.extend(partitions);
        Ok(())
    }

    fn lost(&self, error: &KafkaError) -> Error {
        self.shared.state.lock().health.lost(error);
        failed(error)
    }
}

impl Received {
    /// Has the group begin behind this message the next time.
    pub(in crate::cluster) fn commit(&self) {
        let Some(consumer) = self.consumer.upgrade() else {
            return;
        };
        if let Err(error) = consumer.store_offset(&self.topic, self.partition, self.offset) {
            log::debug!(target: "epicycle::cluster", "Kafka: an offset is not stored: {error}");
        }
    }
}

impl Context {
    fn new(state: &Arc<Mutex<State>>) -> Self {
        Self {
            state: state.clone(),
            connections: AtomicUsize::new(0),
        }
    }

    /// Notes how many connections there are now.
    fn set_connections(&self, state: &mut State, now: usize) {
        let before = self.connections.swap(now, Ordering::Relaxed);
        state.connections = state.connections + now - before;
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.set_connections(&mut self.state.lock(), 0);
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log::debug!(target: "epicycle::cluster", "Kafka: {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.state.lock().health.lost(reason);
        } else {
            log::debug!(target: "epicycle::cluster", "Kafka: {error}: {reason}");
        }
    }

    fn stats(&self, statistics: Statistics) {
        let brokers = statistics.brokers.values();
        let connected: Vec<_> = brokers.filter(|broker| broker.state == "UP").collect();
        let recent = 0..=(2 * TELL).as_micros() as i64;
        let mut state = self.state.lock();
        self.set_connections(&mut state, connected.len());
        if connected
            .iter()
            .any(|broker| recent.contains(&broker.rxidle))
        {
            state.health.answered();
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<SyncSender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => {
                self.state.lock().health.answered();
                Ok(())
            }
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) {
                    self.state.lock().health.lost(error);
                }
                Err(error.clone())
            }
        };
        // Nobody waits any more if the time is over.
        let _ = sender.try_send(result);
    }
}

impl KafkaSubscription {
    /// Returns an error if the brokers are lost.
    pub(in crate::cluster) fn confirm(&self) -> Result<(), Error> {
        match self.state.lock().health.problem() {
            Some(problem) => Err(Error::backend(BACKEND, problem)),
            None => Ok(()),
        }
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

fn failed(error: &KafkaError) -> Error {
    Error::backend(BACKEND, error.to_string())
}

impl KafkaBuilder {
    /// Adds a broker, as `HOST:PORT`. The others of its cluster are found through it.
    pub fn broker(mut self, address: impl Into<String>) -> Self {
        self.brokers.push(address.into());
        self
    }

    /// Sets the consumer group, whose offsets are committed when messages were handled: what is published while this process is away is
    /// delivered when it is back. Each process needs a group of its own, such as the id of its server. Without a group, subscriptions
    /// begin at the end, as those of due.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Sets the time within which a subscription must be made, and a message confirmed. The default is 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets an option of librdkafka: `sasl.mechanisms`, for example.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Returns the backend. Its threads are started, and begin to dial.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no broker, librdkafka refuses an option, or the timeout is below 1 ms or above an
    /// hour.
    pub fn build(self) -> Result<Kafka, Error> {
        super::check_timeout(self.timeout)?;
        if self.brokers.is_empty() {
            let problem = "there is none; give one, such as 127.0.0.1:9092";
            return Err(Error::argument("broker", problem));
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers.join(","))
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("statistics.interval.ms", TELL.as_millis().to_string())
            .set(REFRESH, REFRESH_DEFAULT);
        for (name, value) in &self.options {
            config.set(name, value);
        }
        let refresh = config.get(REFRESH).and_then(|ms| ms.parse().ok());
        let refresh = refresh.filter(|ms| *ms > 0).map(Duration::from_millis);
        let state = Arc::new(Mutex::new(State {
            health: Health::new(BACKEND),
            connections: 0,
        }));
        let mut producing = config.clone();
        producing
            .set("message.timeout.ms", self.timeout.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("linger.ms", "0");
        let refused = |error: KafkaError| Error::argument("option", error.to_string());
        let producer = producing
            .create_with_context(Context::new(&state))
            .map_err(refused)?;
        let has_group = self.group.is_some();
        config
            .set("group.id", self.group.as_deref().unwrap_or("epicycle"))
            .set("allow.auto.create.topics", "true")
            .set("auto.offset.reset", "latest")
            .set("enable.auto.commit", has_group.to_string())
            .set("auto.commit.interval.ms", "1000")
            .set("enable.auto.offset.store", "false")
            .set("fetch.wait.max.ms", "100");
        Ok(Kafka(Arc::new(Shared {
            producer,
            config,
            has_group,
            timeout: self.timeout,
            refresh,
            state,
        })))
    }
}

impl fmt::Debug for KafkaBuilder {
    /// Leaves out the options, which may have passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBuilder")
            .field("brokers", &self.brokers)
            .field("group", &self.group)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
