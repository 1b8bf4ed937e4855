//! The management API of a host over HTTP, and its plugins' own routes.
//!
//! Layer 6.

mod api;
mod body;
mod config;
mod dispatch;
mod envelope;
mod extract;
mod lanes;
mod measure;
mod openapi;
mod origin;
mod page;
mod plugin;
mod routes;
mod serve;
mod shared;
mod sse;

pub use api::Api;
pub use body::AnswerBody;
pub use config::{HttpConfig, InvalidHttpConfig};
pub use plugin::HttpPlugin;
pub use serve::Server;
