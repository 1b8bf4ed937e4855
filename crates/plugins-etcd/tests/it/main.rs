//! etcd as Gantry uses it, on real members.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests: what is spawned ends with the test, helpers fail it, and what was counted is shown"
)]

mod bad_input;
mod faults;
mod host;
mod locks;
mod ports;
mod values;
mod watches;

use std::time::Duration;

use plugins_etcd::{Etcd, EtcdConfig, Seen, Watch};

/// How long anything may take that a test waits for: the machine may be busy with others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client of these servers.
pub(crate) fn client(servers: &testkit::Etcd) -> Etcd {
    Etcd::new(config(servers)).unwrap()
}

pub(crate) fn config(servers: &testkit::Etcd) -> EtcdConfig {
    // A busy machine is no failure.
    EtcdConfig { timeout: PATIENCE, ..EtcdConfig::at(servers.addresses()) }
}

/// What comes within the patience of tests.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// The next changes of a watch, as `key=value`, or `key` where it was removed.
pub(crate) async fn changes(watch: &mut Watch) -> Vec<String> {
    match soon("a change", watch.next()).await.unwrap() {
        Seen::Changes(changes) => changes
            .iter()
            .map(|change| match change {
                plugins_etcd::Change::Put(item) => {
                    format!("{}={}", item.key_str().unwrap(), item.value_str().unwrap())
                }
                plugins_etcd::Change::Delete { key, .. } => String::from_utf8(key.clone()).unwrap(),
            })
            .collect(),
        Seen::State(listing) => listing
            .items
            .iter()
            .map(|item| format!("state {}={}", item.key_str().unwrap(), item.value_str().unwrap()))
            .collect(),
    }
}
