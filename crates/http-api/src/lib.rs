//! The management API of a host over HTTP, and its plugins' own routes.
//!
//! Layer 6. It translates: what an operation does, asks of its caller and refuses is decided in
//! `management`, and which plugin answers a path in `registry`. Invariants:
//!
//! - Every request gets an answer in the one envelope, with its trace id; a panic in a handler is a 500.
//! - Every part of a request and every wait for a client has a bound.
//! - A plugin counts a request as inside until the answer's body has gone.
//! - Only loopback is listened on without authentication, unless the configuration says otherwise in so
//!   many words; and no page of another site makes a browser write here.
//! - What is in the OpenAPI document is made from the handlers, and the tests' answers are checked against it.
//!
//! [`HttpPlugin`] is the transport as a host runs it; [`Api`] answers requests without a socket, and
//! [`Server`] serves one to connections.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_api::{Api, HttpConfig};
//! use http_body_util::{BodyExt, Empty};
//! use management::Management;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = Api::new(Management::builder().build(), HttpConfig::default());
//! let response = api.handle(Request::get("/health/live").body(Empty::<Bytes>::new())?, None).await;
//! assert_eq!(response.status(), 200);
//! let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
//! assert_eq!(body, r#"{"code":200,"message":"success","data":{"status":"alive"}}"#);
//! # Ok(()) }
//! ```

mod api;
mod body;
mod cloud_events;
mod conditional;
mod config;
mod connection;
mod direct;
mod dispatch;
mod dry_run;
mod envelope;
mod extract;
mod lanes;
mod measure;
mod openapi;
mod origin;
mod page;
mod paths;
mod plugin;
mod replies;
mod routes;
mod serve;
mod shared;
mod socket;
mod span;
mod sse;
mod strict;
mod waits;
mod written;

pub use api::Api;
pub use body::AnswerBody;
pub use config::{HttpConfig, InvalidHttpConfig};
pub use plugin::{HTTP, HttpPlugin};
pub use serve::Server;
