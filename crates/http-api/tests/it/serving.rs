//! Real sockets: limits, slow clients, draining.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_api::{Api, HttpConfig, Server};
use management::Management;
use runtime::{CancellationToken, TaskOwner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

pub(crate) struct Running {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    _accepting: TaskOwner,
}

async fn serve(config: HttpConfig) -> Running {
    serve_api(Api::new(Management::builder().build(), config)).await
}

pub(crate) async fn serve_api(api: Api) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Server::new(api));
    let stop = CancellationToken::new();
    let accepting = TaskOwner::new("test");
    let (accepted, stopped) = (Arc::clone(&server), stop.clone());
    accepting.spawn("accept", async move { accepted.run(listener, stopped).await });
    Running { server, address, stop, _accepting: accepting }
}

/// Reads until the peer closes, for a few seconds at the most.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut text))
        .await
        .expect("closed in time");
    String::from_utf8_lossy(&text).into_owned()
}

const LIVE: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn answers_over_a_socket_and_keeps_the_connection() {
    let running = serve(HttpConfig::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut text = [0; 4096];
    for _ in 0..2 {
        stream.write_all(LIVE).await.unwrap();
        let n = stream.read(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text[..n]);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"alive\""), "{text}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_and_while_it_is_read() {
    let running = serve(HttpConfig { body_bytes_max: 1024, ..HttpConfig::default() }).await;
    for head in [
        "content-length: 2000\r\n\r\n".to_owned(),
        format!("transfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)),
    ] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let request = format!(
            "POST /scheduler/tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{head}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("\"too_large\""), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_headers_is_cut_off() {
    let config = HttpConfig { header_timeout: Duration::from_millis(150), ..HttpConfig::default() };
    let running = serve(config).await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /health/live HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let begun = Instant::now();
    read_all(&mut slow).await;
    read_all(&mut idle).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_is_told() {
    let config = HttpConfig { body_timeout: Duration::from_millis(150), ..HttpConfig::default() };
    let running = serve(config).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = "POST /events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.contains("took too long"), "{answer}");
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let running = serve(HttpConfig { header_bytes_max: 8192, ..HttpConfig::default() }).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET /health/live HTTP/1.1\r\nx-long: {}\r\n\r\n", "x".repeat(20_000));
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = read_all(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Also where they arrive faster than they are looked at, and the buffer takes more than it should.
    let running = serve(HttpConfig::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = "GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    stream.write_all(format!("{head}x-long: {}\r\n\r\n", "x".repeat(100_000)).as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// What cannot be read as HTTP is answered by `hyper`, which knows no envelope.
#[tokio::test]
async fn what_never_becomes_a_request_is_refused_in_the_envelope() {
    let config = HttpConfig { header_bytes_max: 256 * 1024, headers_max: 100, ..HttpConfig::default() };
    let running = serve(config).await;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (request, status, kind) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "malformed"),
        ("GET /health/live HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400, "malformed"),
        ("GET /health/live HTTP/3.7\r\n\r\n".to_owned(), 400, "malformed"),
        (format!("GET /health/live HTTP/1.1\r\n{many}\r\n"), 431, "too_large"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 414, "too_large"),
    ] {
        for before in ["", "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream.write_all(before.as_bytes()).await.unwrap();
            if !before.is_empty() {
                let mut text = [0; 4096];
                assert!(stream.read(&mut text).await.unwrap() > 0);
            }
            let _ = stream.write_all(request.as_bytes()).await;
            let answer = read_all(&mut stream).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            let shown = &request[..request.len().min(60)];
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!((&json["code"], &json["error"]["kind"]), (&status.into(), &kind.into()), "{shown}");
            for header in [
                format!("content-length: {}", body.len()),
                format!("x-trace-id: {}", json["trace_id"].as_str().unwrap()),
                "content-type: application/json".to_owned(),
            ] {
                assert_eq!(head.matches(&header).count(), 1, "{header} in {head}");
            }
            assert_eq!(head.matches("content-length").count(), 1, "{head}");
        }
    }
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_a_place() {
    let running = serve(HttpConfig { connections_max: 1, ..HttpConfig::default() }).await;
    let first = TcpStream::connect(running.address).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    second
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(100), second.peek(&mut byte)).await;
    assert!(early.is_err(), "answered beyond the bound");
    drop(first);
    assert!(read_all(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn draining_closes_idle_connections_and_lets_requests_end() {
    let running = serve(HttpConfig::default()).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(LIVE).await.unwrap();
    let mut text = [0; 4096];
    assert!(idle.read(&mut text).await.unwrap() > 0);
    let mut busy = TcpStream::connect(running.address).await.unwrap();
    busy.write_all(
        b"POST /scheduler/preview HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{",
    )
    .await
    .unwrap();
    while running.server.connections() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.stop.cancel();
    let (report, answer) = tokio::join!(running.server.drain(Duration::from_secs(5)), async {
        read_all(&mut idle).await;
        busy.write_all(b"}").await.unwrap();
        read_all(&mut busy).await
    });
    assert!(report.is_clean(), "{report:?}");
    assert!(answer.starts_with("HTTP/1.1 4"), "the request under way was answered: {answer}");
}

/// Promise 7: shutdown ends within its deadline.
#[tokio::test]
async fn promise_7_draining_ends_at_its_deadline() {
    let running = serve(HttpConfig::default()).await;
    let mut stuck = TcpStream::connect(running.address).await.unwrap();
    let head = b"POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stuck.write_all(head).await.unwrap();
    while running.server.connections() < 1 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.stop.cancel();
    let begun = Instant::now();
    let report = running.server.drain(Duration::from_millis(200)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(report.aborted.len(), 1, "{report:?}");
}
