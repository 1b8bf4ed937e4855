//! What every [`RateLimitStore`] must do. An adapter's tests call [`run`] with a maker of stores without buckets.

#![expect(clippy::expect_used, reason = "a failed expectation is the suite's answer")]

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Rate, RateDecision, RateLimitStore};

/// How long an engine may take over what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long that no bucket fills while the suite runs.
const HOUR: Duration = Duration::from_secs(3600);

/// Runs the whole suite; `make` gives a store without buckets each time.
///
/// # Panics
///
/// Where the store does not keep the contract.
pub async fn run<S, F, Fut>(make: F)
where
    S: RateLimitStore,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    a_burst_passes_and_no_more(&make().await).await;
    each_key_has_a_bucket_of_its_own(&make().await).await;
    callers_at_once_share_one_budget(&make().await).await;
    a_bucket_fills_again(&make().await).await;
    no_more_pass_than_the_rate_allows(&make().await).await;
    another_rate_is_in_force_at_once(&make().await).await;
}

fn rate(burst: u32, interval: Duration) -> Rate {
    Rate::new(burst, interval).expect("a rate")
}

async fn take(store: &impl RateLimitStore, key: &str, rate: Rate) -> RateDecision {
    runtime::within(PATIENCE, store.take(key, rate)).await.expect("in time").expect("an answer")
}

async fn a_burst_passes_and_no_more(store: &impl RateLimitStore) {
    let five = rate(5, HOUR);
    for left in (0..5).rev() {
        let decision = take(store, "burst", five).await;
        assert!(decision.allowed && decision.retry_after.is_zero(), "{decision:?}");
        assert_eq!(decision.remaining, left);
        let filled = HOUR * (5 - left);
        assert!(decision.reset_after <= filled && decision.reset_after > filled - HOUR / 2, "{decision:?}");
    }
    for _ in 0..20 {
        let decision = take(store, "burst", five).await;
        assert!(!decision.allowed, "{decision:?}");
        assert_eq!(decision.remaining, 0);
        // What was refused has taken nothing, and makes nobody wait longer.
        assert!(decision.retry_after <= HOUR && decision.retry_after > HOUR / 2, "{decision:?}");
        assert!(decision.reset_after <= five.window(), "{decision:?}");
    }
}

async fn each_key_has_a_bucket_of_its_own(store: &impl RateLimitStore) {
    let one = rate(1, HOUR);
    let long = "k".repeat(256);
    let odd = ["a", "A", "a ", "a:b", "{a}", "a*", "203.0.113.9/GET /x", "\n", "\u{e4}\u{1f980}", "", &long];
    for key in odd {
        assert!(take(store, key, one).await.allowed, "{key:?}");
    }
    for key in odd {
        assert!(!take(store, key, one).await.allowed, "{key:?}");
    }
}

async fn callers_at_once_share_one_budget(store: &impl RateLimitStore) {
    let decisions = join_all((0..60).map(|_| take(store, "shared", rate(20, HOUR)))).await;
    assert_eq!(decisions.iter().filter(|decision| decision.allowed).count(), 20);
    let mut left: Vec<u32> =
        decisions.iter().filter(|decision| decision.allowed).map(|decision| decision.remaining).collect();
    left.sort_unstable();
    assert_eq!(left, (0..20).collect::<Vec<_>>(), "each has taken another one");
}

async fn a_bucket_fills_again(store: &impl RateLimitStore) {
    let slow = rate(1, Duration::from_millis(200));
    assert!(take(store, "fills", slow).await.allowed);
    let begun = Instant::now();
    loop {
        let decision = take(store, "fills", slow).await;
        if decision.allowed {
            return;
        }
        assert!(decision.retry_after <= slow.interval(), "{decision:?}");
        assert!(begun.elapsed() < PATIENCE, "the bucket does not fill");
        tokio::time::sleep(decision.retry_after).await;
    }
}

async fn no_more_pass_than_the_rate_allows(store: &impl RateLimitStore) {
    let (burst, interval) = (3, Duration::from_millis(50));
    let begun = Instant::now();
    let mut passed = 0_u32;
    while begun.elapsed() < interval * 8 {
        passed += u32::from(take(store, "steady", rate(burst, interval)).await.allowed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // From before the first to after the last; an engine may count whole units of its clock.
    let most = f64::from(burst) + begun.elapsed().as_secs_f64() / interval.as_secs_f64() + 1.0;
    assert!(f64::from(passed) <= most, "{passed} passed, and {most} might");
    assert!(passed >= burst);
}

async fn another_rate_is_in_force_at_once(store: &impl RateLimitStore) {
    for _ in 0..10 {
        assert!(take(store, "changed", rate(10, HOUR)).await.allowed);
    }
    // Ten hours of debt under the old rate are one window of the new one.
    let stricter = rate(2, Duration::from_secs(60));
    let decision = take(store, "changed", stricter).await;
    assert!(!decision.allowed, "{decision:?}");
    assert!(decision.retry_after <= stricter.interval(), "{decision:?}");
    let wider = rate(50, HOUR);
    assert!(take(store, "changed", wider).await.allowed);
}
