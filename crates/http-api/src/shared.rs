//! What every handler can reach.

use bytes::Bytes;
use management::Management;

use crate::HttpConfig;

pub(crate) struct Shared {
    pub(crate) management: Management,
    pub(crate) config: HttpConfig,
    /// The OpenAPI document, written out once.
    pub(crate) openapi: Bytes,
}
