//! A client without a socket.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_api::{Api, HttpConfig};
use http_body_util::{BodyExt, Full};
use management::Management;
use serde_json::Value;

use crate::document::DOCUMENT;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An API with nothing behind it.
pub(crate) fn bare() -> Api {
    Api::new(Management::builder().build(), HttpConfig::default())
}

pub(crate) async fn send(api: &Api, request: Request<Full<Bytes>>) -> Answered {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (parts, body) = api.handle(request, None).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let answered = Answered { status: parts.status, headers: parts.headers, body };
    DOCUMENT.check(&method, &path, &answered);
    answered
}

pub(crate) async fn get(api: &Api, path: &str) -> Answered {
    call(api, Method::GET, path, "").await
}

/// A request with a JSON body, or without one.
pub(crate) async fn call(api: &Api, method: Method, path: &str, body: &str) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    send(api, request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await
}
