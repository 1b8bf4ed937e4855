//! Gantry's server, as a library for servers of your own: it names concrete plugins and wires them, and
//! nothing more.
//!
//! Layer 7. [`run`] is the whole program: it reads the command line and the configuration, puts the host
//! together, starts the plugins, and ends them when the process is asked to end.
//!
//! ```no_run
//! use std::sync::Arc;
//! use plugin_core::{Endpoint, PluginBuilder, Reply, RouteRequest};
//!
//! fn main() -> std::process::ExitCode {
//!     server::run(|host| {
//!         let hello = PluginBuilder::new("hello", "1.0.0")?
//!             .permission("route:/hello")?
//!             .on_start(|ctx| async move {
//!                 ctx.route(Endpoint::get("/hello").public(), |_: RouteRequest| async {
//!                     Ok(Reply::text("hello"))
//!                 })?;
//!                 Ok(())
//!             });
//!         host.plugin(Arc::new(hello.build()))
//!     })
//! }
//! ```

mod config;
mod flags;
mod host;
mod run;
mod tokens;
mod wiring;

// What `/demo/factory` and the guide load: one source for the example and the type that comes with the server.
#[path = "../examples/greeter/plugin.rs"]
#[expect(unreachable_pub, reason = "written as a plugin's crate would be")]
mod greeter;

pub use host::Host;
pub use run::run;
