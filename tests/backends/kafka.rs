//! The event bus on Kafka, against librdkafka's cluster for tests, which is in this process.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::Kafka;
use epicycle::cluster::eventbus::{EventBus, KafkaEventBus, Message, WhenFull};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::bus::{next, payloads};
use crate::util::{LONG, eventually};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).expect("starts");
    for topic in ["due.eventbus.login", "due.eventbus.other"] {
        cluster.create_topic(topic, 1, 1).expect("is made");
    }
    cluster
}

fn open(cluster: &Cluster, group: Option<&str>) -> Kafka {
    let builder = Kafka::builder().broker(cluster.bootstrap_servers());
    let builder = builder.timeout(Duration::from_secs(20));
    let builder = match group {
        Some(group) => builder.group(group),
        None => builder,
    };
    builder.build().expect("is complete")
}

#[test]
fn messages_come_in_order_to_each_subscriber_of_their_topic() {
    let cluster = cluster();
    let (ours, theirs) = (
        KafkaEventBus::new(&open(&cluster, None)),
        KafkaEventBus::new(&open(&cluster, None)),
    );
    let (_one, one) = payloads(&ours, "login");
    let (_two, two) = payloads(&ours, "login");
    let (_three, three) = payloads(&theirs, "login");
    let (_other, other) = payloads(&theirs, "other");
    for n in 0..50 {
        theirs.publish("login", &n.to_string()).expect("publishes");
    }
    for receiver in [&one, &two, &three] {
        for n in 0..50 {
            assert_eq!(next(receiver), n.to_string());
        }
    }
    assert!(other.try_recv().is_err());
    assert_eq!(theirs.stats().published, 50);
    eventually("both are counted", || ours.stats().delivered == 100);
}

#[test]
fn messages_have_the_form_of_due_and_what_is_none_costs_itself_only() {
    let cluster = cluster();
    let kafka = open(&cluster, None);
    let bus = KafkaEventBus::new(&kafka);
    bus.publish("login", "7").expect("publishes");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    config.set("group.id", "stranger");
    let stranger: BaseConsumer = config.create().expect("is made");
    let mut position = TopicPartitionList::new();
    position
        .add_partition_offset("due.eventbus.login", 0, Offset::Beginning)
        .expect("is a place");
    stranger.assign(&position).expect("is assigned");
    let found = stranger.poll(LONG).expect("comes").expect("is read");
    let message = Message::from_json(found.payload().expect("is there")).expect("is a message");
    assert_eq!((&*message.topic, &*message.payload), ("login", "7"));
    assert!(kafka.stats().is_up && kafka.stats().queue == 0);

    for wrong in ["", "a b", &"x".repeat(250)] {
        let error = bus.publish(wrong, "7").expect_err("is no topic");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn a_group_gets_what_was_published_while_it_was_away() {
    let cluster = cluster();
    let publisher = KafkaEventBus::new(&open(&cluster, None));
    {
        let bus = KafkaEventBus::new(&open(&cluster, Some("gate-1")));
        let (_subscription, receiver) = payloads(&bus, "login");
        publisher.publish("login", "before").expect("publishes");
        assert_eq!(next(&receiver), "before");
        // Offsets are committed once a second.
        std::thread::sleep(Duration::from_secs(3));
    }
    publisher.publish("login", "missed").expect("publishes");
    let bus = KafkaEventBus::new(&open(&cluster, Some("gate-1")));
    let (_subscription, receiver) = payloads(&bus, "login");
    assert_eq!(next(&receiver), "missed");
    // Another group has no past.
    let bus = KafkaEventBus::new(&open(&cluster, Some("gate-2")));
    let (_other, other) = payloads(&bus, "login");
    publisher.publish("login", "now").expect("publishes");
    assert_eq!(
        (next(&receiver), next(&other)),
        ("now".to_owned(), "now".to_owned())
    );
}

#[test]
fn a_full_queue_waits_and_loses_nothing() {
    let cluster = cluster();
    let bus = KafkaEventBus::with(&open(&cluster, None), "due:eventbus", 2, WhenFull::Block);
    let (sender, receiver) = mpsc::channel();
    let handler = move |message: &Message| {
        std::thread::sleep(Duration::from_millis(5));
        drop(sender.send(message.payload.clone()));
    };
    let _subscription = bus
        .subscribe("login", Box::new(handler))
        .expect("subscribes");
    for n in 0..40 {
        bus.publish("login", &n.to_string()).expect("publishes");
    }
    for n in 0..40 {
        assert_eq!(next(&receiver), n.to_string());
    }
    assert_eq!(bus.stats().dropped, 0);
}

#[test]
fn brokers_that_are_lost_are_found_again() {
    let cluster = cluster();
    let kafka = Kafka::builder()
        .broker(cluster.bootstrap_servers())
        .timeout(Duration::from_secs(2))
        .build()
        .expect("is complete");
    let bus = KafkaEventBus::new(&kafka);
    let (_subscription, receiver) = payloads(&bus, "login");
    bus.publish("login", "before").expect("publishes");
    assert_eq!(next(&receiver), "before");
    cluster.broker_down(1).expect("goes");
    let error = bus.publish("login", "lost").expect_err("is lost");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(!kafka.stats().is_up);
    let second = bus.subscribe("login", Box::new(|_| {}));
    let error = second.expect_err("a second subscriber is told so");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    cluster.broker_up(1).expect("comes");
    eventually("it is found", || bus.publish("login", "after").is_ok());
    eventually("the subscription goes on", || next(&receiver) == "after");
    assert!(kafka.stats().is_up);
}

/// Passes connections on to a server that can be changed. Returns its address.
fn forward(to: &Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("is bound").to_string();
    let to = to.clone();
    thread::spawn(move || {
        for here in listener.incoming() {
            let here = here.expect("accepts");
            let to = to.lock().expect("is whole").clone();
            let Ok(there) = TcpStream::connect(to) else {
                continue;
            };
            for (from, to) in [(&here, &there), (&there, &here)] {
                let [mut from, mut to] = [from, to].map(|end| end.try_clone().expect("is cloned"));
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address
}

/// The cluster for tests cannot add partitions to a topic, so another one with more of them takes its address over.
#[test]
fn partitions_that_are_added_to_a_topic_are_consumed_from_their_beginning() {
    let topic = "due.eventbus.login";
    let (small, large) = (cluster(), MockCluster::new(1).expect("starts"));
    large.create_topic(topic, 3, 1).expect("is made");
    let to = Arc::new(Mutex::new(small.bootstrap_servers()));
    let kafka = Kafka::builder()
        .broker(forward(&to))
        .timeout(Duration::from_secs(20))
        .option("topic.metadata.refresh.interval.ms", "500")
        .build()
        .expect("is complete");
    let bus = KafkaEventBus::new(&kafka);
    let (_subscription, receiver) = payloads(&bus, "login");
    bus.publish("login", "before").expect("publishes");
    assert_eq!(next(&receiver), "before");

    // It is there before the partition is known.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", large.bootstrap_servers());
    let producer: BaseProducer = config.create().expect("is made");
    let early = r#"{"id":"1","topic":"login","payload":"early","timestamp":1}"#;
    let record: BaseRecord<'_, (), str> = BaseRecord::to(topic).payload(early).partition(2);
    producer.send(record).expect("is taken");
    producer.flush(LONG).expect("is sent");
    *to.lock().expect("is whole") = large.bootstrap_servers();
    small.broker_down(1).expect("goes");
    assert_eq!(next(&receiver), "early");
}

#[test]
fn brokers_tell_their_state_without_calls() {
    let cluster = cluster();
    let kafka = open(&cluster, None);
    eventually("a connection is a sign of life", || {
        let stats = kafka.stats();
        stats.is_up && stats.connections > 0 && stats.last_ok.is_some()
    });
    let before = kafka.stats().connections;
    let bus = KafkaEventBus::new(&kafka);
    let (subscription, _receiver) = payloads(&bus, "login");
    eventually("a subscription has its own", || {
        kafka.stats().connections > before
    });
    drop(subscription);
    eventually("they end with it", || kafka.stats().connections == before);

    let (_subscription, _receiver) = payloads(&bus, "login");
    cluster.broker_down(1).expect("goes");
    eventually("it is down", || {
        let stats = kafka.stats();
        !stats.is_up && stats.connections == 0
    });
    cluster.broker_up(1).expect("comes");
    eventually("it is up again", || kafka.stats().is_up);
}

#[test]
fn brokers_that_are_not_there_and_options_that_are_none_are_told() {
    let nobody = crate::process::free_port();
    let kafka = Kafka::builder()
        .broker(format!("127.0.0.1:{nobody}"))
        .timeout(Duration::from_millis(500))
        .build()
        .expect("is complete");
    let bus = KafkaEventBus::new(&kafka);
    let error = bus.publish("login", "7").expect_err("is not there");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let error = bus
        .subscribe("login", Box::new(|_| {}))
        .expect_err("is not there");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(!kafka.stats().is_up);

    let wrong = Kafka::builder().broker("127.0.0.1:9092");
    let wrong = wrong.option("sasl.password", "sesame");
    assert!(!format!("{wrong:?}").contains("sesame"));
    for builder in [wrong.option("no.such", "1"), Kafka::builder()] {
        let error = builder.build().expect_err("is wrong");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn users_are_passed_on_and_what_needs_openssl_is_refused_at_the_start() {
    let with = |protocol: &str, mechanism: &str| {
        Kafka::builder()
            .broker("127.0.0.1:9092")
            .option("security.protocol", protocol)
            .option("sasl.mechanisms", mechanism)
            .option("sasl.username", "somebody")
            .option("sasl.password", "sesame")
            .build()
    };
    let plain = with("sasl_plaintext", "PLAIN").expect("is built in");
    assert!(!format!("{plain:?}").contains("sesame"));
    for (protocol, mechanism) in [("sasl_plaintext", "SCRAM-SHA-256"), ("ssl", "PLAIN")] {
        let error = with(protocol, mechanism).expect_err("needs OpenSSL");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        let text = error.to_string();
        let names_it = text.to_lowercase().contains("openssl");
        assert!(names_it && !text.contains("sesame"), "{text}");
    }
}
