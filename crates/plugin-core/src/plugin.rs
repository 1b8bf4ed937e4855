//! The trait that a plugin implements.

use async_trait::async_trait;

use crate::{Health, Manifest, PluginContext, PluginError};

/// What came of a new configuration that was offered to a running plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconfigured {
    /// The plugin works by the new configuration now.
    Applied,
    /// Only a restart applies it; the host does that, and takes the old configuration back if it fails.
    NeedsRestart,
}

/// A named, versioned unit with a manifest and a lifecycle.
///
/// Each method runs under a deadline; an error, a panic or a missed deadline is this plugin's failure and
/// nobody else's. A method is never called while another of the same plugin's lifecycle methods runs;
/// `health` may be called at any time while it is running.
///
/// A factory may make several instances of one type, and during a swap two versions stand side by side: a
/// plugin keeps its state in itself, not in statics.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Who this is and what it needs. The same at each call.
    fn manifest(&self) -> Manifest;

    /// Prepares what outlives a stop: checks the configuration, opens files. Registers nothing.
    ///
    /// # Errors
    ///
    /// The plugin is `failed` with the error as its reason.
    async fn initialize(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let _ = ctx;
        Ok(())
    }

    /// Registers services, endpoints, subscriptions and the like, and begins to work.
    ///
    /// # Errors
    ///
    /// The plugin is `failed` with the error as its reason, and nothing that it registered was ever seen.
    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let _ = ctx;
        Ok(())
    }

    /// Ends the work in an orderly way. What was registered has been withdrawn and drained by now, and
    /// [`PluginContext::cancelled`] has been signalled.
    ///
    /// # Errors
    ///
    /// The plugin is `failed` with the error as its reason; its registrations stay withdrawn.
    async fn stop(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let _ = ctx;
        Ok(())
    }

    /// Gives back what `initialize` took. Called once, at unload.
    ///
    /// # Errors
    ///
    /// Reported; the plugin is unloaded all the same.
    async fn destroy(&self) -> Result<(), PluginError> {
        Ok(())
    }

    /// How the plugin fares. Called right after `start`, and then at each health check.
    async fn health(&self) -> Health {
        Health::healthy()
    }

    /// Takes a new configuration, which [`PluginContext::config`] of this context gives and which has been
    /// checked against the manifest, while running. This context is for this call; the one of `start` gives
    /// the new configuration once it is in force, and each one after it.
    ///
    /// # Errors
    ///
    /// The old configuration stays in force and the plugin goes on by it.
    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        let _ = ctx;
        Ok(Reconfigured::NeedsRestart)
    }
}
