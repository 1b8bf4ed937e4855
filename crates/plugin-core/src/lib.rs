//! The contract that a Gantry plugin is written against.
//!
//! Layer 2: knows `runtime` and `event-bus`, and neither the manager that runs plugins nor any transport
//! or engine. A plugin implements [`Plugin`] (or is built from closures by a [`PluginBuilder`]), declares
//! itself in a [`Manifest`], and does everything through its [`PluginContext`].
//!
//! Invariants:
//!
//! - What a plugin registers through its context belongs to the context and is withdrawn when the plugin
//!   stops. Nothing is registered any other way, so that stop, unload and swap are safe.
//! - What is registered during `start` is staged, and becomes visible in one step once `start` and the
//!   first health check have succeeded.
//! - The lifecycle is one table, [`State::on`]; nothing sets a state by hand.
//! - After an incarnation is closed no new call enters it: see [`Live::enter`].
//!
//! ```
//! use plugin_core::{Endpoint, Plugin, PluginBuilder, Reply, RouteRequest};
//!
//! let greeter = PluginBuilder::new("greeter", "1.0.0")?
//!     .description("says hello")
//!     .permission("route:/greeter")?
//!     .on_start(|ctx| async move {
//!         ctx.route(Endpoint::get("/greeter/{name}"), |request: RouteRequest| async move {
//!             let name = request.param("name").unwrap_or("world").to_owned();
//!             Ok(Reply::text(format!("hello, {name}")))
//!         })?;
//!         Ok(())
//!     })
//!     .build();
//! assert_eq!(greeter.manifest().name.as_str(), "greeter");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod config;
mod context;
mod error;
mod health;
mod lifecycle;
mod listener;
mod live;
mod loader;
mod manifest;
mod name;
mod permission;
mod plugin;
mod round_trip;
mod route;
mod scope;
mod service;

pub use builder::{
    BuiltPlugin, MiddlewarePluginBuilder, PluginBuilder, ServicePluginBuilder, TransportPluginBuilder,
};
pub use config::{
    ConfigError, ConfigSource, ConfigSpec, EnvSource, FileSource, Layer, MASK, Origin, OverrideFile, Secret,
    Settings, ValueSource, assign, decode, in_plain_words, mask, unmask,
};
pub use context::PluginContext;
pub use error::{BoxError, PluginError, RegisterError, ServiceError};
pub use health::Health;
pub use lifecycle::{Action, State};
pub use listener::{HostListener, ListenError, Listeners};
pub use live::{CallGuard, Live, Slot};
pub use loader::{LoadError, PluginLoader, PluginSource, PluginType};
pub use manifest::{Dependency, InvalidManifest, Manifest, Needs, PluginKind, SwapMode};
pub use name::{InvalidName, PluginName};
pub use permission::{InvalidPermission, Permission, Permissions};
pub use plugin::{Plugin, Reconfigured};
pub use round_trip::RoundTrip;
pub use route::{
    Access, Body, Endpoint, IntoReply, Middleware, Next, PathParams, Reply, Route, RouteError, RouteHandler,
    RouteRequest, full_body, service_handler,
};
pub use scope::{
    Directory, DrainReport, Host, NoDirectory, PublishError, Registration, Scope, ScopeOptions, Withdraw,
    Withdrawal,
};
pub use service::{ServiceGuard, ServiceHandle, ServiceKey};
