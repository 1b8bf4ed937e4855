//! WebSockets, by a client that this project did not write.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_api::HttpConfig;
use plugin_manager::Change;
use runtime::TaskOwner;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{call, get};
use crate::host::{Host, host, host_with};
use crate::serving::serve_api;
use crate::streaming::listening;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, response) = client_async("ws://localhost/ws", stream).await.unwrap();
        assert_eq!(response.status(), 101);
        assert!(response.headers().contains_key("x-trace-id"));
        Self(socket)
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// What the host says next, beside pings.
    async fn next(&mut self) -> Message {
        let said = async {
            loop {
                match self.0.next().await.expect("is open").unwrap() {
                    Message::Ping(_) => {}
                    said => return said,
                }
            }
        };
        timeout(LONG, said).await.expect("the host says something")
    }

    async fn hear(&mut self) -> Value {
        match self.next().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn asks(&mut self, message: Value) -> Value {
        self.say(message).await;
        self.hear().await
    }

    async fn subscribe(&mut self, id: &str, more: Value) {
        let mut message = json!({"type": "subscribe", "id": id});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(self.asks(message).await, json!({"type": "subscribed", "id": id}));
    }

    /// The next event: the subscription that it comes for, its id and its data.
    async fn event(&mut self) -> (String, String, Value) {
        let said = self.hear().await;
        assert_eq!(said["type"], "event", "{said}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&said["id"]), text(&said["event"]["id"]), said["event"]["data"].clone())
    }

    async fn closed(&mut self) -> CloseCode {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code,
            other => panic!("{other:?}"),
        }
    }
}

async fn publish(host: &Host, topic: &str, data: Value) {
    let body = json!({"type": topic, "data": data}).to_string();
    assert_eq!(call(&host.api, Method::POST, "/events", &body).await.status, 200);
}

/// Waits for a condition that no notification tells of.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LONG, wait).await.is_ok(), "never came: {what}");
}

#[tokio::test]
async fn events_come_and_go_over_one_connection() {
    let host = host().await;
    let address = listening(&host).await;
    let mut client = Client::connect(address).await;
    client.subscribe("a", json!({"pattern": "custom.*"})).await;
    publish(&host, "custom.one", json!(1)).await;
    let (id, first, data) = client.event().await;
    assert_eq!((id.as_str(), data), ("a", json!(1)));

    let event = json!({"type": "custom.two", "data": 2, "tenant": "acme"});
    client.say(json!({"type": "publish", "id": "p", "event": event})).await;
    // Which of the two comes first is open.
    let (mut published, mut come) = (Value::Null, Value::Null);
    for _ in 0..2 {
        let said = client.hear().await;
        let place = if said["type"] == "published" { &mut published } else { &mut come };
        *place = said;
    }
    assert_eq!((&published["id"], &published["delivered_to"]), (&json!("p"), &json!(1)));
    assert_eq!(come["event"], published["event"]);
    assert_eq!((&come["event"]["data"], &come["event"]["tenant"]), (&json!(2), &json!("acme")));

    let gone = client.asks(json!({"type": "unsubscribe", "id": "a"})).await;
    assert_eq!(gone, json!({"type": "unsubscribed", "id": "a"}));
    assert!(host.bus.subscriptions().iter().all(|info| info.owner.as_deref() != Some("management")));
    publish(&host, "custom.three", json!(3)).await;
    client.0.close(None).await.unwrap();
    assert_eq!(client.next().await, Message::Close(None), "it is answered");

    // Another connection takes up where this one was.
    let mut client = Client::connect(address).await;
    client.subscribe("b", json!({"pattern": "custom.*", "last_event_id": first})).await;
    for n in [2, 3] {
        assert_eq!(client.event().await.2, json!(n));
    }
}

#[tokio::test]
async fn no_more_than_the_window_is_sent_until_it_is_acknowledged() {
    let host = host().await;
    let address = listening(&host).await;
    let mut client = Client::connect(address).await;
    client.subscribe("w", json!({"pattern": "custom.work", "window": 2})).await;
    client.subscribe("m", json!({"pattern": "custom.mark"})).await;
    for n in 0..6 {
        publish(&host, "custom.work", json!(n)).await;
    }
    let mut next = 0;
    // Up to the second of two; the first of two; the only one.
    for (comes, acknowledged) in [(2, 1), (2, 0), (1, 0)] {
        publish(&host, "custom.mark", json!(null)).await;
        let (mut ids, mut is_marked) = (Vec::new(), false);
        while ids.len() < comes || !is_marked {
            let (subscription, id, data) = client.event().await;
            if subscription == "m" {
                is_marked = true;
                continue;
            }
            assert_eq!(data, json!(next));
            next += 1;
            ids.push(id);
        }
        assert_eq!(ids.len(), comes);
        client.say(json!({"type": "ack", "id": "w", "event_id": ids[acknowledged]})).await;
    }
}

/// Promise 10: bad input gets a clear error that names the field, and changes nothing.
#[tokio::test]
async fn promise_10_what_is_wrong_is_told_and_the_connection_stays() {
    let host = host().await;
    let mut client = Client::connect(listening(&host).await).await;
    client.subscribe("a", json!({})).await;
    let before = host.bus.stats().published;
    for (message, status, field) in [
        (json!([]), 422, Value::Null),
        (json!({"type": "subscribe"}), 422, json!("id")),
        (json!({"type": "subscribe", "id": "a"}), 409, Value::Null),
        (json!({"type": "subscribe", "id": "b", "pattern": "a..b"}), 422, json!("type")),
        (
            json!({"type": "subscribe", "id": "b", "last_event_id": "x".repeat(600)}),
            422,
            json!("Last-Event-ID"),
        ),
        (json!({"type": "unsubscribe", "id": "b"}), 404, Value::Null),
        (json!({"type": "ack", "id": "b", "event_id": "x"}), 404, Value::Null),
        (json!({"type": "ack", "id": "a", "event_id": "x"}), 422, json!("event_id")),
        (json!({"type": "publish", "id": "p", "event": {}}), 422, json!("type")),
        (json!({"type": "publish", "id": "p", "event": {"type": "plugin.started"}}), 422, json!("type")),
        (json!({"type": "sing", "id": "p"}), 422, json!("type")),
    ] {
        let said = client.asks(message.clone()).await;
        assert_eq!((&said["type"], &said["code"]), (&json!("error"), &json!(status)), "{message}: {said}");
        assert_eq!(said["error"]["field"], field, "{message}: {said}");
        assert_eq!(said["trace_id"].as_str().map(str::len), Some(32));
        let id = message.get("id").cloned().unwrap_or(Value::Null);
        assert_eq!(said["id"], id, "{said}");
    }
    client.0.send(Message::text("{")).await.unwrap();
    assert_eq!(client.hear().await["code"], 400);
    assert_eq!(host.bus.stats().published, before);
    for n in 1..64 {
        client.subscribe(&format!("s{n}"), json!({"pattern": "custom.nothing"})).await;
    }
    let refused = client.asks(json!({"type": "subscribe", "id": "more"})).await;
    assert_eq!(refused["code"], 429);
}

#[tokio::test]
async fn what_is_no_text_or_too_large_or_not_the_protocol_ends_the_connection() {
    let host = host_with(HttpConfig { body_bytes_max: 1024, ..HttpConfig::default() }).await;
    let running = serve_api(host.api.clone()).await;
    let address = running.address;
    for (message, code) in [
        (Message::binary(vec![1, 2, 3]), CloseCode::Unsupported),
        (Message::text("x".repeat(2000)), CloseCode::Size),
    ] {
        let mut client = Client::connect(address).await;
        client.0.send(message).await.unwrap();
        assert_eq!(client.closed().await, code);
    }
    for frame in [
        // Not masked; a reserved bit; an opcode that there is not; a ping in fragments.
        &b"\x81\x02{}"[..],
        b"\xc1\x82\0\0\0\0{}",
        b"\x83\x82\0\0\0\0{}",
        b"\x09\x80\0\0\0\0",
        // A text that is not UTF-8.
        b"\x81\x82\0\0\0\0\xff\xfe",
    ] {
        let mut client = Client::connect(address).await;
        client.0.get_mut().write_all(frame).await.unwrap();
        assert_eq!(client.closed().await, CloseCode::Protocol, "{frame:?}");
    }
}

async fn handshake(address: SocketAddr, changed: &[(&str, &str)]) -> (String, TcpStream) {
    let mut headers = vec![
        ("host", "localhost"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    for (name, value) in changed {
        headers.retain(|(there, _)| there != name);
        headers.push((name, value));
    }
    let mut request = "GET /ws HTTP/1.1\r\n".to_owned();
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request += &format!("{name}: {value}\r\n");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut text = vec![0; 4096];
    let n = timeout(LONG, stream.read(&mut text)).await.unwrap().unwrap();
    (String::from_utf8_lossy(&text[..n]).into_owned(), stream)
}

#[tokio::test]
async fn who_asks_for_no_websocket_or_from_elsewhere_gets_none() {
    let host = host_with(HttpConfig { event_streams_max: 1, ..HttpConfig::default() }).await;
    let running = serve_api(host.api.clone()).await;
    let address = running.address;
    for missing in ["connection", "upgrade", "sec-websocket-version", "sec-websocket-key"] {
        let (answer, _) = handshake(address, &[(missing, "")]).await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{missing}: {answer}");
        for part in ["upgrade: websocket", "sec-websocket-version: 13", "\"detail\":"] {
            assert!(answer.contains(part), "{missing}: {answer}");
        }
    }
    let (answer, _) = handshake(address, &[("sec-websocket-version", "8")]).await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    // No socket below it: not over HTTP/2, nor by any other way that has none.
    assert_eq!(get(&host.api, "/ws").await.status, 426);
    for foreign in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")] {
        let (answer, _) = handshake(address, &[foreign]).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let (answer, first) = handshake(address, &[("origin", "http://localhost")]).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let (answer, _) = handshake(address, &[]).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 5"), "{answer}");
    drop(first);
    let wait = async {
        while !handshake(address, &[]).await.0.starts_with("HTTP/1.1 101 ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.expect("a place that was left is free");
}

/// Promise 8: a client that takes nothing is dropped, whatever else it says, and holds nobody up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_8_a_slow_client_is_dropped_and_others_go_on() {
    // Long enough for a client that is well to answer on a machine that is busy.
    let config = HttpConfig { heartbeat: Duration::from_secs(2), ..HttpConfig::default() };
    let host = host_with(config).await;
    let running = serve_api(host.api.clone()).await;
    let address = running.address;
    let followers = || {
        let of_clients = |info: &event_bus::SubscriptionInfo| info.owner.as_deref() == Some("management");
        host.bus.subscriptions().iter().filter(|info| of_clients(info)).count()
    };

    // One that has gone to sleep: it answers no ping.
    let mut asleep = Client::connect(address).await;
    asleep.subscribe("a", json!({"pattern": "custom.*"})).await;
    until("the sleeper is dropped", || followers() == 0).await;
    drop(asleep);

    // One that shows that it is alive, and takes nothing.
    let (_, mut stuffed) = handshake(address, &[]).await;
    let subscribe = br#"{"type":"subscribe","id":"s","pattern":"custom.*"}"#;
    let mut frame = vec![0x81, 0x80 | u8::try_from(subscribe.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    stuffed.write_all(&frame).await.unwrap();
    let mut reader = Client::connect(address).await;
    reader.subscribe("r", json!({"pattern": "custom.*"})).await;
    let (seen, mut sees) = tokio::sync::mpsc::channel(1000);
    let reading = TaskOwner::new("reader");
    reading.spawn("reader", async move { while seen.try_send(reader.event().await.2[0].clone()).is_ok() {} });
    until("both follow", || followers() == 2).await;
    let alive = async {
        loop {
            // A pong that nobody has asked for (RFC 6455, 5.5.3).
            if stuffed.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let large = "x".repeat(500_000);
    let flood = async {
        let mut sent = 0;
        while followers() == 2 {
            publish(&host, "custom.large", json!([sent, large])).await;
            assert_eq!(sees.recv().await.unwrap(), json!(sent), "nobody else misses anything");
            sent += 1;
        }
    };
    timeout(LONG, async { tokio::join!(alive, flood) }).await.expect("it is dropped");
    publish(&host, "custom.last", json!(["still"])).await;
    assert_eq!(sees.recv().await.unwrap(), json!("still"));
    reading.shutdown(Duration::ZERO).await;
    drop(stuffed);
    until("nothing is left of them", || running.server.connections() == 0).await;
}

/// Promise 7: shutdown ends within its deadline, and says so to who is connected.
#[tokio::test]
async fn promise_7_clients_are_told_when_the_transport_stops() {
    let host = host().await;
    let mut client = Client::connect(listening(&host).await).await;
    client.subscribe("a", json!({})).await;
    let stopping = host.manager.stop("http", Change::default());
    let leaving = async {
        loop {
            match client.next().await {
                Message::Text(_) => {}
                Message::Close(Some(frame)) => break frame.code,
                other => panic!("{other:?}"),
            }
        }
    };
    let (stopped, code) = timeout(LONG, async { tokio::join!(stopping, leaving) }).await.expect("it stops");
    assert_eq!(stopped.unwrap().status, plugin_core::State::Stopped);
    assert_eq!(code, CloseCode::Away);
}
