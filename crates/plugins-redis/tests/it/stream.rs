//! Events over streams.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use event_bus::transport::contract::{self, Ends, Place};
use event_bus::{
    BridgeOptions, Event, EventBus, EventTransport, NotTaken, Outgoing, Overflow, Pattern, SubscribeOptions,
    Topic, TraceContext, TransportSink, by_ref,
};
use plugins_redis::{Redis, RedisStreams, StreamOptions};
use runtime::{CancellationToken, SystemClock};
use serde_json::json;
use testkit::provision::{Program, client};
use testkit::{RedisCluster, Server, need, until};

use crate::support::{PATIENCE, config, connect};

static STREAMS: AtomicU64 = AtomicU64::new(0);

fn fresh() -> String {
    format!("test:{}", STREAMS.fetch_add(1, Ordering::Relaxed))
}

/// Streams with new names on one server, or on a cluster.
struct Streams {
    redis: Redis,
    servers: Vec<Server>,
    partitions: u32,
}

impl Streams {
    fn end(&self, stream: &str, group: &str) -> Arc<dyn EventTransport> {
        let partitions = self.partitions;
        let options = StreamOptions { partitions, batch: 64, ..StreamOptions::new(stream, group) };
        Arc::new(RedisStreams::new(self.redis.clone(), options).unwrap())
    }
}

#[async_trait]
impl Place for Streams {
    async fn ends(&mut self) -> Ends {
        let stream = fresh();
        (self.end(&stream, "a"), self.end(&stream, "b"))
    }

    async fn set_down(&mut self, is_down: bool) {
        for server in &self.servers {
            if is_down {
                server.kill().await.unwrap();
            } else {
                server.revive().unwrap();
                server.ready().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn streams_pass_the_contract_of_transports() {
    let server = need!(testkit::Redis::start());
    for partitions in [1, 4] {
        let redis = connect(&config(server.address())).await;
        let servers = vec![server.server().clone()];
        contract::all(&mut Streams { redis: redis.clone(), servers, partitions }).await;
        redis.close().await;
    }
}

#[tokio::test]
async fn streams_pass_the_contract_of_transports_in_a_cluster() {
    let cluster = need!(RedisCluster::start());
    let redis = connect(&config(&cluster.addresses().join(","))).await;
    let mut streams = Streams { redis: redis.clone(), servers: Vec::new(), partitions: 4 };
    contract::events_cross(streams.ends().await).await;
    contract::order_is_kept_by_key(streams.ends().await).await;
    contract::nothing_echoes(streams.ends().await).await;
    contract::duplicates_are_dropped(streams.ends().await).await;
    contract::what_was_not_taken_is_offered_again(streams.ends().await).await;
    redis.close().await;
}

/// Notes what it is given, and takes it.
#[derive(Default)]
struct Notes {
    numbers: Mutex<Vec<u64>>,
    traces: Mutex<Vec<Option<TraceContext>>>,
    unreadable: Mutex<Vec<String>>,
    /// How many events to take before it never answers again.
    patience: Option<usize>,
}

impl Notes {
    async fn has(&self, count: usize) {
        until("events", PATIENCE, async || match self.numbers.lock().unwrap().len() {
            len if len >= count => Ok(()),
            len => Err(format!("{len} of {count}")),
        })
        .await
        .unwrap();
    }
}

#[async_trait]
impl TransportSink for Notes {
    async fn deliver(&self, events: Vec<Event>) -> Result<(), NotTaken> {
        for event in &events {
            self.numbers.lock().unwrap().push(event.data().as_u64().unwrap());
            self.traces.lock().unwrap().push(event.trace().cloned());
        }
        let len = self.numbers.lock().unwrap().len();
        if self.patience.is_some_and(|patience| len >= patience) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn unreadable(&self, why: &dyn std::fmt::Display) {
        self.unreadable.lock().unwrap().push(why.to_string());
    }
}

fn event(n: u64) -> Event {
    let trace = TraceContext::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    Event::builder(Topic::new("orders.placed").unwrap())
        .source("shop")
        .data(json!(n))
        .trace(trace.with_state("vendor=1").unwrap())
        .build(&SystemClock)
        .unwrap()
}

fn outgoing(numbers: impl IntoIterator<Item = u64>) -> Vec<Outgoing> {
    numbers.into_iter().map(|n| Outgoing { event: event(n), key: "shop".into() }).collect()
}

async fn sent(transport: &RedisStreams, numbers: impl IntoIterator<Item = u64>) {
    for outcome in transport.send(&outgoing(numbers)).await {
        outcome.unwrap();
    }
}

/// Reads until it is dropped, again after an error, as a bridge does.
async fn read(transport: &RedisStreams, sink: &Arc<Notes>) {
    loop {
        let _ = transport.receive(sink.clone(), CancellationToken::new()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_dead_consumers_events_go_to_the_next_before_anything_newer() {
    let server = need!(testkit::Redis::start());
    let redis = connect(&config(server.address())).await;
    let other = connect(&config(server.address())).await;
    let options =
        StreamOptions { batch: 10, lease: Duration::from_secs(1), ..StreamOptions::new(fresh(), "workers") };
    let consumer = |redis: &Redis, name: &str| {
        RedisStreams::new(redis.clone(), StreamOptions { consumer: name.to_owned(), ..options.clone() })
            .unwrap()
    };
    let (first, second) = (consumer(&redis, "first"), consumer(&other, "second"));
    sent(&first, 0..25).await;
    // It takes ten, acknowledges them, takes ten more and dies over them, with its lease.
    let dying = Arc::new(Notes { patience: Some(20), ..Notes::default() });
    {
        let reading = read(&first, &dying);
        tokio::pin!(reading);
        tokio::select! {
            () = &mut reading => {}
            () = dying.has(20) => {}
        }
        // Closed first, so that it cannot give back what it holds.
        redis.close().await;
    }
    sent(&second, 25..30).await;
    let next = Arc::new(Notes::default());
    tokio::select! {
        () = read(&second, &next) => {}
        () = next.has(20) => {}
    }
    assert_eq!(*dying.numbers.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(*next.numbers.lock().unwrap(), (10..30).collect::<Vec<_>>());
    other.close().await;
}

#[tokio::test]
async fn of_a_group_one_consumer_reads_a_partition_at_a_time() {
    let server = need!(testkit::Redis::start());
    let (one, other) = (connect(&config(server.address())).await, connect(&config(server.address())).await);
    let options = StreamOptions { batch: 3, ..StreamOptions::new(fresh(), "workers") };
    let transports = [&one, &other].map(|redis| RedisStreams::new(redis.clone(), options.clone()).unwrap());
    let sink = Arc::new(Notes::default());
    sent(&transports[0], 0..50).await;
    // Both note in one place: what two read at once would be out of order there.
    tokio::select! {
        () = read(&transports[0], &sink) => {}
        () = read(&transports[1], &sink) => {}
        () = async { sent(&transports[1], 50..100).await; sink.has(100).await } => {}
    }
    assert_eq!(*sink.numbers.lock().unwrap(), (0..100).collect::<Vec<_>>());
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn streams_are_trimmed() {
    let server = need!(testkit::Redis::start());
    let redis = connect(&config(server.address())).await;
    let stream = fresh();
    let transport =
        RedisStreams::new(redis.clone(), StreamOptions { max_len: 100, ..StreamOptions::new(&stream, "a") });
    let transport = transport.unwrap();
    for round in 0..10 {
        sent(&transport, round * 100..(round + 1) * 100).await;
    }
    let len: u64 =
        server.ask(&["XLEN", &format!("{{{stream}:0}}")]).await.unwrap().to_string().parse().unwrap();
    // About: Redis drops whole nodes of a hundred entries.
    assert!((100..=300).contains(&len), "{len}");
    redis.close().await;
}

/// The fields are what the documentation says, to a client that is none of ours.
#[tokio::test]
async fn redis_cli_reads_what_was_sent_and_what_it_adds_arrives() {
    let server = need!(testkit::Redis::start());
    let redis = connect(&config(server.address())).await;
    let stream = fresh();
    let transport = RedisStreams::new(redis.clone(), StreamOptions::new(&stream, "a")).unwrap();
    sent(&transport, [7]).await;
    let key = format!("{{{stream}:0}}");
    let port = server.address().rsplit(':').next().unwrap();
    let cli = async |arguments: &[&str]| {
        client(Program::RedisCli, &[&["-p", port][..], arguments].concat(), "").await.unwrap()
    };
    let read = cli(&["XRANGE", &key, "-", "+"]).await;
    let lines: Vec<_> = read.lines().collect();
    assert_eq!(lines[1], "event");
    let stored: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!((&stored["type"], &stored["data"]), (&json!("orders.placed"), &json!(7)));
    assert_eq!(
        lines[3..7],
        ["traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate", "vendor=1"]
    );

    let foreign = r#"{"specversion":"1.0","id":"1","source":"cli","type":"orders.placed","data":8}"#;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    cli(&["XADD", &key, "*", "event", foreign, "traceparent", trace]).await;
    for wrong in [&["event", "no json"][..], &["other", "field"], &["event", "{}"]] {
        cli(&[&["XADD", &key, "*"][..], wrong].concat()).await;
    }
    cli(&["XADD", &key, "*", "event", &foreign.replace('8', "9")]).await;
    let notes = Arc::new(Notes::default());
    tokio::select! {
        () = read_all(&transport, &notes) => {}
        () = notes.has(3) => {}
    }
    assert_eq!(*notes.numbers.lock().unwrap(), [7, 8, 9]);
    let traces: Vec<_> =
        notes.traces.lock().unwrap().iter().map(|t| t.as_ref().map(|t| t.traceparent().to_owned())).collect();
    assert_eq!(traces[1].as_deref(), Some(trace));
    assert_eq!(traces[2], None);
    let unreadable = notes.unreadable.lock().unwrap().clone();
    assert_eq!(unreadable.len(), 3, "{unreadable:?}");
    assert!(unreadable.iter().all(|why| why.contains(&key)), "{unreadable:?}");
    redis.close().await;
}

async fn read_all(transport: &RedisStreams, notes: &Arc<Notes>) {
    read(transport, notes).await;
}

#[tokio::test]
async fn what_a_replica_has_to_have_is_not_sent_before_it_has_it() {
    let cluster = need!(RedisCluster::start());
    let redis = connect(&config(&cluster.addresses().join(","))).await;
    let options = StreamOptions {
        replicas: 1,
        replica_timeout: Duration::from_millis(200),
        ..StreamOptions::new(fresh(), "a")
    };
    let transport = RedisStreams::new(redis.clone(), options.clone()).unwrap();
    sent(&transport, 0..10).await;
    let two = RedisStreams::new(redis.clone(), StreamOptions { replicas: 2, ..options }).unwrap();
    for outcome in two.send(&outgoing([10])).await {
        let error = outcome.unwrap_err();
        assert!(error.is_transient());
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("too few replicas"), "{why}");
    }
    redis.close().await;
}

/// A bridge of two buses over a cluster whose master is killed while events go through.
#[tokio::test]
async fn promise_1_a_master_that_dies_loses_nothing_that_was_acknowledged() {
    let cluster = need!(RedisCluster::start());
    let address = cluster.addresses().join(",");
    let (one, other) = (connect(&config(&address)).await, connect(&config(&address)).await);
    let stream = fresh();
    let transport = |redis: &Redis, group: &str| {
        let options = StreamOptions {
            partitions: 3,
            replicas: 1,
            replica_timeout: Duration::from_millis(500),
            lease: Duration::from_secs(2),
            ..StreamOptions::new(&stream, group)
        };
        Arc::new(RedisStreams::new(redis.clone(), options).unwrap())
    };
    let pattern = || Pattern::new("shared.**").unwrap();
    let options = || BridgeOptions::new().first_pause(Duration::from_millis(10));
    let (out, back) = (EventBus::builder().build(), EventBus::builder().build());
    let seen: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let noted = seen.clone();
    let block = SubscribeOptions::new().overflow(Overflow::Block);
    let handler = by_ref(move |event: &Event| {
        noted.lock().unwrap().push((event.source().to_owned(), event.data().as_u64().unwrap()));
        Ok(())
    });
    let _subscription = back.subscribe("shared.**", block, handler).unwrap();
    let sending = out.bridge(pattern(), transport(&one, "out"), options()).unwrap();
    let receiving = back.bridge(pattern(), transport(&other, "back"), options()).unwrap();
    let (keys, each) = (6_u64, 300_u64);
    let publish = async {
        for n in 0..each {
            for key in 0..keys {
                let event = Event::builder(Topic::new("shared.x").unwrap())
                    .source(format!("k{key}"))
                    .data(json!(n))
                    .build(&SystemClock)
                    .unwrap();
                out.publish(event).await.unwrap();
            }
            if n == each / 3 {
                cluster.nodes()[0].kill().await.unwrap();
                // Its replica takes over; it comes back as the replica of that, without which nothing counts as
                // sent.
                until("a take-over", PATIENCE, async || {
                    let masters = cluster.masters().await;
                    if masters.len() == 3 { Ok(()) } else { Err(format!("{masters:?}")) }
                })
                .await
                .unwrap();
                cluster.nodes()[0].revive().unwrap();
            }
        }
    };
    publish.await;
    let all = usize::try_from(keys * each).unwrap();
    until("all events", PATIENCE, async || match seen.lock().unwrap().len() {
        len if len >= all => Ok(()),
        len => Err(format!("{len} of {all}, {:?}, {:?}", sending.stats(), receiving.stats())),
    })
    .await
    .unwrap();
    let seen = seen.lock().unwrap().clone();
    for key in 0..keys {
        let of_key = format!("k{key}");
        let numbers: Vec<_> = seen.iter().filter(|(k, _)| *k == of_key).map(|(_, n)| *n).collect();
        assert_eq!(numbers, (0..each).collect::<Vec<_>>(), "each once and in order");
    }
    // The last may have arrived before their acknowledgement has.
    until("all acknowledgements", PATIENCE, async || match sending.stats() {
        stats if (stats.sent, stats.lost, stats.refused) == (keys * each, 0, 0) => Ok(()),
        stats => Err(format!("{stats:?}")),
    })
    .await
    .unwrap();
    one.close().await;
    other.close().await;
}
