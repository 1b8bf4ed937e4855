//! Plugins: what runs, its lifecycle, its configuration.

use std::collections::BTreeMap;

use http::StatusCode;
use management::{ConfigApplied, ConfigValue, LifecycleAction, LifecycleOptions, PluginConfig, Progress};
use plugin_core::PluginName;
use plugin_manager::{GraphView, LoadRequest, PluginStatusView, PluginView, SwapRequest, TypeView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::envelope::{Answer, Envelope, Outcome, list_data, whole};
use crate::extract::{Ctx, IfMatch, Json, Name, OptionalJson, PageQuery, Query};

/// A plugin.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginData {
    plugin: PluginView,
}

/// State and health of all plugins.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusesData {
    /// By name.
    #[schema(value_type = BTreeMap<String, PluginStatusView>)]
    plugins: BTreeMap<PluginName, PluginStatusView>,
    /// How many there are.
    total: usize,
}

/// A plugin's configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigData {
    /// As it is in force, secrets masked.
    config: Value,
    /// Each value with its origin, by path: what `/config` shows of the plugin.
    values: Vec<ConfigValue>,
    /// How it came into force; nothing where it was only read, or tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<ConfigApplied>,
}

fn config_answer(config: PluginConfig) -> Outcome {
    let PluginConfig { config, values, version, applied } = config;
    Ok(Answer::ok(&ConfigData { config, values, applied })?.etag(version))
}

list_data!(
    /// Plugins, by name.
    PluginsData, plugins, PluginView);
list_data!(
    /// What plugins can be made of.
    TypesData, types, TypeView);

/// How far the operation goes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LifecycleQuery {
    /// Takes those along who use the plugin (stop, restart, unload), or whom it uses (start).
    #[param(default = false)]
    cascade: bool,
    /// Goes ahead although it cuts off the connection that asks.
    #[param(default = false)]
    force: bool,
    /// Whether the answer waits for the end. Without, it is 202 and the operation goes on.
    #[param(default = true)]
    wait: bool,
}

impl Default for LifecycleQuery {
    fn default() -> Self {
        Self { cascade: false, force: false, wait: true }
    }
}

impl From<LifecycleQuery> for LifecycleOptions {
    fn from(query: LifecycleQuery) -> Self {
        Self { cascade: query.cascade, force: query.force, wait: query.wait }
    }
}

fn progress(progress: Progress<PluginView>) -> Outcome {
    match progress {
        Progress::Done(plugin) => Answer::ok(&PluginData { plugin }),
        Progress::Begun(plugin) => Answer::with(StatusCode::ACCEPTED, &PluginData { plugin }),
    }
}

/// The plugins, by name.
#[utoipa::path(get, path = "/plugins", tag = "plugins", security(("bearer" = ["plugin.read"])), params(PageQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<PluginsData>)))]
pub(crate) async fn list(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&PluginsData::from(ctx.management().plugins(ctx.caller(), &query.page()?)?))
}

/// State and health of all plugins.
#[utoipa::path(get, path = "/plugins/status", tag = "plugins", security(("bearer" = ["plugin.read"])),
    responses((status = 200, description = "All of them, by name.", body = Envelope<StatusesData>)))]
pub(crate) async fn statuses(ctx: Ctx) -> Outcome {
    let plugins = ctx.management().plugin_statuses(ctx.caller())?;
    Answer::ok(&StatusesData { total: plugins.len(), plugins })
}

/// Who needs whom.
#[utoipa::path(get, path = "/plugins/graph", tag = "plugins", security(("bearer" = ["plugin.read"])),
    responses((status = 200, description = "Nodes, edges, levels.", body = Envelope<GraphView>)))]
pub(crate) async fn graph(ctx: Ctx) -> Outcome {
    Answer::ok(&ctx.management().plugin_graph(ctx.caller())?)
}

/// What plugins can be made of, with the schema of each configuration.
#[utoipa::path(get, path = "/plugins/types", tag = "plugins", security(("bearer" = ["plugin.read"])),
    responses((status = 200, description = "All of them.", body = Envelope<TypesData>)))]
pub(crate) async fn types(ctx: Ctx) -> Outcome {
    Answer::ok(&TypesData::from(whole(ctx.management().plugin_types(ctx.caller())?)))
}

/// One plugin, whole.
#[utoipa::path(get, path = "/plugins/{name}", tag = "plugins", security(("bearer" = ["plugin.read"])),
    params(("name" = String, Path, description = "The plugin's name.")),
    responses((status = 200, description = "The plugin.", body = Envelope<PluginData>)))]
pub(crate) async fn get(ctx: Ctx, Name(name): Name) -> Outcome {
    Answer::ok(&PluginData { plugin: ctx.management().plugin(ctx.caller(), &name)? })
}

macro_rules! lifecycle {
    ($(#[$doc:meta])* $handler:ident, $path:literal, $permission:literal, $action:expr) => {
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "plugins", security(("bearer" = [$permission])),
            params(("name" = String, Path, description = "The plugin's name."), LifecycleQuery),
            responses(
                (status = 200, description = "The plugin as it is now.", body = Envelope<PluginData>),
                (status = 202, description = "It has begun; the plugin as it was.", body = Envelope<PluginData>),
                (status = 504, description = "The plugin took too long.")))]
        pub(crate) async fn $handler(ctx: Ctx, Name(name): Name, Query(query): Query<LifecycleQuery>) -> Outcome {
            progress(ctx.management().lifecycle(ctx.caller(), &name, $action, query.into()).await?)
        }
    };
}

lifecycle!(
    /// Prepares a plugin.
    initialize, "/plugins/{name}/initialize", "plugin.initialize", LifecycleAction::Initialize);
lifecycle!(
    /// Lets a plugin serve.
    start, "/plugins/{name}/start", "plugin.start", LifecycleAction::Start);
lifecycle!(
    /// Ends a plugin in order.
    stop, "/plugins/{name}/stop", "plugin.stop", LifecycleAction::Stop);
lifecycle!(
    /// Stops, initializes and starts a plugin, and brings back those who use it.
    restart, "/plugins/{name}/restart", "plugin.restart", LifecycleAction::Restart);

/// A plugin's configuration as it is in force, secrets masked.
#[utoipa::path(get, path = "/plugins/{name}/config", tag = "plugins", security(("bearer" = ["plugin.read"])),
    params(("name" = String, Path, description = "The plugin's name.")),
    responses((status = 200, description = "The configuration.", body = Envelope<ConfigData>)))]
pub(crate) async fn config(ctx: Ctx, Name(name): Name) -> Outcome {
    config_answer(ctx.management().plugin_config(ctx.caller(), &name)?)
}

/// Replaces a plugin's configuration: validated first, applied live or by a restart, taken back on failure.
#[utoipa::path(put, path = "/plugins/{name}/config", tag = "plugins", security(("bearer" = ["plugin.configure"])),
    request_body(content = Object, description = "The whole configuration. A masked secret means unchanged."),
    params(("name" = String, Path, description = "The plugin's name.")),
    responses(
        (status = 200, description = "The configuration as it is now.", body = Envelope<ConfigData>),
        (status = 504, description = "The plugin took too long.")))]
pub(crate) async fn set_config(
    ctx: Ctx,
    Name(name): Name,
    IfMatch(version): IfMatch,
    Json(config): Json<Map<String, Value>>,
) -> Outcome {
    let (management, config) = (ctx.management(), Value::Object(config));
    config_answer(management.set_plugin_config(ctx.caller(), &name, config, version).await?)
}

/// Makes a plugin of a type that the host knows.
#[utoipa::path(post, path = "/plugins/load", tag = "plugins", security(("bearer" = ["plugin.load"])), request_body = LoadRequest,
    responses(
        (status = 200, description = "The plugin.", body = Envelope<PluginData>),
        (status = 404, description = "No such type.", body = crate::envelope::ErrorEnvelope),
        (status = 504, description = "The plugin took too long.")))]
pub(crate) async fn load(ctx: Ctx, Json(request): Json<LoadRequest>) -> Outcome {
    Answer::ok(&PluginData { plugin: ctx.management().load_plugin(ctx.caller(), request).await? })
}

/// Removes a plugin, stopping it if it runs.
#[utoipa::path(delete, path = "/plugins/{name}", tag = "plugins", security(("bearer" = ["plugin.unload"])),
    params(("name" = String, Path, description = "The plugin's name."), LifecycleQuery),
    responses(
        (status = 200, description = "The plugin as it was.", body = Envelope<PluginData>),
        (status = 202, description = "It has begun; the plugin as it was.", body = Envelope<PluginData>),
        (status = 504, description = "The plugin took too long.")))]
pub(crate) async fn unload(ctx: Ctx, Name(name): Name, Query(query): Query<LifecycleQuery>) -> Outcome {
    progress(ctx.management().unload_plugin(ctx.caller(), &name, query.into()).await?)
}

/// Puts another version in a plugin's place, without a request that fails.
#[utoipa::path(post, path = "/plugins/{name}/swap", tag = "plugins", security(("bearer" = ["plugin.swap"])), request_body = Option<SwapRequest>,
    params(("name" = String, Path, description = "The plugin's name.")),
    responses(
        (status = 200, description = "The plugin as it is now.", body = Envelope<PluginData>),
        (status = 504, description = "The new version took too long.")))]
pub(crate) async fn swap(
    ctx: Ctx,
    Name(name): Name,
    OptionalJson(request): OptionalJson<SwapRequest>,
) -> Outcome {
    Answer::ok(&PluginData { plugin: ctx.management().swap_plugin(ctx.caller(), &name, request).await? })
}
