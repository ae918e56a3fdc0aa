//! Servers that answer strangely, for ever, or a byte at a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::{Consul, Etcd, Memcache, Nacos, Nats, RabbitMq, Redis};
use epicycle::cluster::cache::{Cache, MemcacheCache, RedisCache};
use epicycle::cluster::center::{ConsulSource, NacosSource, Source};
use epicycle::cluster::eventbus::{EventBus, NatsEventBus, RabbitMqEventBus};
use epicycle::cluster::registry::{ConsulRegistry, EtcdRegistry, NacosRegistry, Registry};
use serde_json::json;

use crate::standin::{Reply, Standin};
use crate::util::{LONG, eventually};

const TIMEOUT: Duration = Duration::from_millis(300);

/// Starts a server that serves each connection with this, on a thread of its own. Returns its address.
fn serve(each: impl Fn(TcpStream) -> Option<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("has an address").to_string();
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            let stream = stream.expect("accepts");
            // A client that leaves ends it.
            thread::spawn(move || each(stream));
        }
    });
    address
}

/// Sends this again and again.
fn trickle(mut stream: TcpStream, bytes: &[u8]) -> Option<()> {
    loop {
        stream.write_all(bytes).ok()?;
        thread::sleep(TIMEOUT / 10);
    }
}

/// A call fails, although the server never ends its answer.
fn fails_in_time<R: Send + 'static>(
    call: impl FnOnce() -> Result<R, Error> + Send + 'static,
) -> Error {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(call().err()));
    let failed = receiver.recv_timeout(LONG).expect("it ends");
    failed.expect("it is an error")
}

#[test]
fn a_consul_that_tells_no_index_is_not_asked_all_the_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let own = asked.clone();
    let server = Standin::start(move |_| {
        own.fetch_add(1, Ordering::Relaxed);
        Reply::new(200, "[]")
    });
    let source = ConsulSource::new(&Consul::open(&server.url()).expect("is a URL"));
    let _watch = source.watch().expect("answers");
    thread::sleep(Duration::from_secs(1));
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 50, "{asked} queries in a second");
}

#[test]
fn a_nacos_whose_pages_never_end_is_an_error() {
    let server = Standin::start(|_| {
        let item = json!({"dataId": "game.json", "content": "{}"});
        Reply::new(200, json!({"pageItems": [item]}).to_string())
    });
    let nacos = Nacos::open(&format!("{}/nacos", server.url())).expect("is a URL");
    let error = fails_in_time(move || NacosSource::new(&nacos).load());
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn an_etcd_that_refuses_at_length_is_not_listened_to() {
    let sent = Arc::new(AtomicUsize::new(0));
    let own = sent.clone();
    let address = serve(move |mut stream| {
        let mut request = vec![0; 16 << 10];
        let read = stream.read(&mut request).ok()?;
        let head = String::from_utf8_lossy(&request[..read]).into_owned();
        if head.contains("/v3/kv/range") {
            let body = r#"{"header":{"revision":"1"}}"#;
            let len = body.len();
            write!(
                stream,
                "HTTP/1.1 200 X\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
            )
            .ok()?;
            return None;
        }
        write!(
            stream,
            "HTTP/1.1 400 X\r\nContent-Length: 99999999999\r\n\r\n"
        )
        .ok()?;
        let filling = vec![b'x'; 64 << 10];
        loop {
            stream.write_all(&filling).ok()?;
            own.fetch_add(filling.len(), Ordering::Relaxed);
        }
    });
    let etcd = Etcd::open(&format!("http://{address}")).expect("is a URL");
    let watch = EtcdRegistry::new(&etcd).watch("node").expect("has a list");
    eventually("it refuses", || sent.load(Ordering::Relaxed) > 0);
    let handle = watch.handle();
    eventually("it is lost", || handle.lost_since().is_some());
    drop(watch);
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes");
}

#[test]
fn a_rabbitmq_that_only_lives_costs_the_timeout() {
    // A heartbeat, which is no answer.
    let address = serve(|stream| trickle(stream, b"\x08\0\0\0\0\0\0\xce"));
    let rabbitmq = RabbitMq::builder().server(address).timeout(TIMEOUT);
    let bus = RabbitMqEventBus::new(&rabbitmq.build().expect("is complete"));
    let own = bus.clone();
    fails_in_time(move || own.publish("login", "7"));
    fails_in_time(move || bus.subscribe("login", Box::new(|_| {})));
}

#[test]
fn a_memcached_that_answers_byte_by_byte_costs_the_timeout() {
    let address = serve(|stream| trickle(stream, b"V"));
    let memcache = Memcache::builder().server(address).timeout(TIMEOUT);
    let cache = MemcacheCache::new(&memcache.build().expect("is complete"));
    fails_in_time(move || cache.get("key"));
}

#[test]
fn answers_over_http_that_come_byte_by_byte_cost_the_timeout() {
    let address = serve(|mut stream| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n";
        stream.write_all(head).ok()?;
        trickle(stream, b" ")
    });
    let url = format!("http://{address}");
    let etcd = Etcd::builder().url(&*url).timeout(TIMEOUT).build();
    let etcd = EtcdRegistry::new(&etcd.expect("is complete"));
    fails_in_time(move || etcd.services("node"));
    let nacos = Nacos::builder().url(&*url).timeout(TIMEOUT).build();
    let nacos = NacosRegistry::new(&nacos.expect("is complete"));
    fails_in_time(move || nacos.services("node"));
    let consul = Consul::builder().url(&*url).timeout(TIMEOUT).build();
    let consul = ConsulRegistry::new(&consul.expect("is complete"));
    let node = crate::registries::node("node-1");
    fails_in_time(move || consul.register(&node));
}

/// The crate has a time for each read, and nobody else reaches its socket.
#[test]
fn a_redis_that_answers_byte_by_byte_holds_no_more_than_its_connections() {
    let address = serve(|stream| trickle(stream, b"+"));
    let redis = Redis::builder()
        .url(format!("redis://{address}"))
        .connections(1)
        .timeout(TIMEOUT);
    let redis = redis.build().expect("is complete");
    let held = RedisCache::new(&redis);
    thread::spawn(move || held.get("key"));
    eventually("a call has the connection", || {
        redis.stats().connections == 1
    });
    let cache = RedisCache::new(&redis);
    let error = fails_in_time(move || cache.get("key"));
    assert!(matches!(error, Error::Busy { .. }), "{error}");
}

#[test]
fn a_redis_that_nests_without_end_is_an_error() {
    let address = serve(|mut stream| {
        stream.write_all(&b"*1\r\n".repeat(100_000)).ok()?;
        let _ = stream.read(&mut [0; 1024]);
        thread::sleep(LONG);
        None
    });
    let redis = Redis::builder()
        .url(format!("redis://{address}"))
        .timeout(TIMEOUT);
    let cache = RedisCache::new(&redis.build().expect("is complete"));
    fails_in_time(move || cache.get("key"));
}

#[test]
fn a_refusal_of_nats_is_told_in_short() {
    let address = serve(|mut stream| {
        stream.write_all(b"INFO {}\r\n").ok()?;
        let mut read = Vec::new();
        loop {
            let mut some = [0; 4096];
            let len = stream.read(&mut some).ok().filter(|len| *len > 0)?;
            read.extend_from_slice(&some[..len]);
            let text = String::from_utf8_lossy(&read).into_owned();
            if text.contains("SUB ") {
                let long = "x".repeat(500_000);
                write!(stream, "-ERR 'no {long}'\r\n").ok()?;
            }
            if text.ends_with("PING\r\n") {
                stream.write_all(b"PONG\r\n").ok()?;
                read.clear();
            }
        }
    });
    let nats = Nats::open(&format!("nats://{address}")).expect("is a URL");
    let error = NatsEventBus::new(&nats).subscribe("login", Box::new(|_| {}));
    let error = error.expect_err("is refused").to_string();
    assert!(
        error.contains("no xxx") && error.len() < 10_000,
        "{} bytes",
        error.len()
    );
}
