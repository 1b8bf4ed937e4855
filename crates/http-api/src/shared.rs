//! What every handler can reach.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use management::Management;
use runtime::{CancellationToken, TaskOwner};
use tokio::sync::Semaphore;

use crate::HttpConfig;
use crate::lanes::Lanes;
use crate::paths::Paths;

pub(crate) struct Shared {
    pub(crate) management: Management,
    pub(crate) config: HttpConfig,
    /// The OpenAPI document, written out once.
    pub(crate) openapi: Bytes,
    /// What tells it from that of another version.
    pub(crate) openapi_tag: HeaderValue,
    /// What it says of each path.
    pub(crate) paths: Paths,
    /// Where plugins' code runs, if the control plane has a runtime of its own.
    pub(crate) lanes: Option<Lanes>,
    /// Places for clients that follow events.
    pub(crate) event_streams: Arc<Semaphore>,
    /// Requests with an `Idempotency-Key`, which go on when their client leaves.
    pub(crate) keyed: TaskOwner,
    /// Connections that have become WebSockets.
    pub(crate) sockets: TaskOwner,
    /// Signalled when answers without an end should end.
    pub(crate) closing: CancellationToken,
}
