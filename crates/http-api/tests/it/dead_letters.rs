//! Dead letters over the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_bus::{EventBus, HandlerError, SubscribeOptions, Subscription, Topic};
use http::Method;
use serde_json::{Value, json};

use crate::client::{Answered, call, get};
use crate::host::{Host, host};

/// A subscription that fails on everything until it is mended.
struct Failing {
    subscription: Subscription,
    mended: Arc<AtomicBool>,
}

fn failing(bus: &EventBus, name: &str) -> Failing {
    let mended = Arc::new(AtomicBool::new(false));
    let handler = {
        let mended = Arc::clone(&mended);
        move |_: event_bus::Event| {
            let fine = mended.load(Ordering::SeqCst);
            async move { if fine { Ok(()) } else { Err(HandlerError::from("no stock")) } }
        }
    };
    let options = SubscribeOptions::new().name(name).owner("shop").dead_letters();
    Failing { subscription: bus.subscribe("orders.*", options, handler).unwrap(), mended }
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("in time");
}

/// A host whose subscription `billing` has failed on that many events.
async fn with_letters(count: u64) -> (Host, Failing) {
    let host = host().await;
    let failing = failing(&host.bus, "billing");
    for n in 0..count {
        host.bus.emit(&Topic::new("orders.created").unwrap(), n).unwrap();
    }
    until(|| failing.subscription.stats().dead == count).await;
    (host, failing)
}

async fn post(host: &Host, path: &str, body: &str) -> Answered {
    call(&host.api, Method::POST, path, body).await
}

async fn letters(host: &Host, query: &str) -> Value {
    let answer = get(&host.api, &format!("/events/dead-letters{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {:?}", answer.body);
    answer.json()["data"].take()
}

#[tokio::test]
async fn they_are_listed_by_page_and_by_what_they_are() {
    let (host, failing) = with_letters(5).await;
    let first = letters(&host, "?limit=3").await;
    assert_eq!((&first["total"], first["dead_letters"].as_array().unwrap().len()), (&json!(5), 3));
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = letters(&host, &format!("?limit=3&cursor={cursor}")).await;
    assert_eq!((&rest["dead_letters"][0]["event"]["data"], &rest["next_cursor"]), (&json!(3), &Value::Null));
    let letter = &first["dead_letters"][0];
    assert_eq!(
        (&letter["name"], &letter["cause"], &letter["reason"], &letter["attempts"]),
        (&json!("billing"), &json!("failed"), &json!("no stock"), &json!(1))
    );
    let id = failing.subscription.id();
    let last = rest["dead_letters"][1]["time"].as_str().unwrap().to_owned();
    for (query, total) in [
        ("?type=orders.*".to_owned(), 5),
        ("?type=other.**".to_owned(), 0),
        ("?subscription=billing".to_owned(), 5),
        (format!("?subscription={id}"), 5),
        ("?subscription=other".to_owned(), 0),
        ("?owner=shop&cause=failed&reason=stock".to_owned(), 5),
        ("?owner=nobody".to_owned(), 0),
        ("?cause=panicked".to_owned(), 0),
        ("?reason=disk".to_owned(), 0),
        (format!("?since={last}"), 1),
        (format!("?until={last}"), 4),
    ] {
        assert_eq!(letters(&host, &query).await["total"], total, "{query}");
    }
    let one = get(&host.api, &format!("/events/dead-letters/{}", letter["id"])).await.json();
    assert_eq!(&one["data"]["dead_letter"], letter);
}

#[tokio::test]
async fn one_is_redriven_or_discarded_and_both_are_audited() {
    let (host, failing) = with_letters(2).await;
    let ids: Vec<_> = letters(&host, "").await["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["id"].clone())
        .collect();
    failing.mended.store(true, Ordering::SeqCst);
    let path = format!("/events/dead-letters/{}/redrive", ids[0]);
    let tried = post(&host, &format!("{path}?dry_run=true"), "").await;
    assert_eq!(tried.status, 200, "{:?}", tried.body);
    assert_eq!(letters(&host, "").await["total"], 2, "a dry run changes nothing");
    let redriven = post(&host, &path, "").await.json();
    let has_it = &redriven["data"]["subscription"];
    assert_eq!(has_it.as_u64().map(|id| id.to_string()), Some(failing.subscription.id().to_string()));
    assert_eq!(tried.json()["data"], redriven["data"], "a dry run answers as the write does");
    until(|| failing.subscription.stats().delivered == 1).await;
    let path = format!("/events/dead-letters/{}/discard", ids[1]);
    assert_eq!(post(&host, &format!("{path}?dry_run=true"), "").await.status, 200);
    assert_eq!(post(&host, &path, "").await.json()["data"]["dead_letter"]["id"], ids[1]);
    assert_eq!(post(&host, &path, "").await.status, 404);
    assert_eq!(letters(&host, "").await["total"], 0);
    let audit = get(&host.api, "/audit").await.json();
    let entries = audit["data"]["entries"].as_array().unwrap();
    let seen: Vec<_> =
        entries.iter().map(|e| (e["action"].as_str().unwrap(), &e["target"], &e["outcome"])).collect();
    let (first, second) = (json!(ids[0].to_string()), json!(ids[1].to_string()));
    let (done, gone) = (json!("done"), json!("not_found"));
    assert_eq!(
        seen,
        [
            ("dead_letter.discard", &second, &gone),
            ("dead_letter.discard", &second, &done),
            ("dead_letter.redrive", &first, &done),
        ]
    );
}

#[tokio::test]
async fn many_are_settled_up_to_a_bound_and_each_is_reported() {
    let (host, failing) = with_letters(5).await;
    failing.mended.store(true, Ordering::SeqCst);
    let body = r#"{"type": "orders.*", "limit": 2}"#;
    let tried = post(&host, "/events/dead-letters/redrive?dry_run=true", body).await.json();
    assert_eq!((&tried["data"]["dry_run"], &tried["data"]["done"]), (&json!(true), &json!(2)));
    let report = post(&host, "/events/dead-letters/redrive", body).await.json()["data"].take();
    assert_eq!((&report["done"], &report["refused"], &report["left"]), (&json!(2), &json!(0), &json!(3)));
    assert_eq!(report["outcomes"][0]["done"], true);
    until(|| failing.subscription.stats().delivered == 2).await;

    failing.subscription.cancel();
    until(|| host.bus.subscriptions().iter().all(|info| info.name != "billing")).await;
    let report = post(&host, "/events/dead-letters/redrive", "{}").await.json()["data"].take();
    assert_eq!((&report["done"], &report["refused"]), (&json!(0), &json!(3)));
    assert_eq!(report["outcomes"][0]["kind"], "invalid_state", "{report}");
    let left = letters(&host, "").await;
    let id = &left["dead_letters"][0]["id"];
    assert_eq!(post(&host, &format!("/events/dead-letters/{id}/redrive"), "").await.status, 409);

    let body = json!({"ids": [id, 999]}).to_string();
    let report = post(&host, "/events/dead-letters/discard", &body).await.json()["data"].take();
    assert_eq!((&report["done"], &report["refused"]), (&json!(1), &json!(1)));
    assert_eq!(report["outcomes"][1]["kind"], "not_found", "{report}");
    let report = post(&host, "/events/dead-letters/discard", r#"{"reason": "stock"}"#).await.json();
    assert_eq!(report["data"]["done"], 2);
    assert_eq!(letters(&host, "").await["total"], 0);
}

/// Promise 10: bad input gets a clear error that names the field, and changes nothing.
#[tokio::test]
async fn promise_10_what_is_wrong_is_named_and_nothing_done() {
    let (host, _failing) = with_letters(1).await;
    for (query, field) in [
        ("?type=a..b", "type"),
        ("?cause=bored", "cause"),
        ("?since=yesterday", "since"),
        ("?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("?cursor=x", "cursor"),
        ("?limit=0", "limit"),
        ("?dry_run=true", "dry_run"),
    ] {
        let answer = get(&host.api, &format!("/events/dead-letters{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["field"]),
            (422, &json!(field)),
            "{query}"
        );
    }
    for action in ["redrive", "discard"] {
        let path = format!("/events/dead-letters/{action}");
        for (body, status, field) in [
            ("", 415, Value::Null),
            ("[]", 422, Value::Null),
            (r#"{"limit": 0}"#, 422, json!("limit")),
            (r#"{"limit": 1001}"#, 422, json!("limit")),
            (r#"{"type": "a..b"}"#, 422, json!("type")),
            (r#"{"topic": "a"}"#, 422, json!("topic")),
            (r#"{"ids": [1], "limit": 1}"#, 422, json!("ids")),
            (r#"{"ids": ["x"]}"#, 422, json!("ids[0]")),
            (r#"{"reason": 3}"#, 422, json!("reason")),
        ] {
            let answer = post(&host, &path, body).await;
            let json = answer.json();
            assert_eq!((answer.status.as_u16(), &json["error"]["field"]), (status, &field), "{body}: {json}");
        }
        for id in ["x", "-1", "999", "99999999999999999999999"] {
            assert_eq!(post(&host, &format!("/events/dead-letters/{id}/{action}"), "").await.status, 404);
        }
        let dry = post(&host, &format!("/events/dead-letters/1/{action}?dry_run=maybe"), "").await;
        assert_eq!(dry.json()["error"]["field"], "dry_run");
    }
    assert_eq!(letters(&host, "").await["total"], 1);
}
