//! WebSocket ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)): events both ways over one connection.
//!
//! `tungstenite` does the frames; what is here is the handshake over `hyper`'s upgrade, and the life of a
//! connection after it.

mod messages;
mod session;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use management::{Problem, ProblemKind};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::session::Session;
use crate::HttpConfig;
use crate::envelope::Refusal;
use crate::extract::Ctx;

/// What a connection holds for reading, idle or not. `tungstenite`'s own 128 KiB would make ten thousand idle
/// clients cost more than a gigabyte.
const READ_BUFFER: usize = 4 * 1024;

/// How much is gathered before it is written, where more is ready.
const WRITE_BUFFER: usize = 16 * 1024;

/// The parts of a request that a connection goes on from.
pub(crate) struct Upgrade {
    response: Response,
    pending: OnUpgrade,
}

impl Upgrade {
    /// Whether a request asks for a WebSocket, over a connection that can become one.
    pub(crate) fn of(request: &mut Request<Body>) -> Result<Self, Refused> {
        let response =
            create_response_with_body(request, Body::empty).map_err(|error| Refused(error.to_string()))?;
        let pending = request
            .extensions_mut()
            .remove::<OnUpgrade>()
            .ok_or_else(|| Refused("the connection cannot be upgraded".to_owned()))?;
        Ok(Self { response, pending })
    }

    /// Answers 101, and serves the client from then on, until it leaves or the host shuts down.
    pub(crate) fn accept(self, ctx: &Ctx, place: OwnedSemaphorePermit) -> Response {
        let Self { response, pending } = self;
        let patience = ctx.shared.config.header_timeout;
        let config = web_socket_config(&ctx.shared.config);
        let session = Session::new(ctx);
        ctx.shared.sockets.spawn("websocket", async move {
            let _place = place;
            match runtime::within(patience, pending).await {
                Ok(Ok(upgraded)) => {
                    let io = TokioIo::new(upgraded);
                    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                    session.serve(socket).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "client left before its connection was upgraded"),
                Err(late) => tracing::debug!(%late, "connection was not upgraded"),
            }
        });
        response
    }
}

fn web_socket_config(config: &HttpConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(config.body_bytes_max))
        .max_frame_size(Some(config.body_bytes_max))
}

/// A request that cannot become a WebSocket.
pub(crate) struct Refused(String);

impl IntoResponse for Refused {
    /// 426 with what would do (RFC 9110, 15.5.22; RFC 6455, 4.4).
    fn into_response(self) -> Response {
        let problem = Problem::new(ProblemKind::Malformed, "this is for WebSocket clients").detail(self.0);
        let refusal = Refusal { problem, status: StatusCode::UPGRADE_REQUIRED };
        let mut response = refusal.into_response();
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        response
    }
}

/// A place among the clients that follow events, whichever way.
pub(crate) fn place(ctx: &Ctx) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&ctx.shared.event_streams).try_acquire_owned().map_err(|_| {
        let problem = Problem::new(ProblemKind::TooMany, "as many clients follow events as may");
        problem.retry_after(Duration::from_secs(5))
    })
}
