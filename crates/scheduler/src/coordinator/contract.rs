//! What every [`Coordinator`] must do. An adapter's tests call [`run`] with a maker of empty clusters.

#![expect(clippy::expect_used, clippy::panic, reason = "a failed expectation is the suite's answer")]

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Assignment, Coordinator, CoordinatorError, Membership};

/// How long an engine may take to settle.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the whole suite; `make` gives a cluster without members each time.
///
/// # Panics
///
/// Where the coordinator does not keep the contract.
pub async fn run<C, F, Fut>(make: F)
where
    C: Coordinator,
    F: Fn() -> Fut,
    Fut: Future<Output = C>,
{
    one_node_owns_all(&make().await).await;
    nodes_share_and_take_over(&make().await).await;
    a_name_is_taken_once(&make().await).await;
}

async fn next(member: &mut Box<dyn Membership>) -> Assignment {
    runtime::within(PATIENCE, member.assignment())
        .await
        .expect("an assignment in time")
        .expect("a membership")
}

/// Waits until what the members own together is every shard once, each within one of an even share.
async fn settled(members: &mut [&mut Box<dyn Membership>], held: &mut [Assignment], shards: u32) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
        for grant in held.iter().flat_map(|assignment| &assignment.grants) {
            *owners.entry(grant.shard).or_default() += 1;
        }
        let even = shards as usize / held.len();
        let is_even = held.iter().all(|one| (even..=even + 1).contains(&one.grants.len()));
        let is_known = held.iter().all(|one| one.members.len() == held.len());
        if owners.len() == shards as usize && owners.values().all(|count| *count == 1) && is_even && is_known
        {
            return;
        }
        for (member, held) in members.iter_mut().zip(held.iter_mut()) {
            if let Ok(assignment) = runtime::within(Duration::from_millis(200), member.assignment()).await {
                *held = assignment.expect("a membership");
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "the shards are not divided: {held:?}");
    }
}

async fn one_node_owns_all(cluster: &impl Coordinator) {
    let mut member = cluster.join("a").await.expect("join");
    let assignment = next(&mut member).await;
    assert_eq!(assignment.members, ["a"]);
    let shards: Vec<u32> = assignment.grants.iter().map(|grant| grant.shard).collect();
    assert_eq!(shards, (0..cluster.shards()).collect::<Vec<_>>());
}

async fn nodes_share_and_take_over(cluster: &impl Coordinator) {
    let mut a = cluster.join("a").await.expect("join");
    let first = next(&mut a).await;
    let mut b = cluster.join("b").await.expect("join");
    let mut held = [next(&mut a).await, next(&mut b).await];
    settled(&mut [&mut a, &mut b], &mut held, cluster.shards()).await;
    let [of_a, of_b] = &held;
    for grant in &of_b.grants {
        let before = first.grants.iter().find(|before| before.shard == grant.shard).expect("a had it");
        assert!(grant.epoch > before.epoch, "promise 3: a new owner has a greater epoch");
    }
    for grant in &of_a.grants {
        assert!(first.grants.contains(grant), "what stays with its owner keeps its epoch");
    }
    let before = of_b.clone();
    b.leave().await;
    let mut held = [next(&mut a).await];
    settled(&mut [&mut a], &mut held, cluster.shards()).await;
    for grant in &before.grants {
        let [of_a] = &held;
        let now = of_a.grants.iter().find(|now| now.shard == grant.shard).expect("taken over");
        assert!(now.epoch > grant.epoch);
    }
}

async fn a_name_is_taken_once(cluster: &impl Coordinator) {
    let member = cluster.join("a").await.expect("join");
    match cluster.join("a").await {
        Err(CoordinatorError::NameTaken(name)) => assert_eq!(name, "a"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two members of one name"),
    }
    member.leave().await;
    cluster.join("a").await.expect("the name is free again");
}
