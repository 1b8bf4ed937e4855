//! How long each kind of server takes until it is ready, everything included that a test waits for.

use std::future::Future;
use std::time::{Duration, Instant};

use testkit::{Etcd, Kafka, Redis, RedisCluster, RedisSentinel, StartError};

const ROUNDS: usize = 5;

pub(crate) async fn run(arguments: &[&str]) -> Result<bool, String> {
    let rounds = match arguments {
        [] => ROUNDS,
        [rounds] => rounds
            .parse()
            .ok()
            .filter(|rounds| *rounds > 0)
            .ok_or(format!("`{rounds}` is no number of rounds"))?,
        _ => return Err("one number of rounds, at most".into()),
    };
    println!("ready after, in seconds: median (lowest to highest) of {rounds} rounds\n");
    let results = [
        row("Redis", rounds, Redis::start).await,
        row("Redis Cluster, six nodes", rounds, RedisCluster::start).await,
        row("Redis Cluster, six nodes, linked", rounds, || RedisCluster::builder().linked().start()).await,
        row("Redis under three sentinels", rounds, RedisSentinel::start).await,
        row("etcd", rounds, Etcd::start).await,
        row("etcd, three members", rounds, Etcd::cluster).await,
        row("Kafka", rounds, Kafka::start).await,
        row("Kafka, three nodes", rounds, Kafka::cluster).await,
    ];
    Ok(results.iter().all(|fine| *fine))
}

async fn row<T, F>(name: &str, rounds: usize, start: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<T, StartError>>,
{
    // Not counted: it may have to fetch the program.
    if let Err(error) = start().await {
        println!("{name:34}not measured: {error}");
        return false;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        match start().await {
            Ok(_server) => times.push(begun.elapsed()),
            Err(error) => {
                println!("{name:34}not measured: {error}");
                return false;
            }
        }
    }
    times.sort();
    let show = |time: Option<&Duration>| format!("{:.2}", time.map_or(0.0, Duration::as_secs_f64));
    let (low, middle, high) = (show(times.first()), show(times.get(times.len() / 2)), show(times.last()));
    println!("{name:34}{middle:>6} ({low} to {high})");
    true
}
