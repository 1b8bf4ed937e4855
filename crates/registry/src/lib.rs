//! Which plugins, services, routes and instances exist in a host, and who needs whom.
//!
//! Layer 3. It keeps facts and decides what fits together; it runs nothing. `plugin-manager` runs plugins by
//! it, transports look up routes in it, and an engine implements its port [`Discovery`].
//!
//! - [`PluginRegistry`]: the plugins by name, kind and type. Invariant: a state changes only along
//!   [`plugin_core::State::on`].
//! - [`PluginFactory`]: the plugin types that are compiled in, in several versions each.
//! - [`DependencyGraph`]: levels, orders, and everything that is wrong, named in full. Pure.
//! - [`ServiceDirectory`]: services and routes. Invariant: a lookup sees an incarnation whole or not at all,
//!   and what it gives has been entered, so that its plugin's stop waits for it.
//! - [`Discovery`]: the instances of services across nodes; [`MemoryDiscovery`] knows one process.
//!
//! ```
//! use plugin_core::Manifest;
//! use registry::DependencyGraph;
//!
//! let plugins = [
//!     Manifest::new("shop", "1.0.0")?.depends_on("stock", "^2")?,
//!     Manifest::new("stock", "2.1.0")?.depends_on("shop", "*")?,
//! ];
//! let graph = DependencyGraph::new(&plugins);
//! assert_eq!(graph.problems()[0].to_string(), "dependency cycle: shop -> stock -> shop");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `test-util` adds `discovery_contract`, the tests that every `Discovery` passes.

mod directory;
mod discovery;
mod factory;
mod graph;
mod plugins;
mod routes;

pub use directory::{HoldGuard, ServiceDirectory, ServiceEntry};
#[cfg(any(test, feature = "test-util"))]
pub use discovery::contract as discovery_contract;
pub use discovery::{Discovery, DiscoveryError, Instance, InstanceWatch, Lease, MemoryDiscovery, Picker};
pub use factory::{FactoryError, PluginFactory};
pub use graph::{DependencyGraph, DependencyProblem};
pub use plugins::{PluginRecord, PluginRegistry, Records, Refused, RegistryError, Transition};
pub use routes::{Lookup, RouteGuard, RouteMatch};
