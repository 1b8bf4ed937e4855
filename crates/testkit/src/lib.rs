//! Starts and hurts real servers for tests: Redis, Redis Cluster, Redis under sentinels, etcd, Apache Kafka.
//!
//! Outside of the layers: it depends on no crate of Gantry, and is a development dependency and never another.
//! No mock stands in for a server here; what an adapter promises is tested on what people run.
//!
//! ```no_run
//! # mod testkit_example {
//! use testkit::{RedisCluster, need};
//!
//! # /*
//! #[tokio::test]
//! # */
//! async fn a_dead_master_loses_nothing() {
//!     // Left out by name where there is no Redis to be had; red under CI=true.
//!     let cluster = need!(RedisCluster::builder().linked().start());
//!     cluster.nodes()[0].kill().await.unwrap();      // SIGKILL; terminate() is SIGTERM
//!     cluster.nodes()[1].pause().unwrap();           // SIGSTOP, until resume()
//!     cluster.nodes()[2].black_hole().unwrap();      // or cut(), delay(…); until mend()
//!     cluster.nodes()[0].restart().await.unwrap();   // on its port and its data
//!     // Gone at the end of the test, however it ends.
//! }
//! # }
//! ```
//!
//! Invariants:
//!
//! - A server listens on loopback only, on a port that no other test is given while the server exists, down or
//!   up.
//! - A start returns when the server is ready: it answers its own protocol, and a cluster agrees that it is
//!   whole. It waits for that condition with a deadline and never for a time. A server that ends instead, or
//!   is late, is an error that ends with its log.
//! - After a drop no process and no folder is left. The same holds when the test panics, is killed, or exits
//!   without dropping anything: a watchdog waits for the end of the test process. What is ended is ended by
//!   its id, and only if this crate started it.
//! - Nothing runs on the caller's runtime. Its time may stand still, its threads may be busy, and a future
//!   that is dropped half way leaves nothing behind.
//! - Nothing is installed. Programs come from the `PATH`, from Docker, or are fetched into a cache: see
//!   [`provision`].
//!
//! A **link** is a proxy in front of a server. With `linked()` each server has one for its clients, and in a
//! cluster one for each port that other members use, and the servers announce those instead of their own. So
//! [`Server::cut`] and its siblings take a member away from its clients and from the cluster, both ways;
//! [`Server::link`] is the clients' side alone. Links cost a hop, so that benchmarks go without. [`Link`]
//! stands by itself too, in front of anything.
//!
//! All tests of a program may share a server in a static that is filled once: it ends with the program. A
//! Kafka is worth it, a Redis, which is ready in some ten milliseconds, is not.
//!
//! A test that hurts nothing may use a server that runs already: `Redis::provide`, `RedisCluster::provide`,
//! `Etcd::provide` and `Kafka::provide` take what `GANTRY_TEST_REDIS_ADDR`, `GANTRY_TEST_REDIS_CLUSTER_ADDRS`,
//! `GANTRY_TEST_ETCD_ENDPOINTS` and `GANTRY_TEST_KAFKA_BROKERS` name, and start one where they are not set.
//!
//! Unix only: what it does to servers are signals. There are no features.

mod background;
mod environment;
mod error;
mod etcd;
mod kafka;
mod left_out;
mod link;
mod port;
mod probe;
mod process;
pub mod provision;
mod redis;
mod server;
mod services;
mod until;
mod watchdog;

pub use environment::ADDRESSES;
pub use error::{ControlError, StartError, Unavailable};
pub use etcd::{Etcd, EtcdBuilder};
pub use kafka::{Kafka, KafkaBuilder, KafkaTool};
pub use left_out::{ci, left_out};
pub use link::{Link, LinkState};
pub use redis::{Redis, RedisBuilder, RedisCluster, RedisClusterBuilder, RedisSentinel, Value};
pub use server::Server;
pub use services::{Condition, Service, Services, Standing};
pub use until::{TimedOut, until};
