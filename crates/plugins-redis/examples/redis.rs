//! What the guide shows, on the Redis whose address is the first argument.

#![expect(clippy::print_stdout, reason = "an example: its output is its purpose")]

use std::sync::Arc;
use std::time::Duration;

use event_bus::{Acknowledge, BridgeOptions, Event, EventBus, Pattern, SubscribeOptions, Topic};
use plugins_redis::fred::interfaces::{HashesInterface, KeysInterface};
use plugins_redis::{
    Cache, CacheOptions, Locks, Redis, RedisConfig, RedisStreams, SlidingWindow, StreamOptions,
};
use serde_json::json;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    run(&address).await
}

pub(crate) async fn run(address: &str) -> Result<(), Failure> {
    let redis = Redis::connect(&RedisConfig::at(address)?)?;
    redis.connected(Duration::from_secs(30)).await?;
    commands(&redis).await?;
    caches(&redis).await?;
    locks(&redis).await?;
    limits(&redis).await?;
    events(&redis).await?;
    redis.close().await;
    Ok(())
}

async fn commands(redis: &Redis) -> Result<(), Failure> {
    let client = redis.client();
    redis.call("HSET", client.hset::<(), _, _>("user:7", [("name", "Ada"), ("city", "London")])).await?;
    let name: Option<String> = redis.call("HGET", client.hget("user:7", "name")).await?;
    println!("name: {name:?}");

    // One write to the socket, one answer.
    let pipeline = client.pipeline();
    for n in 0..3 {
        let _: () = pipeline.get(format!("key:{n}")).await?;
    }
    let found: Vec<Option<String>> = redis.call("GET", pipeline.all()).await?;
    println!("found: {}", found.iter().flatten().count());
    Ok(())
}

async fn caches(redis: &Redis) -> Result<(), Failure> {
    let prices = Cache::new(redis.clone(), CacheOptions::new("price:", Duration::from_secs(60)));
    let price: u32 = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(3) }).await?;
    println!("price: {price}");
    prices.remove("tea").await?;
    Ok(())
}

async fn locks(redis: &Redis) -> Result<(), Failure> {
    let locks = Locks::new(redis.clone(), "jobs:");
    let (ttl, wait) = (Duration::from_secs(30), Duration::from_secs(5));
    let Some(lock) = locks.acquire("nightly", ttl, wait).await? else { return Ok(()) };
    tokio::select! {
        () = report(lock.fencing_token()) => {}
        () = lock.lost() => println!("others may work on it now"),
    }
    lock.release().await?;
    Ok(())
}

async fn report(token: u64) {
    // What the report writes carries the token, and is refused where a greater one has been.
    println!("token: {}", token > 0);
}

async fn limits(redis: &Redis) -> Result<(), Failure> {
    let window = SlidingWindow::new(redis.clone(), "login:", 5, Duration::from_secs(60));
    let decision = window.take("203.0.113.9").await?;
    println!("allowed: {}", decision.allowed);
    Ok(())
}

async fn events(redis: &Redis) -> Result<(), Failure> {
    let bus = EventBus::builder().build();
    let handler = async |event: Event| {
        println!("order: {}", event.data());
        Ok(())
    };
    let _subscription = bus.subscribe("orders.**", SubscribeOptions::new(), handler)?;
    let options = StreamOptions { partitions: 4, ..StreamOptions::new("shop", "node-1") };
    let transport = Arc::new(RedisStreams::new(redis.clone(), options)?);
    let options = BridgeOptions::new().acknowledge(Acknowledge::Handled);
    let bridge = bus.bridge(Pattern::new("orders.**")?, transport, options)?;

    let placed = Event::builder(Topic::new("orders.placed")?).data(json!({"id": 7})).build(&**bus.clock())?;
    bus.publish_durable(placed, Some(&bridge), Duration::from_secs(10)).await?;
    println!("sent: {}", bridge.stats().sent);
    bridge.close(Duration::from_secs(5)).await;
    let _ = bus.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
