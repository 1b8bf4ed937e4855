//! Live events over real sockets, and the transport as a plugin.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use http_api::{Api, HttpConfig};
use http_body_util::{BodyExt, Full};
use plugin_manager::Change;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{call, get};
use crate::host::{Host, host, host_with};

const SOON: Duration = Duration::from_secs(10);

/// The transport as a plugin, listening.
pub(crate) async fn listening(host: &Host) -> SocketAddr {
    host.manager.start("http", Change::default()).await.unwrap();
    let mut address = host.http.address();
    timeout(SOON, address.wait_for(Option::is_some)).await.unwrap().unwrap().unwrap()
}

struct Follower(BufReader<TcpStream>);

impl Follower {
    async fn connect(address: SocketAddr, query: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /events/stream{query} HTTP/1.1\r\nhost: localhost\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut follower = Self(BufReader::new(stream));
        follower.line_with("retry:").await;
        follower
    }

    async fn line_with(&mut self, text: &str) -> String {
        let found = async {
            loop {
                let mut line = String::new();
                assert!(self.0.read_line(&mut line).await.unwrap() > 0, "ended before `{text}`");
                if line.contains(text) {
                    return line.trim().to_owned();
                }
            }
        };
        timeout(SOON, found).await.unwrap_or_else(|_| panic!("no `{text}`"))
    }
}

#[tokio::test]
async fn events_are_followed_and_taken_up_again_after_the_last_known() {
    let host = host().await;
    let address = listening(&host).await;
    let mut follower = Follower::connect(address, "?type=test.*", None).await;
    call(&host.api, Method::POST, "/plugins/events/test", r#"{"message": "one"}"#).await;
    let id = follower.line_with("id:").await;
    assert!(follower.line_with("data:").await.contains("one"));
    drop(follower);
    for message in ["two", "three"] {
        call(&host.api, Method::POST, "/plugins/events/test", &format!(r#"{{"message": "{message}"}}"#))
            .await;
    }
    let mut follower = Follower::connect(address, "?type=test.*", id.strip_prefix("id: ")).await;
    assert!(follower.line_with("data:").await.contains("two"));
    assert!(follower.line_with("data:").await.contains("three"));
    let query = format!("?type=test.*&last_event_id={}", id.strip_prefix("id: ").unwrap());
    assert!(Follower::connect(address, &query, None).await.line_with("data:").await.contains("two"));
}

#[tokio::test]
async fn lifecycle_and_task_events_are_in_the_stream() {
    let host = host().await;
    let address = listening(&host).await;
    let mut follower = Follower::connect(address, "", None).await;
    call(&host.api, Method::POST, "/plugins/greeter/stop", "").await;
    follower.line_with("\"plugin.stopped\"").await;
    let body = r#"{"id": "now", "schedule": {"type": "once", "delay": "1ms"}}"#;
    assert_eq!(call(&host.api, Method::POST, "/scheduler/tasks", body).await.status, 201);
    follower.line_with("\"scheduler.task.completed\"").await;
}

#[tokio::test]
async fn followers_are_bounded_and_a_pattern_is_checked() {
    let host = host_with(HttpConfig { event_streams_max: 1, ..HttpConfig::default() }).await;
    let open = |api: Api| async move {
        api.handle(http::Request::get("/events/stream").body(Full::<bytes::Bytes>::default()).unwrap(), None)
            .await
    };
    let first = open(host.api.clone()).await;
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    let second = open(host.api.clone()).await;
    assert_eq!((second.status().as_u16(), second.headers()["retry-after"].to_str().unwrap()), (429, "5"));
    let mut body = first.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    assert_eq!(get(&host.api, "/events/stream?type=a..b").await.json()["error"]["field"], "type");
    assert_eq!(open(host.api.clone()).await.status(), 200, "a place that was left is free");
}

#[tokio::test]
async fn the_transport_is_a_plugin_that_drains_and_ends_its_streams() {
    let host = host().await;
    let address = listening(&host).await;
    let health = get(&host.api, "/plugins/http").await.json();
    assert_eq!(health["data"]["plugin"]["kind"], "transport");
    let mut follower = Follower::connect(address, "", None).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = [0; 4096];
    assert!(idle.read(&mut text).await.unwrap() > 0);

    let stopped = timeout(Duration::from_secs(5), host.manager.stop("http", Change::default())).await;
    assert_eq!(
        stopped.expect("an endless stream does not hold it up").unwrap().status,
        plugin_core::State::Stopped
    );
    let mut rest = String::new();
    timeout(SOON, follower.0.read_to_string(&mut rest)).await.expect("the stream ends").unwrap();
    assert_eq!(timeout(SOON, idle.read(&mut text)).await.expect("the connection closes").unwrap(), 0);
}

#[tokio::test]
async fn a_request_does_not_stop_its_own_transport_unless_forced() {
    let host = host().await;
    let address = listening(&host).await;
    let post = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.expect("answered").unwrap();
        answer
    };
    assert!(post("/plugins/http/stop").await.starts_with("HTTP/1.1 409 "));
    assert!(post("/plugins/http/restart?wait=false").await.starts_with("HTTP/1.1 409 "));
    let before = host.manager.get("http").unwrap().incarnation;
    assert!(post("/plugins/http/restart?force=true").await.starts_with("HTTP/1.1 202 "));
    let back = || host.manager.get("http").is_ok_and(|http| http.ready && http.incarnation > before);
    assert!(host.manager.wait_until(SOON, back).await, "it comes back");
}

#[tokio::test]
async fn an_open_address_is_refused_and_a_taken_port_is_named() {
    let host = host().await;
    let put = async |body: &str| call(&host.api, Method::PUT, "/plugins/http/config", body).await;
    let open = put(r#"{"host": "0.0.0.0", "port": 0}"#).await;
    assert_eq!(
        (open.status.as_u16(), &open.json()["error"]["field"]),
        (422, &"host".into()),
        "{}",
        open.json()
    );
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_eq!(put(&format!(r#"{{"port": {port}}}"#)).await.status, 200);
    let error = host.manager.start("http", Change::default()).await.unwrap_err().to_string();
    assert!(error.contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn a_new_configuration_is_taken_without_cutting_off_the_request_that_brings_it() {
    let host = host().await;
    let address = listening(&host).await;
    let put = async |at: SocketAddr, body: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!(
            "PUT /plugins/http/config HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.expect("answered, then closed").unwrap();
        answer
    };
    let answer = put(address, r#"{"port": 0, "body_bytes_max": 2048}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"applied\":\"live\""), "{answer}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let body = format!(r#"{{"port": {port}}}"#);
    let refused = call(&host.api, Method::PUT, "/plugins/http/config", &body).await;
    assert_eq!(refused.status, 422, "{}", refused.json());
    let again = timeout(SOON, TcpStream::connect(host.http.address().borrow().unwrap())).await;
    assert!(again.unwrap().is_ok(), "what listened goes on listening");
}
