//! What runs in this process, put together by whoever calls [`run`](crate::run).

use std::sync::Arc;

use plugin_core::{BoxError, Plugin};
use plugin_manager::PluginOptions;
use registry::PluginFactory;

use crate::greeter::GreeterPlugin;

/// The plugins of a server, and the types of plugins that it can make.
pub struct Host {
    pub(crate) plugins: Vec<(Arc<dyn Plugin>, PluginOptions)>,
    pub(crate) factory: PluginFactory,
}

impl Host {
    /// What comes with the server.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let factory = PluginFactory::new();
        for version in ["1.0.0", "1.1.0"] {
            factory.add_fallible("greeter", move || Ok(Arc::new(GreeterPlugin::new(version)?)))?;
        }
        Ok(Self { plugins: Vec::new(), factory })
    }

    /// Adds a plugin, which is started with the server.
    ///
    /// # Errors
    ///
    /// If a plugin of that name has been added before.
    pub fn plugin(&mut self, plugin: Arc<dyn Plugin>) -> Result<(), BoxError> {
        self.plugin_with(plugin, PluginOptions::default())
    }

    /// The same with its supervision and the like said.
    ///
    /// # Errors
    ///
    /// As for [`plugin`](Host::plugin).
    pub fn plugin_with(&mut self, plugin: Arc<dyn Plugin>, options: PluginOptions) -> Result<(), BoxError> {
        let name = plugin.manifest().name;
        if self.plugins.iter().any(|(other, _)| other.manifest().name == name) {
            return Err(format!("plugin `{name}` is added twice").into());
        }
        self.plugins.push((plugin, options));
        Ok(())
    }

    /// The types of plugins that operators can create instances of; add your own.
    pub fn factory(&mut self) -> &mut PluginFactory {
        &mut self.factory
    }
}
