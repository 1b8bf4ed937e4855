//! Retries, dead letters, and counts that add up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_bus::{
    DEAD_LETTER_ATTEMPTS, DEAD_LETTER_ID, DEAD_LETTER_REASON, DEAD_LETTER_SUBSCRIPTION, DEAD_LETTER_TOPIC,
    DeadLetterCause, DeadLetterFilter, DeadLetterId, Event, EventBus, EventHandler, FailureKind,
    HandlerError, Limits, Overflow, Pattern, RedriveError, Retry, SubscribeOptions, SubscriptionStats,
};

use crate::support::{LONG, Recorder, event, number, publish, topic, until};

fn options() -> SubscribeOptions {
    SubscribeOptions::default().overflow(Overflow::Block)
}

fn seconds(attempts: u32) -> Retry {
    Retry::new(attempts).backoff(Duration::from_secs(1))
}

/// Notes each call, and fails on the numbers that are set to fail as long as they are.
#[derive(Clone, Default)]
struct Flaky {
    calls: Arc<Mutex<Vec<u64>>>,
    fails: Arc<Mutex<Vec<u64>>>,
}

impl Flaky {
    fn on(numbers: &[u64]) -> Self {
        Self { calls: Arc::default(), fails: Arc::new(Mutex::new(numbers.to_vec())) }
    }

    fn calls(&self) -> Vec<u64> {
        self.calls.lock().unwrap().clone()
    }

    fn mend(&self) {
        self.fails.lock().unwrap().clear();
    }
}

impl EventHandler for Flaky {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let n = number(event);
        self.calls.lock().unwrap().push(n);
        if self.fails.lock().unwrap().contains(&n) { Err("out of order".into()) } else { Ok(()) }
    }
}

fn adds_up(stats: &SubscriptionStats) {
    let known = stats.delivered + stats.dropped + stats.dead + stats.discarded + stats.depth + stats.retrying;
    assert_eq!(stats.accepted, known, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_failed_event_does_not_wait_for_its_attempts() {
    let bus = EventBus::builder().build();
    let flaky = Flaky::on(&[1]);
    let subscription = bus.subscribe("a", options().retry(seconds(3)), flaky.clone()).unwrap();
    let began = tokio::time::Instant::now();
    publish(&bus, "a", 0..4).await;
    until("the others", || flaky.calls().len() == 4).await;
    assert_eq!(flaky.calls(), [0, 1, 2, 3]);
    assert!(began.elapsed() < Duration::from_millis(400), "nobody waited");
    let stats = subscription.stats();
    assert_eq!((stats.delivered, stats.retrying, stats.failed), (3, 1, 1));
    adds_up(&stats);
    until("dead", || subscription.stats().dead == 1).await;
    assert_eq!(flaky.calls(), [0, 1, 2, 3, 1, 1]);
    // Waits of 1 s and 2 s, each shortened to half at the most.
    let took = began.elapsed();
    assert!((Duration::from_millis(1500)..=Duration::from_millis(3100)).contains(&took), "{took:?}");
    let stats = subscription.stats();
    assert_eq!((stats.retried, stats.calls, stats.failed, stats.retrying), (2, 6, 3, 0));
    adds_up(&stats);
}

#[tokio::test(start_paused = true)]
async fn with_order_kept_what_follows_waits_and_no_longer_than_the_policy_says() {
    let bus = EventBus::builder().build();
    let flaky = Flaky::on(&[1]);
    let retry = seconds(4).backoff_max(Duration::from_secs(2)).keep_order();
    let _kept = bus.subscribe("a", options().retry(retry), flaky.clone()).unwrap();
    let began = tokio::time::Instant::now();
    publish(&bus, "a", 0..4).await;
    until("all", || flaky.calls().len() == 7).await;
    assert_eq!(flaky.calls(), [0, 1, 1, 1, 1, 2, 3]);
    assert_eq!(retry.longest_wait(), Duration::from_secs(5));
    assert!(began.elapsed() <= retry.longest_wait() + Duration::from_millis(100));
}

#[tokio::test]
async fn poison_that_is_due_at_once_takes_turns_with_what_follows() {
    let bus = EventBus::builder().build();
    let poison: Vec<u64> = (0..20).collect();
    let flaky = Flaky::on(&poison);
    let retry = Retry::new(100).backoff(Duration::ZERO);
    let subscription = bus.subscribe("a", options().retry(retry), flaky.clone()).unwrap();
    publish(&bus, "a", 0..40).await;
    until("dead", || subscription.stats().dead == 20).await;
    let calls = flaky.calls();
    assert_eq!(calls.len(), 20 * 100 + 20);
    let last_good = calls.iter().rposition(|n| *n >= 20).unwrap();
    assert!(last_good < 100, "held up until call {last_good}");
}

#[tokio::test(start_paused = true)]
async fn an_awaited_event_is_handled_when_an_attempt_succeeds() {
    let bus = EventBus::builder().build();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let subscription = bus
        .subscribe("a", options().retry(seconds(5)), move |_| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            assert!(call != 0, "a panic before there is a future");
            async move {
                assert!(call != 1, "a panic in the call");
                if call == 2 { Err("not yet".into()) } else { Ok(()) }
            }
        })
        .unwrap();
    let report = bus.publish_and_wait(event("a", 0), LONG).await.unwrap();
    assert!(report.is_clean());
    let stats = subscription.stats();
    assert_eq!((stats.delivered, stats.panicked, stats.failed, stats.retried), (1, 2, 1, 3));
    adds_up(&stats);
}

#[tokio::test]
async fn a_permanent_failure_is_a_dead_letter_at_once_that_says_everything() {
    let bus = EventBus::builder().build();
    let handler = async |_| Err(HandlerError::permanent("no such\norder"));
    let options = options().name("billing").owner("shop").retry(seconds(5));
    let subscription = bus.subscribe("orders.*", options, handler).unwrap();
    let poison = event("orders.created", 7);
    let report = bus.publish_and_wait(poison.clone(), LONG).await.unwrap();
    assert_eq!(report.failures[0].kind, FailureKind::Failed("no such order".into()));
    let letters = bus.dead_letters(&DeadLetterFilter::new()).letters;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert!(letter.event.is_same(&poison));
    assert_eq!((letter.cause, letter.attempts), (DeadLetterCause::Permanent, 1));
    assert_eq!((letter.subscription, letter.name.as_str()), (subscription.id(), "billing"));
    assert_eq!((letter.owner.as_deref(), letter.reason.as_str()), (Some("shop"), "no such order"));
    let json = serde_json::to_value(letter).unwrap();
    assert_eq!((&json["cause"], &json["event"]["data"]), (&"permanent".into(), &7.into()));
    assert_eq!(bus.stats().dead_lettered, 1);
    let info = &bus.subscriptions()[0];
    assert!(info.dead_letters && info.retry == Some(seconds(5)));
}

#[tokio::test]
async fn without_a_policy_a_failure_is_counted_and_forgotten() {
    let bus = EventBus::builder().build();
    let subscription = bus.subscribe("a", options(), async |_| Err("always".into())).unwrap();
    bus.publish_and_wait(event("a", 0), LONG).await.unwrap().failures.pop().unwrap();
    until("counted", || subscription.stats().delivered == 1).await;
    assert_eq!((subscription.stats().failed, subscription.stats().dead), (1, 0));
    assert_eq!(bus.dead_letters(&DeadLetterFilter::new()).total, 0);
}

#[tokio::test]
async fn a_redriven_letter_goes_to_its_subscription_alone_and_may_die_again() {
    let bus = EventBus::builder().build();
    let (flaky, other) = (Flaky::on(&[1, 2]), Recorder::new());
    let subscription = bus.subscribe("a", options().dead_letters(), flaky.clone()).unwrap();
    let _other = bus.subscribe("a", options(), other.clone()).unwrap();
    publish(&bus, "a", 0..3).await;
    until("dead", || subscription.stats().dead == 2).await;
    let all = DeadLetterFilter::new();
    let first = bus.dead_letters(&all).letters[0].id;
    assert_eq!(bus.redrive(first), Ok(subscription.id()));
    assert_eq!(bus.redrive(first), Err(RedriveError::Unknown(first)));
    until("dead again", || bus.stats().dead_lettered == 3).await;
    adds_up(&subscription.stats());
    flaky.mend();
    let letters = bus.dead_letters(&all).letters;
    let again = letters.iter().find(|letter| letter.redriven == 1).unwrap();
    assert_eq!((number(&again.event), again.attempts), (1, 1));
    for letter in &letters {
        bus.redrive(letter.id).unwrap();
    }
    until("handled", || subscription.stats().delivered == 3).await;
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.dead, stats.retrying, stats.failed), (3, 0, 0, 3));
    assert_eq!((bus.stats().redriven, other.len()), (3, 3));
    adds_up(&stats);
}

#[tokio::test]
async fn a_letter_outlives_its_subscription_and_goes_to_the_one_that_follows_it() {
    let bus = EventBus::builder().build();
    let spec = || options().name("billing").owner("shop").dead_letters();
    let old = bus.subscribe("a", spec(), Flaky::on(&[0])).unwrap();
    publish(&bus, "a", 0..1).await;
    until("dead", || old.stats().dead == 1).await;
    old.drained(LONG).await;
    let letter = bus.dead_letters(&DeadLetterFilter::new()).letters.remove(0);
    let seen = Recorder::new();
    let _stranger = bus.subscribe("a", options().name("billing").dead_letters(), seen.clone()).unwrap();
    let _forgetful = bus.subscribe("a", options().name("billing").owner("shop"), seen.clone()).unwrap();
    let ended = Err(RedriveError::Ended("billing".into()));
    assert_eq!((bus.redrive_target(letter.id), bus.redrive(letter.id)), (ended.clone(), ended));
    assert_eq!(bus.stats().totals.dead, 1, "it is still there");
    let heir = bus.subscribe("a", spec(), seen.clone()).unwrap();
    assert_eq!(bus.redrive_target(letter.id), Ok(heir.id()));
    assert_eq!(bus.redrive(letter.id), Ok(heir.id()));
    seen.has(1).await;
    until("counted", || heir.stats().delivered == 1).await;
    adds_up(&heir.stats());
    let totals = bus.stats().totals;
    assert_eq!((totals.accepted, totals.delivered, totals.discarded, totals.dead), (2, 1, 1, 0));
}

#[tokio::test]
async fn letters_are_listed_by_page_and_discarded() {
    let bus = EventBus::builder().build();
    let spec = options().owner("shop").dead_letters();
    let failing = bus.subscribe("a.*", spec, async |_| Err("always".into())).unwrap();
    publish(&bus, "a.x", 0..5).await;
    publish(&bus, "a.y", 5..6).await;
    until("dead", || failing.stats().dead == 6).await;
    let by = |filter: &DeadLetterFilter| {
        let page = bus.dead_letters(filter);
        (page.letters.iter().map(|l| number(&l.event)).collect::<Vec<_>>(), page.total, page.next)
    };
    let filter = DeadLetterFilter::new().pattern(Pattern::new("a.x").unwrap()).limit(2);
    let (numbers, total, next) = by(&filter);
    assert_eq!((numbers, total), (vec![0, 1], 5));
    let (numbers, _, next) = by(&filter.clone().after(next.unwrap()));
    assert_eq!(numbers, [2, 3]);
    let (numbers, _, next) = by(&filter.after(next.unwrap()));
    assert_eq!((numbers, next), (vec![4], None));
    assert_eq!(by(&DeadLetterFilter::new().owner("else")).1, 0);
    assert_eq!(by(&DeadLetterFilter::new().subscription(failing.id())).1, 6);
    let all = DeadLetterFilter::new;
    let second = bus.dead_letters(&all()).letters[1].time;
    for (filter, total) in [
        (all().name("a.*"), 6),
        (all().name("b"), 0),
        (all().cause(DeadLetterCause::Failed), 6),
        (all().cause(DeadLetterCause::Panicked), 0),
        (all().reason("way"), 6),
        (all().reason("never"), 0),
    ] {
        assert_eq!(by(&filter).1, total, "{filter:?}");
    }
    let (before, from) = (by(&all().until(second)).1, by(&all().since(second)).1);
    assert!(before <= 1 && before + from == 6, "{before} {from}");
    let id = bus.dead_letters(&DeadLetterFilter::new()).letters[0].id;
    assert!(bus.dead_letter(id).is_some());
    assert!(bus.discard(id));
    assert!(!bus.discard(id) && bus.dead_letter(id).is_none());
    assert!(!bus.discard(DeadLetterId(999)));
    assert_eq!((failing.stats().dead, failing.stats().discarded), (5, 1));
    adds_up(&failing.stats());
}

#[tokio::test]
async fn promise_8_dead_letters_are_bounded_and_a_loud_subscription_pushes_out_its_own() {
    let limits = Limits { dead_letters: 10, ..Limits::default() };
    let bus = EventBus::builder().limits(limits).build();
    let quiet = bus.subscribe("quiet", options().dead_letters(), async |_| Err("x".into())).unwrap();
    let loud = bus.subscribe("loud", options().dead_letters(), async |_| Err("x".into())).unwrap();
    publish(&bus, "quiet", 0..2).await;
    until("dead", || quiet.stats().dead == 2).await;
    publish(&bus, "loud", 0..100).await;
    until("all failed", || loud.stats().failed == 100 && loud.stats().dead == 8).await;
    assert_eq!((quiet.stats().dead, loud.stats().discarded), (2, 92));
    assert_eq!(bus.dead_letters(&DeadLetterFilter::new()).total, 10);
    adds_up(&loud.stats());

    let limits = Limits { dead_letter_bytes: 5_000, ..Limits::default() };
    let bus = EventBus::builder().limits(limits).build();
    let loud = bus.subscribe("loud", options().dead_letters(), async |_| Err("x".into())).unwrap();
    publish(&bus, "loud", 0..100).await;
    until("all failed", || loud.stats().failed == 100 && loud.stats().dead == 4).await;
}

#[tokio::test(start_paused = true)]
async fn promise_8_what_waits_for_another_attempt_and_what_is_redriven_is_bounded() {
    let bus = EventBus::builder().build();
    let spec = options().capacity(3).retry(seconds(2));
    let subscription = bus.subscribe("a", spec, async |_| Err("always".into())).unwrap();
    publish(&bus, "a", 0..5).await;
    until("all tried", || subscription.stats().calls == 5).await;
    assert_eq!(subscription.stats().retrying, 3);
    let letters = bus.dead_letters(&DeadLetterFilter::new()).letters;
    assert!(letters.len() == 2 && letters.iter().all(|l| l.cause == DeadLetterCause::NoRoom));
    until("dead", || subscription.stats().dead == 5).await;
    let letters = bus.dead_letters(&DeadLetterFilter::new()).letters;
    // One thread: the reader does not run in between.
    let outcomes: Vec<_> = letters.iter().map(|letter| bus.redrive(letter.id).is_ok()).collect();
    assert_eq!(outcomes, [true, true, true, false, false]);
    assert_eq!(bus.redrive(letters[4].id), Err(RedriveError::Full("a".into())));
    adds_up(&subscription.stats());
}

#[tokio::test]
async fn a_dead_letter_is_published_where_asked_and_never_in_a_circle() {
    let bus = EventBus::builder().build();
    let dead = Arc::new(Mutex::new(Vec::new()));
    let kept = dead.clone();
    let _watch = bus
        .subscribe(
            "dead.a",
            options(),
            event_bus::by_ref(move |event: &Event| {
                kept.lock().unwrap().push(event.clone());
                Ok(())
            }),
        )
        .unwrap();
    let spec = options().name("all").dead_letter_topic(topic("dead.a")).retry(Retry::new(1));
    let all = bus.subscribe("**", spec, async |_| Err("always".into())).unwrap();
    let mut builder = Event::builder(topic("a")).source("shop").typed(42_u64);
    for n in 0..32 {
        builder = builder.metadata(format!("k{n}"), n);
    }
    let poison = builder.build(&runtime::SystemClock).unwrap();
    bus.publish(poison.clone()).await.unwrap();
    until("both dead", || all.stats().dead == 2).await;
    let dead = dead.lock().unwrap();
    let [notice] = &dead[..] else { panic!("{dead:?}") };
    let text = |key| notice.metadata().get(key).unwrap().to_string();
    assert_eq!(text(DEAD_LETTER_ID), poison.id().to_string());
    assert_eq!((text(DEAD_LETTER_TOPIC), text(DEAD_LETTER_SUBSCRIPTION)), ("a".into(), "all".into()));
    assert_eq!((text(DEAD_LETTER_REASON), text(DEAD_LETTER_ATTEMPTS)), ("always".into(), "1".into()));
    assert_eq!((notice.source(), notice.downcast::<u64>()), ("shop", Some(&42)));
    assert_eq!(notice.metadata().len(), 32, "bounded");
    assert_ne!(notice.id(), poison.id());
    assert_eq!(bus.stats().published, 2, "no third");
}

#[tokio::test(start_paused = true)]
async fn promise_4_an_end_does_not_wait_for_another_attempt_and_a_drain_does() {
    let bus = EventBus::builder().build();
    for retry in [seconds(2), seconds(2).keep_order()] {
        let flaky = Flaky::on(&[0]);
        let subscription = bus.subscribe("a", options().retry(retry), flaky.clone()).unwrap();
        publish(&bus, "a", 0..1).await;
        until("failed", || subscription.stats().retrying == 1).await;
        let began = tokio::time::Instant::now();
        subscription.cancel();
        subscription.ended().await;
        assert!(began.elapsed() < Duration::from_millis(400));
        assert_eq!(flaky.calls(), [0]);
        let stats = subscription.stats();
        assert_eq!((stats.discarded, stats.retrying), (1, 0));
        adds_up(&stats);
    }

    let flaky = Flaky::on(&[0]);
    let subscription = bus.subscribe("a", options().retry(seconds(2)), flaky.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    until("failed", || subscription.stats().retrying == 1).await;
    assert_eq!(subscription.drained(LONG).await, 0);
    assert_eq!((flaky.calls().len(), subscription.stats().dead), (2, 1));
    adds_up(&subscription.stats());

    let _last = bus.subscribe("a", options().retry(seconds(2).backoff(LONG)), flaky).unwrap();
    publish(&bus, "a", 0..1).await;
    until("failed", || bus.stats().totals.retrying == 1).await;
    assert_eq!(bus.shutdown(Duration::from_secs(1)).await.undelivered, 1, "promise 7: handed back");
    adds_up(&bus.stats().totals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_7_what_waits_for_another_attempt_behind_a_stuck_call_is_handed_back() {
    let bus = EventBus::builder().build();
    let (release, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    let entered = Arc::new(AtomicBool::new(false));
    let noted = entered.clone();
    let handler = event_bus::by_ref(move |event: &Event| {
        if number(event) == 0 {
            return Err("out of order".into());
        }
        noted.store(true, Ordering::Release);
        let _ = gate.lock().unwrap().recv();
        Ok(())
    });
    let subscription = bus.subscribe("a", options().retry(seconds(2).backoff(LONG)), handler).unwrap();
    publish(&bus, "a", 0..2).await;
    until("stuck", || entered.load(Ordering::Acquire)).await;
    assert_eq!(subscription.drained(Duration::ZERO).await, 1);
    assert_eq!(bus.shutdown(Duration::ZERO).await.undelivered, 1);
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_add_up_whatever_comes_goes_fails_and_panics() {
    let limits = Limits { dead_letters: 50, ..Limits::default() };
    let bus = EventBus::builder().limits(limits).build();
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (bus, stop) = (bus.clone(), stop.clone());
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                for n in 0.. {
                    bus.publish(event("a.b", n)).await.unwrap();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            })
        })
        .collect();
    let policies = [Overflow::Block, Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect];
    for round in 0..200_u64 {
        let quick = Retry::new(3).backoff(Duration::from_micros(50));
        let pick = |n: u64| usize::try_from(round % n).unwrap();
        let mut spec = options().overflow(policies[pick(4)]).capacity(1 << pick(7)).concurrency(1 + pick(3));
        spec = match round % 5 {
            0 => spec,
            1 => spec.retry(quick.keep_order()),
            2 => spec.dead_letters(),
            _ => spec.retry(quick).dead_letter_topic(topic("dead")),
        };
        let subscription = bus
            .subscribe(["a.b", "a.*", "**"][pick(3)], spec.name("same"), async |event: Event| {
                match event.id().to_string().bytes().last() {
                    Some(b'0'..=b'3') => Err("now and then".into()),
                    Some(b'4') => Err(HandlerError::permanent("never")),
                    Some(b'5') => panic!("now and then"),
                    Some(b'6') => {
                        tokio::time::sleep(Duration::from_micros(200)).await;
                        Ok(())
                    }
                    _ => Ok(()),
                }
            })
            .unwrap();
        until("some", || subscription.stats().calls > 20 || subscription.is_ended()).await;
        for (n, letter) in bus.dead_letters(&DeadLetterFilter::new()).letters.iter().enumerate() {
            match n % 3 {
                0 => drop(bus.redrive(letter.id)),
                1 => drop(bus.discard(letter.id)),
                _ => {}
            }
        }
        match round % 3 {
            0 => subscription.cancel(),
            1 => drop(subscription.drained(LONG).await),
            _ => drop(subscription.drained(Duration::ZERO).await),
        }
        tokio::time::timeout(LONG, subscription.ended()).await.unwrap();
        let stats = subscription.stats();
        assert_eq!((stats.retrying, stats.depth), (0, 0), "round {round}: {stats:?}");
        adds_up(&stats);
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let stats = bus.stats();
    adds_up(&stats.totals);
    let kept = bus.dead_letters(&DeadLetterFilter::new()).total;
    assert_eq!(stats.totals.dead, kept as u64, "what counts as dead is in the store");
    assert!(kept <= 50 && stats.dead_lettered > 200 && stats.redriven > 20, "{stats:?}");
}
