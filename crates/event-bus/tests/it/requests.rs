//! Requests and answers.

use std::future::pending;
use std::time::Duration;

use event_bus::{CORRELATION_ID, Event, EventBus, HandlerError, ReplyError, RequestError, SubscribeOptions};
use serde_json::json;

use crate::support::{LONG, event};

#[tokio::test]
async fn a_request_gets_the_first_answer() {
    let bus = EventBus::builder().build();
    let _a = bus
        .subscribe("math.double", SubscribeOptions::default(), async |event: Event| {
            let n = event.data().as_u64().ok_or("not a number")?;
            event.reply(json!(n * 2)).map_err(HandlerError::new)?;
            Ok(())
        })
        .unwrap();
    let question = event("math.double", 21);
    let answer = bus.request(question.clone(), LONG).await.unwrap();
    assert_eq!(*answer.data(), json!(42));
    assert_eq!(answer.metadata().get(CORRELATION_ID).unwrap().to_string(), question.id().to_string());
}

#[tokio::test]
async fn many_may_answer() {
    let bus = EventBus::builder().build();
    let subscriptions: Vec<_> = (0..3)
        .map(|n| {
            bus.subscribe("who", SubscribeOptions::default(), move |event: Event| async move {
                event.reply(json!(n)).map(drop).map_err(HandlerError::new)
            })
            .unwrap()
        })
        .collect();
    let mut answers: Vec<_> = bus.request_many(event("who", 0), 10, LONG).await.unwrap();
    answers.sort_by_key(|answer| answer.data().as_u64());
    assert_eq!(answers.iter().map(|a| a.data().clone()).collect::<Vec<_>>(), [json!(0), json!(1), json!(2)]);
    assert_eq!(bus.request_many(event("who", 0), 2, LONG).await.unwrap().len(), 2);
    drop(subscriptions);
}

#[tokio::test]
async fn a_request_without_answer_says_why() {
    let bus = EventBus::builder().build();
    let nobody = bus.request(event("a", 0), LONG).await.unwrap_err();
    assert_eq!(nobody.to_string(), "nobody listens to `a`");

    let silent = bus.subscribe("a", SubscribeOptions::default(), async |_| Ok(())).unwrap();
    let error = bus.request(event("a", 0), LONG).await.unwrap_err();
    assert!(matches!(error, RequestError::NoReply(report) if report.is_clean()));
    drop(silent);

    let _failing =
        bus.subscribe("b", SubscribeOptions::default(), async |_| Err("out of order".into())).unwrap();
    let error = bus.request(event("b", 0), LONG).await.unwrap_err();
    assert!(matches!(error, RequestError::NoReply(report) if report.failures.len() == 1));

    let _slow = bus.subscribe("c", SubscribeOptions::default(), async |_| pending().await).unwrap();
    let error = bus.request(event("c", 0), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error, RequestError::TimedOut(Duration::from_millis(20)));
}

#[tokio::test]
async fn an_answer_to_nobody_is_refused() {
    assert_eq!(event("a", 0).reply(json!(1)), Err(ReplyError::NotARequest));
    let bus = EventBus::builder().build();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let _a = bus
        .subscribe("a", SubscribeOptions::default(), move |event: Event| {
            let sender = sender.lock().unwrap().take();
            async move {
                event.reply(json!(1)).map_err(HandlerError::new)?;
                let _ = sender.unwrap().send(event);
                Ok(())
            }
        })
        .unwrap();
    bus.request(event("a", 0), LONG).await.unwrap();
    assert_eq!(receiver.await.unwrap().reply(json!(2)), Err(ReplyError::Gone));
}
