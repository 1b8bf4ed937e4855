//! Services that can be tried out.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::PluginError;

/// A service with a server behind it, which can be asked to go there and back.
///
/// A plugin provides it under the name of the service that it is about, beside the service itself:
/// `ctx.provide::<dyn RoundTrip>("etcd", …)`. `GET /services/etcd/test` calls it.
#[async_trait]
pub trait RoundTrip: Send + Sync + 'static {
    /// Goes to the server and back once, by something that the server really has to do. Gives what is worth
    /// knowing about it, such as its version; no secret, since every viewer sees it.
    ///
    /// # Errors
    ///
    /// Why it could not, in words that name the server and that every viewer may read.
    async fn round_trip(&self) -> Result<Map<String, Value>, PluginError>;
}
