//! What the tests have in common.

use std::time::Duration;

use plugins_redis::{Redis, RedisConfig};

/// How long anything may take on a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The settings of tests: what is lost is found again soon.
pub(crate) fn config(address: &str) -> RedisConfig {
    RedisConfig {
        reconnect_delay: Duration::from_millis(20),
        reconnect_delay_max: Duration::from_millis(200),
        command_timeout: PATIENCE,
        ..RedisConfig::at(address).unwrap()
    }
}

/// A client that is connected.
pub(crate) async fn connect(config: &RedisConfig) -> Redis {
    let redis = Redis::connect(config).unwrap();
    redis.connected(PATIENCE).await.unwrap();
    redis
}

/// Waits until its health says so.
pub(crate) async fn health(redis: &Redis, says: &[&str]) {
    testkit::until("its health", PATIENCE, async || {
        let health = redis.health().await;
        let all = says.iter().all(|text| health.message.contains(text));
        if all && health.healthy { Ok(()) } else { Err(format!("{health:?}")) }
    })
    .await
    .unwrap();
}
