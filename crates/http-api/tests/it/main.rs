//! The API as its clients see it.

mod client;
mod envelope;
mod events;
mod host;
mod plugin_routes;
mod plugins;
mod serving;
mod streaming;
mod tasks;
