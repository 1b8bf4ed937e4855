//! Streams, and where past and present meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_bus::{EventBus, EventStream, HistoryFilter, Since, StreamItem};
use futures_util::{FutureExt, StreamExt};

use crate::support::{LONG, event, number, publish, topic};

async fn next(stream: &mut EventStream) -> StreamItem {
    tokio::time::timeout(LONG, stream.next()).await.unwrap().unwrap()
}

async fn next_number(stream: &mut EventStream) -> u64 {
    match next(stream).await {
        StreamItem::Event(event) => number(&event),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_yields_what_is_published_and_says_what_it_missed() {
    let bus = EventBus::builder().build();
    let mut stream = bus.stream("a.*", 4, None).unwrap();
    assert!(stream.next().now_or_never().is_none());
    publish(&bus, "a.b", 0..3).await;
    publish(&bus, "other", 0..3).await;
    for n in 0..3 {
        assert_eq!(next_number(&mut stream).await, n);
    }
    publish(&bus, "a.b", 3..13).await;
    assert!(matches!(next(&mut stream).await, StreamItem::Lagged(6)));
    for n in 9..13 {
        assert_eq!(next_number(&mut stream).await, n);
    }
    assert_eq!(stream.stats().delivered, 7);
    drop(stream);
    assert!(bus.subscriptions().is_empty());
}

#[tokio::test]
async fn a_stream_ends_with_the_bus() {
    let bus = EventBus::builder().build();
    let mut stream = bus.stream("**", 4, None).unwrap();
    publish(&bus, "a", 0..1).await;
    // A stream is not a handler: its reader keeps what it has, and nobody waits for it.
    let report = bus.shutdown(LONG).await;
    assert_eq!(report.undelivered, 0);
    assert_eq!(next_number(&mut stream).await, 0);
    assert!(tokio::time::timeout(LONG, stream.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_goes_on_after_an_event_or_says_that_it_cannot() {
    let bus = EventBus::builder().history(5).build();
    publish(&bus, "a", 0..10).await;
    let kept = bus.history(&HistoryFilter::new());
    let mut stream = bus.stream("a", 4, Some(Since::Id(kept[1].id().clone()))).unwrap();
    publish(&bus, "a", 10..12).await;
    for n in 7..12 {
        assert_eq!(next_number(&mut stream).await, n);
    }
    let unknown = event("a", 0).id().clone();
    let mut stream = bus.stream("a", 4, Some(Since::Id(unknown))).unwrap();
    assert!(matches!(next(&mut stream).await, StreamItem::Gap));
    assert_eq!(next_number(&mut stream).await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_and_present_meet_without_gap_or_double() {
    let bus = EventBus::builder().history(1000).build();
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (bus, stop) = (bus.clone(), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "joined below")]
        tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                bus.publish(event(["a.x", "a.y"][usize::from(n % 3 == 0)], n)).await.unwrap();
                n += 1;
            }
        })
    };
    let x = topic("a.x");
    for round in 0..100 {
        let Some(last) = bus.history(&HistoryFilter::new()).last().cloned() else { continue };
        let pattern = ["**", "a.x", "a.*"][round % 3];
        let mut stream = bus.stream(pattern, 100_000, Some(Since::Id(last.id().clone()))).unwrap();
        let mut expected = number(&last) + 1;
        for _ in 0..50 {
            match next(&mut stream).await {
                StreamItem::Event(event) => {
                    if pattern == "a.x" && expected.is_multiple_of(3) {
                        expected += 1;
                    }
                    assert!(pattern != "a.x" || *event.topic() == x);
                    assert_eq!(number(&event), expected);
                    expected += 1;
                }
                // The publisher may be a whole history ahead.
                StreamItem::Gap => break,
                StreamItem::Lagged(_) => panic!("the bound was not reached"),
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    publisher.await.unwrap();
}
