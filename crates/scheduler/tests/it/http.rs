//! The executor `http` against a server of a few lines.

use scheduler::{Page, RunOutcome, RunView, Scheduler, TaskError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::spec;

/// Answers each request with the status in its path and a long text; gives back what was asked.
async fn server() -> (u16, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&buffer[..count]),
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let status = request.split(['/', ' ']).nth(2).unwrap_or("200").to_owned();
            let body = "x".repeat(200_000);
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
            let _ = sender.send(request).await;
        }
    });
    (port, receiver)
}

async fn run(scheduler: &Scheduler, id: &str, payload: Value) -> RunView {
    let body = json!({"id": id, "executor": "http", "payload": payload, "retry": {"attempts": 2, "backoff": "1ms"},
        "schedule": {"type": "once", "delay": "1ms"}});
    scheduler.create(spec(body)).await.unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let runs = scheduler.runs(id, &Page::default()).await.unwrap().items;
        if let Some(run) = runs.into_iter().next().filter(|run| run.outcome.is_final()) {
            return run;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_url_is_called_and_its_answer_judged() {
    let (port, mut requests) = server().await;
    let scheduler = Scheduler::builder().build().await.unwrap();
    let url = |status: u16| format!("http://127.0.0.1:{port}/{status}");
    let good =
        run(&scheduler, "good", json!({"url": url(200), "headers": {"x-a": "b"}, "body": {"n": 1}})).await;
    assert_eq!((good.outcome, good.attempt), (RunOutcome::Completed, 1));
    let output = good.output.unwrap();
    assert_eq!(output["status"], 200);
    assert_eq!(output["body"].as_str().unwrap().len(), 1024, "promise 8: the answer is bounded");
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /200 "), "{request}");
    for part in
        ["x-a: b", &format!("idempotency-key: {}", good.id), &format!("traceparent: 00-{}-", good.trace_id)]
    {
        assert!(request.to_lowercase().contains(part), "{part} in {request}");
    }
    let bad = run(&scheduler, "bad", json!({"url": url(404)})).await;
    assert_eq!((bad.outcome, bad.attempt), (RunOutcome::Failed, 1), "no second attempt");
    assert!(bad.error.unwrap().starts_with("answered 404"));
    let later = run(&scheduler, "later", json!({"url": url(503)})).await;
    assert_eq!((later.outcome, later.attempt), (RunOutcome::Failed, 2));
    let away = run(&scheduler, "away", json!({"url": "http://127.0.0.1:1/"})).await;
    assert_eq!(away.outcome, RunOutcome::Failed);
    scheduler.stop(crate::support::secs(5)).await;
}

#[tokio::test]
async fn a_payload_that_makes_no_call_is_refused() {
    let scheduler = Scheduler::builder().build().await.unwrap();
    for (payload, field) in [
        (json!({}), "payload"),
        (json!({"url": "http://x", "surprise": 1}), "payload"),
        (json!({"url": "x"}), "payload.url"),
        (json!({"url": "ftp://x/y"}), "payload.url"),
        (json!({"url": "http://x", "method": "BREW"}), "payload.method"),
        (json!({"url": "http://x", "headers": {"a b": "c"}}), "payload.headers.a b"),
        (json!({"url": "http://x", "headers": {"a": "b\nc"}}), "payload.headers.a"),
    ] {
        let body = json!({"id": "t", "executor": "http", "payload": payload,
            "schedule": {"type": "once", "delay": "1h"}});
        match scheduler.create(spec(body)).await {
            Err(TaskError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{payload}: {other:?}"),
        }
    }
}
