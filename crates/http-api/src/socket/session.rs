//! One client from its handshake to its close.

use std::future::pending;
use std::time::Duration;

use event_bus::StreamItem;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use management::{Caller, Management, Problem, ProblemKind, PublishedEvent};
use runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::messages::{Reply, Request, Subscribe, Unreadable, What};
use super::subscriptions::{SUBSCRIPTIONS_MAX, Subscriptions, Told};
use crate::extract::Ctx;
use crate::measure;

/// How long a client may take to take leave.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How many events are gathered at the most before they are written.
const BATCH: usize = 64;

/// A client's side of the host.
pub(super) struct Session {
    management: Management,
    caller: Caller,
    heartbeat: Duration,
    lag_max: usize,
    /// Signalled when the host shuts down.
    closing: CancellationToken,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client said so, or is gone.
    Left,
    /// The host shuts down.
    Closing,
    /// The client takes nothing, or answers no ping.
    Slow,
    /// What it sends is no WebSocket.
    Broken,
    /// It sends something other than texts.
    NotText,
    /// Its message is larger than the limit.
    TooLarge,
}

impl End {
    /// What the metrics call it.
    fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Closing => "closing",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::NotText => "not_text",
            Self::TooLarge => "too_large",
        }
    }

    /// What the client is told (RFC 6455, 7.4.1), if it still listens.
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Left => return None,
            Self::Closing => (CloseCode::Away, "the host shuts down"),
            Self::Slow => (CloseCode::Policy, "too slow: events are not taken, or pings not answered"),
            Self::Broken => (CloseCode::Protocol, "this is not the WebSocket protocol"),
            Self::NotText => (CloseCode::Unsupported, "messages are JSON texts"),
            Self::TooLarge => (CloseCode::Size, "the message is larger than the limit"),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

/// An event of the client's on its way, with the id of its message.
type Publishing<'a> = BoxFuture<'a, (String, Result<PublishedEvent, Problem>)>;

impl Session {
    pub(super) fn new(ctx: &Ctx) -> Self {
        let config = &ctx.shared.config;
        Self {
            management: ctx.management().clone(),
            caller: ctx.caller().clone(),
            heartbeat: config.heartbeat,
            lag_max: config.event_lag_max,
            closing: ctx.shared.closing.clone(),
        }
    }

    /// Serves the client until it leaves, or has to.
    pub(super) async fn serve<S>(self, mut socket: WebSocketStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _counted = measure::WebSocketClient::new();
        let end = match self.converse(&mut socket).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        measure::websocket_closed(end.label());
        tracing::debug!(caller = %self.caller.origin, ?end, "websocket closed");
        let _ = runtime::within(CLOSE_WITHIN, async {
            match end.frame() {
                Some(frame) => socket.send(Message::Close(Some(frame))).await,
                // Answers the close of a client that left.
                None => SinkExt::close(&mut socket).await,
            }?;
            // What is closed while the client still writes is reset, and what it was told lost on the way.
            let stream = socket.get_mut();
            stream.shutdown().await?;
            tokio::io::copy(stream, &mut tokio::io::sink()).await?;
            Ok::<_, Error>(())
        })
        .await;
    }

    async fn converse<S>(&self, socket: &mut WebSocketStream<S>) -> Result<std::convert::Infallible, End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut subscriptions = Subscriptions::default();
        let mut publishing: Option<Publishing<'_>> = None;
        let mut beats = interval_at(Instant::now() + self.heartbeat, self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_heard = true;
        loop {
            // In this order, so that what a client said before it was due is heard before it is dropped.
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Err(End::Closing),
                // One event of the client's at a time, in their order: while the bus holds one up, the client
                // is not read, and so held up itself.
                said = socket.next(), if publishing.is_none() => {
                    is_heard = true;
                    if let Some(text) = text_of(said)? {
                        publishing = self.hear(socket, &mut subscriptions, &text).await?;
                    }
                }
                (id, published) = answer_of(&mut publishing) => {
                    publishing = None;
                    is_heard = true;
                    let reply = match &published {
                        Ok(published) => Reply::published(&id, published),
                        Err(problem) => Reply::error(Some(&id), problem.clone(), &self.caller.trace),
                    };
                    self.say(socket, &reply).await?;
                }
                told = subscriptions.next() => self.tell(socket, &mut subscriptions, told).await?,
                _ = beats.tick() => {
                    if !is_heard && publishing.is_none() {
                        return Err(End::Slow);
                    }
                    is_heard = false;
                    self.send(socket, Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    /// Does what a message asks for. What takes its time is given back, to be waited for beside the rest.
    async fn hear<'a, S>(
        &'a self,
        socket: &mut WebSocketStream<S>,
        subscriptions: &mut Subscriptions,
        text: &str,
    ) -> Result<Option<Publishing<'a>>, End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Request { id, what } = match Request::read(text) {
            Ok(request) => request,
            Err(Unreadable { id, problem }) => {
                self.say(socket, &Reply::error(id.as_deref(), problem, &self.caller.trace)).await?;
                return Ok(None);
            }
        };
        let outcome = match what {
            What::Publish(event) => {
                let work = async move {
                    let published = self.management.publish_event(&self.caller, event).await;
                    (id, published)
                };
                return Ok(Some(work.boxed()));
            }
            What::Subscribe(order) => {
                self.subscribe(subscriptions, &id, order).map(|()| Some(Reply::Subscribed { id: &id }))
            }
            What::Unsubscribe if subscriptions.remove(&id) => Ok(Some(Reply::Unsubscribed { id: &id })),
            What::Acknowledge(event) if subscriptions.acknowledge(&id, &event) => Ok(None),
            What::Acknowledge(_) if subscriptions.contains(&id) => {
                Err(Problem::invalid("event_id", "is not among the events that wait to be acknowledged"))
            }
            What::Unsubscribe | What::Acknowledge(_) => {
                Err(Problem::new(ProblemKind::NotFound, "there is no subscription of this id"))
            }
        };
        match outcome {
            Ok(Some(reply)) => self.say(socket, &reply).await?,
            Ok(None) => {}
            Err(problem) => self.say(socket, &Reply::error(Some(&id), problem, &self.caller.trace)).await?,
        }
        Ok(None)
    }

    fn subscribe(
        &self,
        subscriptions: &mut Subscriptions,
        id: &str,
        order: Subscribe,
    ) -> Result<(), Problem> {
        if subscriptions.contains(id) {
            return Err(Problem::new(
                ProblemKind::InvalidState,
                "there is a subscription of this id already",
            ));
        }
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            let message = format!("a client has at most {SUBSCRIPTIONS_MAX} subscriptions");
            return Err(Problem::new(ProblemKind::TooMany, message));
        }
        let last = order.last_event_id.as_deref();
        let events = self.management.follow_events(&self.caller, &order.pattern, last, self.lag_max)?;
        subscriptions.add(id.to_owned(), events, order.window);
        Ok(())
    }

    /// Sends what has come, with whatever else is there already.
    async fn tell<S>(
        &self,
        socket: &mut WebSocketStream<S>,
        subscriptions: &mut Subscriptions,
        told: Told,
    ) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut told = Some(told);
        for _ in 0..BATCH {
            let Some((id, item)) = told.take() else { break };
            if let Some(message) = written(&id, item.as_ref()) {
                self.in_time(socket.feed(message)).await?;
            }
            told = subscriptions.next().now_or_never();
        }
        if let Some((id, item)) = told
            && let Some(message) = written(&id, item.as_ref())
        {
            self.in_time(socket.feed(message)).await?;
        }
        self.in_time(socket.flush()).await
    }

    async fn say<S>(&self, socket: &mut WebSocketStream<S>, reply: &Reply<'_>) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match message_of(reply) {
            Some(message) => self.send(socket, message).await,
            None => Ok(()),
        }
    }

    async fn send<S>(&self, socket: &mut WebSocketStream<S>, message: Message) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.in_time(socket.send(message)).await
    }

    /// Waits until the client has taken what is sent, for as long as it may go without a sign of life.
    async fn in_time(&self, sending: impl Future<Output = Result<(), Error>>) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = runtime::within(self.heartbeat * 2, sending) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(end_of(&error)),
                Err(_) => Err(End::Slow),
            },
            () = self.closing.cancelled() => Err(End::Closing),
        }
    }
}

async fn answer_of(publishing: &mut Option<Publishing<'_>>) -> (String, Result<PublishedEvent, Problem>) {
    match publishing {
        Some(publishing) => publishing.await,
        None => pending().await,
    }
}

/// The text of a message, if it is one that is for the host and not for the protocol.
fn text_of(said: Option<Result<Message, Error>>) -> Result<Option<String>, End> {
    match said {
        Some(Ok(Message::Text(text))) => Ok(Some(text.to_string())),
        Some(Ok(Message::Binary(_))) => Err(End::NotText),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Close(_))) | None => Err(End::Left),
        Some(Err(error)) => Err(end_of(&error)),
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::TooLarge,
        Error::Protocol(error) if !is_gone(error) => End::Broken,
        Error::Utf8(_) => End::Broken,
        _ => End::Left,
    }
}

/// Whether a client went away without a word, which `tungstenite` calls an error of the protocol too.
fn is_gone(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError as E;
    matches!(error, E::ResetWithoutClosingHandshake | E::SendAfterClosing | E::ReceivedAfterClosing)
}

fn written(id: &str, item: Option<&StreamItem>) -> Option<Message> {
    message_of(&match item {
        Some(item) => Reply::told(id, item),
        None => Reply::Unsubscribed { id },
    })
}

/// A reply as its text; nothing for an event whose typed payload has no JSON form.
fn message_of(reply: &Reply<'_>) -> Option<Message> {
    match serde_json::to_string(reply) {
        Ok(text) => Some(Message::text(text)),
        Err(error) => {
            tracing::warn!(%error, "event has no JSON form");
            None
        }
    }
}
