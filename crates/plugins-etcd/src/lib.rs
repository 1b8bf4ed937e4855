//! etcd as a plugin, and Gantry's ports over it.
//!
//! Layer 6: knows `plugin-core` and the ports that it fills, and nothing of what runs plugins. Only an app
//! names it. [`EtcdPlugin`] offers the client, [`Etcd`], as the service `etcd`; the client is of use by itself
//! too.
//!
//! ```no_run
//! # use std::time::Duration;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use plugins_etcd::{Etcd, EtcdConfig, Seen};
//!
//! let etcd = Etcd::new(EtcdConfig::at(["10.0.0.1", "10.0.0.2", "10.0.0.3"]))?;
//! etcd.put("colours/sky", "blue").await?;
//! let held = etcd.lock("painting", Duration::from_secs(10)).await?;
//! held.put("colours/grass", "green").await?;          // refused once the lock is lost
//! let mut watch = etcd.follow("colours/").await?;
//! while let Seen::State(_) | Seen::Changes(_) = watch.next().await? {
//!     // What there is, and then each change once, whichever members die.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`EtcdDiscovery`], [`EtcdConfigSource`] and [`EtcdCoordinator`] fill ports of `registry`, `plugin-core` and
//! `scheduler`, and pass their contract suites on real servers.
//!
//! Invariants:
//!
//! - Nothing waits for ever for an etcd that is away: a call ends within its `timeout`, with an error that
//!   names the members. Watches alone go on trying, and so do leases until their time is over.
//! - A change is sent again only where that comes to the same, or where it was surely not made. What may have
//!   been made and cannot be told is [`EtcdError::Uncertain`].
//! - A lease is over for its holder before it is over in etcd, by the holder's own clock.
//! - A watch gives each change once and in order, or the whole state in place of changes that were compacted.
//! - No secret is in an error, a span or a metric; neither are keys in spans.

mod client;
mod config;
mod config_source;
mod coordinator;
mod discovery;
mod election;
mod error;
mod health;
mod kv;
mod lease;
mod lock;
mod members;
mod meter;
mod plugin;
mod routes;
mod watch;

pub use client::Etcd;
pub use config::{EtcdConfig, TlsConfig};
pub use config_source::EtcdConfigSource;
pub use coordinator::EtcdCoordinator;
pub use discovery::EtcdDiscovery;
pub use election::{Election, Leader, Observer};
pub use error::EtcdError;
pub use etcd_client as bare;
pub use kv::Listing;
pub use lease::{Granted, Lease};
pub use lock::Held;
pub use plugin::{ETCD, EtcdPlugin};
pub use watch::{Change, Seen, Watch};
