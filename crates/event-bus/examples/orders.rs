//! What `docs/guide/events.md` shows, in one program: `cargo run --package event-bus --example orders`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use event_bus::{
    Batch, BatchFailure, DeadLetterFilter, Event, EventBus, EventFilter, HandlerError, OrderKey, Overflow,
    Replay, Retry, SubscribeOptions, Topic, TypedEvent, by_batch, typed,
};
use serde_json::json;

#[derive(serde::Serialize, serde::Deserialize)]
struct Order {
    id: u64,
    customer: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = EventBus::builder().source("shop").history(1_000).build();
    let deadline = Duration::from_secs(5);

    // A handler of orders as they are, retried, and kept if it fails for good.
    let billing = SubscribeOptions::new()
        .name("billing")
        .overflow(Overflow::Block)
        .retry(Retry::new(3).backoff(Duration::from_millis(10)))
        .dead_letters();
    let billing = bus.subscribe(
        "orders.created",
        billing,
        typed(async |order: TypedEvent<Order>| {
            if order.id == 3 {
                return Err("no such article".into());
            }
            println!("bill for order {} of {}", order.id, order.customer);
            Ok(())
        }),
    )?;

    // Eight at once, those of one customer one after the other, and only those of one tenant.
    let shipping = SubscribeOptions::new()
        .name("shipping")
        .filter(EventFilter::new().metadata("tenant", "acme"))
        .concurrency(8)
        .ordered_by(OrderKey::function(|event| event.data()["customer"].to_string()));
    let shipping = bus.subscribe("orders.*", shipping, async |event: Event| {
        println!("ship for {}", event.data()["customer"]);
        Ok(())
    })?;

    // A hundred in one call, or what has come within 50 ms; those that fail are tried again by themselves.
    let rows = SubscribeOptions::new()
        .name("rows")
        .batch(Batch { events: 100, within: Duration::from_millis(50) })
        .retry(Retry::new(3));
    let rows = bus.subscribe(
        "orders.**",
        rows,
        by_batch(async |events: Vec<Event>| {
            println!("{} rows", events.len());
            let wrong = events.iter().enumerate().filter(|(_, event)| !event.data().is_object());
            let wrong: Vec<_> =
                wrong.map(|(place, _)| (place, HandlerError::permanent("not an order"))).collect();
            if wrong.is_empty() { Ok(()) } else { Err(BatchFailure::some(wrong)) }
        }),
    )?;

    // Publishing: data that is JSON, or a value that becomes JSON only if someone asks.
    let created = Topic::new("orders.created")?;
    for id in 1..=3 {
        let order = Order { id, customer: format!("customer {}", id % 2) };
        let event = bus.event(created.clone()).typed(order).metadata("tenant", "acme");
        bus.publish(event.build(&**bus.clock())?).await?;
    }
    bus.emit(&Topic::new("orders.imported")?, json!({ "id": 4, "customer": "customer 4" }))?;

    // One event, and the past before the present.
    let first = SubscribeOptions::new().once().replay(Replay::Last(1_000));
    let first = bus.subscribe("orders.created", first, async |event: Event| {
        println!("the first that is known is {}", event.data()["id"]);
        Ok(())
    })?;
    first.ended().await;

    // A question to whoever can answer.
    let _prices = bus.subscribe("prices.of", SubscribeOptions::new(), async |event: Event| {
        event.reply(json!({ "price": 42 })).map_err(HandlerError::new)?;
        Ok(())
    })?;
    let question = bus.event(Topic::new("prices.of")?).data("article 7").build(&**bus.clock())?;
    let answer = bus.request(question, deadline).await?;
    println!("it costs {}", answer.data()["price"]);
    let nobody = bus.event(Topic::new("weather.of")?).build(&**bus.clock())?;
    println!("{}", bus.request(nobody, deadline).await.err().ok_or("somebody answered")?);

    // What failed for good is kept, and can be handled again.
    for subscription in [&billing, &shipping, &rows] {
        subscription.drained(deadline).await;
    }
    let letters = bus.dead_letters(&DeadLetterFilter::new()).letters;
    for letter in &letters {
        println!(
            "dead: {} of {} after {} attempts: {}",
            letter.event.topic(),
            letter.name,
            letter.attempts,
            letter.reason
        );
    }
    println!("{:?}", bus.redrive(letters[0].id).map_err(|error| error.to_string()));

    let report = bus.shutdown(deadline).await;
    println!("{} undelivered", report.undelivered);
    Ok(())
}
