use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use rdkafka::{ClientContext, Offset, TopicPartitionList};

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
    health: Arc<Mutex<Health>>,
}

/// The receiver of what librdkafka tells.
#[derive(Clone)]
struct Context {
    health: Arc<Mutex<Health>>,
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
    health: Arc<Mutex<Health>>,
}

const BACKEND: &str = "kafka";

/// The end of a subscription is noticed after this time.
const TURN: Duration = Duration::from_millis(100);

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

    /// Returns its state. The queue is that of messages that are not confirmed yet.
    pub fn stats(&self) -> BackendStats {
        BackendStats {
            queue: usize::try_from(self.0.producer.in_flight_count()).unwrap_or(0),
            ..self.0.health.lock().stats()
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
        let context = Context {
            health: self.0.health.clone(),
        };
        let consumer: BaseConsumer<Context> = self
            .0
            .config
            .create_with_context(context)
            .map_err(|error| failed(&error))?;
        let positions = self.positions(&consumer, topic)?;
        consumer
            .assign(&positions)
            .map_err(|error| failed(&error))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (consumer, over) = (Arc::new(consumer), is_over.clone());
        thread::Builder::new()
            .name("epicycle-kafka".to_owned())
            .spawn(move || receive(&consumer, &over, deliver))
            .map_err(|error| {
                Error::backend(BACKEND, format!("no thread for a subscription: {error}"))
            })?;
        Ok(KafkaSubscription {
            is_over,
            health: self.0.health.clone(),
        })
    }

    /// Returns where a subscription begins in each partition: behind what the group has handled, or else at the end. So a message that
    /// is published after this is not missed.
    fn positions(
        &self,
        consumer: &BaseConsumer<Context>,
        topic: &str,
    ) -> Result<TopicPartitionList, Error> {
        let deadline = Instant::now() + self.0.timeout;
        let left = || deadline.saturating_duration_since(Instant::now()).max(TURN);
        let partitions = loop {
            let metadata = consumer.fetch_metadata(Some(topic), left());
            let metadata = metadata.map_err(|error| self.lost(&error))?;
            let found = metadata.topics().first();
            let partitions: HashSet<_> = found
                .into_iter()
                .flat_map(MetadataTopic::partitions)
                .map(MetadataPartition::id)
                .collect();
            if !partitions.is_empty() {
                break partitions;
            }
            // The brokers are making it.
            if Instant::now() >= deadline {
                let problem = format!("there is no topic {topic}, and it is not made by itself");
                return Err(Error::backend(BACKEND, problem));
            }
            thread::sleep(TURN);
        };
        let mut positions = TopicPartitionList::new();
        for partition in &partitions {
            positions.add_partition(topic, *partition);
        }
        if self.0.has_group {
            let committed = consumer.committed_offsets(positions.clone(), left());
            positions = committed.map_err(|error| self.lost(&error))?;
        }
        for partition in partitions {
            let known = positions.find_partition(topic, partition);
            if known.is_some_and(|known| matches!(known.offset(), Offset::Offset(_))) {
                continue;
            }
            let marks = consumer.fetch_watermarks(topic, partition, left());
            let (_, end) = marks.map_err(|error| self.lost(&error))?;
            positions
                .set_partition_offset(topic, partition, Offset::Offset(end))
                .map_err(|error| failed(&error))?;
        }
        self.0.health.lock().answered();
        Ok(positions)
    }

    fn lost(&self, error: &KafkaError) -> Error {
        self.0.health.lock().lost(error);
        failed(error)
    }
}

fn receive(
    consumer: &Arc<BaseConsumer<Context>>,
    is_over: &AtomicBool,
    deliver: impl Fn(&[u8], Received),
) {
    while !is_over.load(Ordering::Acquire) {
        match consumer.poll(TURN) {
            None => {}
            // Another subscription may have begun meanwhile, which gets it.
            Some(Ok(_)) if is_over.load(Ordering::Acquire) => return,
            Some(Ok(message)) => {
                consumer.context().health.lock().answered();
                let received = Received {
                    consumer: Arc::downgrade(consumer),
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

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log::debug!(target: "epicycle::cluster", "Kafka: {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.health.lock().lost(reason);
        } else {
            log::debug!(target: "epicycle::cluster", "Kafka: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<SyncSender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => {
                self.health.lock().answered();
                Ok(())
            }
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) {
                    self.health.lock().lost(error);
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
        match self.health.lock().problem() {
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
            .set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.options {
            config.set(name, value);
        }
        let health = Arc::new(Mutex::new(Health::new(BACKEND)));
        let context = Context {
            health: health.clone(),
        };
        let mut producing = config.clone();
        producing
            .set("message.timeout.ms", self.timeout.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("linger.ms", "0");
        let refused = |error: KafkaError| Error::argument("option", error.to_string());
        let producer = producing.create_with_context(context).map_err(refused)?;
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
            health,
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
