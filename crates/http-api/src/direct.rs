//! Handlers that are called without the router: those of plain `GET`s.
//!
//! The router is made for handlers of all kinds: on its way a request is boxed, copied and given extensions,
//! which takes as long as most reads. A handler that takes its parts by [`FromRequestLine`] can be called
//! straight. It is the same function that the router has, and the router still answers what is not so plain,
//! such as `HEAD`; what is checked of every request is checked before either.

use std::pin::Pin;

use crate::envelope::{Outcome, Refusal};
use crate::extract::Ctx;

/// The parts of a request that a plain `GET` has.
#[derive(Clone, Copy)]
pub(crate) struct RequestLine<'a> {
    /// The path's parameter, percent-encoded.
    pub(crate) param: &'a str,
    pub(crate) query: &'a str,
}

/// What can be read of them alone.
pub(crate) trait FromRequestLine: Sized {
    fn read(line: RequestLine<'_>) -> Result<Self, Refusal>;
}

type Answering = Pin<Box<dyn Future<Output = Outcome> + Send>>;

type Call = dyn Fn(Ctx, RequestLine<'_>) -> Result<Answering, Refusal> + Send + Sync;

/// A handler, whatever it takes.
pub(crate) struct Direct(Box<Call>);

impl Direct {
    pub(crate) fn to<Args, H: Handler<Args>>(handler: H) -> Self {
        Self(Box::new(move |ctx, line| handler.call(ctx, line)))
    }

    pub(crate) fn call(&self, ctx: Ctx, line: RequestLine<'_>) -> Result<Answering, Refusal> {
        (self.0)(ctx, line)
    }
}

/// A function that answers, by what it takes.
pub(crate) trait Handler<Args>: Send + Sync + 'static {
    fn call(&self, ctx: Ctx, line: RequestLine<'_>) -> Result<Answering, Refusal>;
}

impl<F, Fut> Handler<()> for F
where
    F: Fn(Ctx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    fn call(&self, ctx: Ctx, _: RequestLine<'_>) -> Result<Answering, Refusal> {
        Ok(Box::pin(self(ctx)))
    }
}

impl<F, Fut, A> Handler<(A,)> for F
where
    F: Fn(Ctx, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
    A: FromRequestLine,
{
    fn call(&self, ctx: Ctx, line: RequestLine<'_>) -> Result<Answering, Refusal> {
        Ok(Box::pin(self(ctx, A::read(line)?)))
    }
}

impl<F, Fut, A, B> Handler<(A, B)> for F
where
    F: Fn(Ctx, A, B) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
    A: FromRequestLine,
    B: FromRequestLine,
{
    fn call(&self, ctx: Ctx, line: RequestLine<'_>) -> Result<Answering, Refusal> {
        Ok(Box::pin(self(ctx, A::read(line)?, B::read(line)?)))
    }
}
