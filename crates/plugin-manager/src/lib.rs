//! Runs plugins: order, supervision, health, hot swap, configuration, and the folder from which they come.
//!
//! Layer 4. Invariants:
//!
//! - Everything that happens to a plugin goes through its one supervisor task, so that two requests never
//!   interleave on it. Operations on several plugins are sequences of requests to supervisors.
//! - Plugin code runs on the plugins' runtime, with a deadline; supervisors run on the control runtime and
//!   never block. A panic, an error, a missed deadline or a blocked thread is that plugin's failure.
//! - What runs goes on running when a start, a swap, a configuration or a definition file fails.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use event_bus::EventBus;
//! use plugin_core::{PluginBuilder, State};
//! use plugin_manager::{PluginManager, PluginOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = PluginManager::builder(EventBus::builder().build()).build();
//! let stock = PluginBuilder::new("stock", "1.0.0")?.build();
//! let shop = PluginBuilder::new("shop", "1.0.0")?.depends_on("stock", "^1")?.build();
//! manager.register(Arc::new(shop), PluginOptions::default())?;
//! manager.register(Arc::new(stock), PluginOptions::default())?;
//! let report = manager.start_all().await?;
//! assert_eq!(report.running.len(), 2);
//! assert_eq!(manager.get("shop")?.status, State::Running);
//! assert!(manager.stop_all(Duration::from_secs(5)).await.is_clean());
//! # Ok(()) }
//! ```
//!
//! Features: `openapi` derives OpenAPI schemas for the views.

mod autoload;
mod builder;
mod config;
mod dry_run;
mod error;
mod follow;
mod load;
mod manager;
mod metrics;
mod operations;
mod restart;
mod rollout;
mod round_trip;
mod shared;
mod supervisor;
mod view;

pub use autoload::{Definition, DefinitionView};
pub use builder::PluginManagerBuilder;
pub use config::ManagerConfig;
pub use dry_run::DryRun;
pub use error::ManagerError;
pub use load::{LoadRequest, SwapRequest};
pub use manager::{Change, PluginManager, PluginOptions};
pub use operations::{StartReport, StopReport, Unfinished};
pub use restart::{RestartConfig, RestartPolicy};
pub use round_trip::RoundTripError;
pub use supervisor::Applied;
pub use view::{
    DependencyView, EndpointView, ErrorView, GraphEdge, GraphNode, GraphView, HealthView, PluginStatusView,
    PluginView, ServiceView, TypeView,
};
