//! The references: the same answer from hyper and from axum with nothing around them.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::server::Answer;

/// What a bare server answers, as text that goes on its command line.
pub(super) fn text(path: &str, answer: &Answer) -> String {
    // Hyper writes these by itself.
    let own = ["date", "content-length", "connection"];
    let headers = answer.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let headers: Vec<_> = headers.map(|(name, value)| json!([name, value])).collect();
    json!({ "path": path, "headers": headers, "body": String::from_utf8_lossy(&answer.body) }).to_string()
}

/// Serves `answer` with `kind` until the process is ended, after it said where it listens.
pub(super) async fn serve(kind: &str, answer: &str) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_str(answer).context("read the answer to give")?;
    let path = answer["path"].as_str().context("an answer without a path")?.to_owned();
    let body = Bytes::from(answer["body"].as_str().context("an answer without a body")?.to_owned());
    let mut headers = HeaderMap::new();
    for header in answer["headers"].as_array().into_iter().flatten() {
        let (name, value) = (header[0].as_str().unwrap_or_default(), header[1].as_str().unwrap_or_default());
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?).and_then(|()| out.flush())?;
    match kind {
        "hyper" => hyper(listener, headers, body).await,
        "axum" => axum(listener, &path, headers, body).await,
        _ => bail!("no bare server `{kind}`"),
    }
}

async fn hyper(listener: TcpListener, headers: HeaderMap, body: Bytes) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (headers, body) = (headers.clone(), body.clone());
        connections.spawn(async move {
            let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                *response.headers_mut() = headers.clone();
                async move { Ok::<_, Infallible>(response) }
            });
            // The client goes away in the middle of things when its time is over.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn axum(listener: TcpListener, path: &str, headers: HeaderMap, body: Bytes) -> anyhow::Result<()> {
    let route = Router::new().route(path, get(async move || (headers.clone(), body.clone())));
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Best effort, as in the other servers.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, route).await?;
    Ok(())
}
