//! The tests that every implementation of [`Discovery`] passes.
//!
//! Each test takes a discovery whose services no other test uses, and times that suit its engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use super::{Discovery, DiscoveryError, Instance, InstanceWatch, Picker};

/// What the suite needs to know of an implementation.
pub struct Subject {
    /// The implementation.
    pub discovery: Arc<dyn Discovery>,
    /// The shortest time to live that the engine keeps to.
    pub ttl: Duration,
    /// How long a change may take to be seen.
    pub patience: Duration,
    /// Put before the names of services, so that tests on one engine do not meet.
    pub prefix: String,
}

/// Runs every test of the suite.
///
/// # Panics
///
/// Where the implementation breaks the contract.
pub async fn all(subject: &Subject) {
    registered_instances_are_known_until_revoked(subject).await;
    a_lease_that_is_not_renewed_expires(subject).await;
    a_later_registration_takes_over(subject).await;
    a_watch_shows_the_latest_state(subject).await;
    unhealthy_instances_are_known_and_not_picked(subject).await;
    what_cannot_be_is_refused(subject).await;
}

fn instance(subject: &Subject, service: &str, id: &str) -> Instance {
    Instance {
        service: format!("{}{service}", subject.prefix),
        id: id.to_owned(),
        node: "node-1".to_owned(),
        address: "127.0.0.1:8080".to_owned(),
        version: Version::new(1, 0, 0),
        healthy: true,
        metadata: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
    }
}

async fn until(subject: &Subject, watch: &mut InstanceWatch, wanted: &[&str]) {
    let reached = async {
        let mut now = watch.current();
        while now.iter().map(|instance| instance.id.as_str()).ne(wanted.iter().copied()) {
            match watch.changed().await {
                Some(next) => now = next,
                None => return,
            }
        }
    };
    let reached = tokio::time::timeout(subject.patience, reached).await;
    assert!(reached.is_ok(), "waited for {wanted:?}, saw {:?}", watch.current());
}

async fn registered_instances_are_known_until_revoked(subject: &Subject) {
    let discovery = &subject.discovery;
    let one = instance(subject, "known", "b");
    let lease = ok(discovery.register(one.clone(), subject.ttl * 20).await);
    let other = ok(discovery.register(instance(subject, "known", "a"), subject.ttl * 20).await);
    let known = ok(discovery.instances(&one.service).await);
    assert_eq!(known.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["a", "b"], "sorted by id");
    assert_eq!(known[1], one, "what was registered comes back whole");
    ok(lease.revoke().await);
    assert_eq!(ok(discovery.instances(&one.service).await).len(), 1);
    drop(other);
    let mut watch = ok(discovery.watch(&one.service).await);
    until(subject, &mut watch, &[]).await;
    assert!(ok(discovery.instances("no-such-service").await).is_empty());
}

async fn a_lease_that_is_not_renewed_expires(subject: &Subject) {
    let discovery = &subject.discovery;
    let kept = ok(discovery.register(instance(subject, "expires", "kept"), subject.ttl).await);
    let lost = ok(discovery.register(instance(subject, "expires", "lost"), subject.ttl).await);
    let service = instance(subject, "expires", "").service;
    let mut watch = ok(discovery.watch(&service).await);
    let renewing = async {
        loop {
            tokio::time::sleep(subject.ttl / 4).await;
            ok(kept.renew().await);
        }
    };
    tokio::select! {
        () = renewing => {}
        () = until(subject, &mut watch, &["kept"]) => {}
    }
    assert!(matches!(lost.renew().await, Err(DiscoveryError::LeaseEnded { .. })));
}

async fn a_later_registration_takes_over(subject: &Subject) {
    let discovery = &subject.discovery;
    let mut taken = instance(subject, "taken", "x");
    let first = ok(discovery.register(taken.clone(), subject.ttl * 20).await);
    taken.address = "127.0.0.1:9090".to_owned();
    let _second = ok(discovery.register(taken.clone(), subject.ttl * 20).await);
    assert!(matches!(first.renew().await, Err(DiscoveryError::LeaseEnded { .. })));
    drop(first);
    let known = ok(discovery.instances(&taken.service).await);
    assert_eq!(&*known, [taken], "the first lease's end does not touch the second's instance");
}

async fn a_watch_shows_the_latest_state(subject: &Subject) {
    let discovery = &subject.discovery;
    let service = instance(subject, "watched", "").service;
    let mut watch = ok(discovery.watch(&service).await);
    assert!(watch.current().is_empty());
    let a = ok(discovery.register(instance(subject, "watched", "a"), subject.ttl * 20).await);
    let _b = ok(discovery.register(instance(subject, "watched", "b"), subject.ttl * 20).await);
    until(subject, &mut watch, &["a", "b"]).await;
    ok(a.revoke().await);
    until(subject, &mut watch, &["b"]).await;
}

async fn unhealthy_instances_are_known_and_not_picked(subject: &Subject) {
    let discovery = &subject.discovery;
    let service = instance(subject, "picked", "").service;
    let a = ok(discovery.register(instance(subject, "picked", "a"), subject.ttl * 20).await);
    let _b = ok(discovery.register(instance(subject, "picked", "b"), subject.ttl * 20).await);
    let _c = ok(discovery.register(instance(subject, "picked", "c"), subject.ttl * 20).await);
    ok(a.set_healthy(false).await);
    let known = ok(discovery.instances(&service).await);
    assert_eq!(known.len(), 3);
    let picker = Picker::new();
    let picked: Vec<_> = (0..4).filter_map(|_| picker.pick(&known)).map(|i| i.id.as_str()).collect();
    assert_eq!(picked, ["b", "c", "b", "c"]);
}

async fn what_cannot_be_is_refused(subject: &Subject) {
    let discovery = &subject.discovery;
    let no_id = discovery.register(instance(subject, "refused", ""), subject.ttl).await;
    assert!(matches!(no_id.err(), Some(DiscoveryError::Invalid { field: "id", .. })));
    let no_time = discovery.register(instance(subject, "refused", "a"), Duration::ZERO).await;
    assert!(matches!(no_time.err(), Some(DiscoveryError::Invalid { field: "ttl", .. })));
    let service = instance(subject, "refused", "").service;
    assert!(ok(discovery.instances(&service).await).is_empty(), "a refusal changes nothing");
}

#[expect(clippy::panic, reason = "a test suite, which fails by panicking")]
fn ok<T>(outcome: Result<T, DiscoveryError>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}
