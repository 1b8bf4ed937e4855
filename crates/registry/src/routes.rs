//! Which route answers a request: the plugins' routes, compiled into one matcher.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;
use plugin_core::{CallGuard, Endpoint, Live, Middleware, Next, PathParams, Permissions, PluginName, Route};

/// What a client is told to wait before it asks a restarting plugin again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What there is for a method and a path.
#[derive(Debug)]
pub enum Lookup {
    /// A route, which is entered by now: its plugin's stop waits until the match is dropped.
    Found(RouteMatch),
    /// The path is there, for other methods.
    MethodNotAllowed {
        /// Those methods, sorted; for the header `Allow`.
        allow: Vec<Method>,
    },
    /// The plugin that answers is restarting.
    Unavailable {
        /// The plugin.
        plugin: PluginName,
        /// When to ask again.
        retry_after: Duration,
    },
    /// A parameter of the path is no text once decoded.
    Malformed {
        /// The parameter.
        param: String,
    },
    /// Nobody answers this path.
    NotFound,
}

/// A route found for a request, and all that the request goes through on its way.
pub struct RouteMatch {
    route: Arc<Route>,
    params: PathParams,
    middleware: Arc<[Arc<dyn Middleware>]>,
    call: CallGuard,
    /// The incarnations whose middleware stands in the way: no less called than the route's own.
    passes: Vec<CallGuard>,
}

impl RouteMatch {
    /// The route.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The parameters of the path, percent-decoded.
    #[must_use]
    pub fn params(&self) -> &PathParams {
        &self.params
    }

    /// The incarnation that answers.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        self.call.live()
    }

    /// The way to the route, through the middleware of all plugins.
    #[must_use]
    pub fn next(&self) -> Next {
        Next::new(self.middleware.clone(), self.route.handler.clone())
    }

    /// Takes it apart: the parameters, the way, and what to keep until the answer's body has ended.
    #[must_use]
    pub fn into_parts(self) -> (PathParams, Next, RouteGuard) {
        let next = self.next();
        (self.params, next, RouteGuard { _call: self.call, _passes: self.passes })
    }
}

impl fmt::Debug for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMatch")
            .field("route", &self.route)
            .field("params", &self.params)
            .field("live", self.call.live())
            .finish_non_exhaustive()
    }
}

/// Keeps the plugins that a request goes through from being taken as drained.
#[derive(Debug)]
pub struct RouteGuard {
    _call: CallGuard,
    _passes: Vec<CallGuard>,
}

/// The routes of one plugin, as the table knows them.
#[derive(Debug, Clone)]
pub(crate) struct PluginRoutes {
    pub(crate) plugin: PluginName,
    /// Nothing while the plugin restarts.
    pub(crate) live: Option<Arc<Live>>,
    pub(crate) routes: Arc<[Arc<Route>]>,
    /// The paths that its middleware stands before, if it has any.
    pub(crate) wraps: Option<Permissions>,
}

/// All plugins' routes at one moment. Immutable; compiled when first asked.
#[derive(Default)]
pub(crate) struct RouteTable {
    plugins: Vec<PluginRoutes>,
    compiled: OnceLock<Compiled>,
}

#[derive(Default)]
struct Compiled {
    router: matchit::Router<usize>,
    paths: Vec<Vec<Answer>>,
    middleware: Arc<[Arc<dyn Middleware>]>,
    wrapped_by: Vec<Arc<Live>>,
    /// Plugins that are away and whose middleware stands before these paths.
    away: Vec<(PluginName, Permissions)>,
}

/// What answers one method of one path.
struct Answer {
    method: Method,
    route: Arc<Route>,
    params: Vec<String>,
    plugin: PluginName,
    live: Option<Arc<Live>>,
}

/// How a lookup in one table went.
pub(crate) enum Found {
    Final(Lookup),
    /// An incarnation was closed after the table was made: there is a newer table.
    Outdated,
}

impl RouteTable {
    pub(crate) fn new(plugins: Vec<PluginRoutes>) -> Self {
        Self { plugins, compiled: OnceLock::new() }
    }

    pub(crate) fn lookup(&self, method: &Method, path: &str) -> Found {
        let table = self.compiled.get_or_init(|| compile(&self.plugins));
        let Ok(matched) = table.router.at(path) else { return Found::Final(Lookup::NotFound) };
        let answers = table.paths.get(*matched.value).map_or(&[][..], Vec::as_slice);
        let answering = |method: &Method| answers.iter().find(|answer| answer.method == *method);
        let answer = answering(method)
            .or_else(|| if *method == Method::HEAD { answering(&Method::GET) } else { None });
        let Some(answer) = answer else {
            let mut allow: Vec<_> = answers.iter().map(|answer| answer.method.clone()).collect();
            if allow.contains(&Method::GET) && !allow.contains(&Method::HEAD) {
                allow.push(Method::HEAD);
            }
            allow.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            return Found::Final(Lookup::MethodNotAllowed { allow });
        };
        let Some(live) = &answer.live else {
            let plugin = answer.plugin.clone();
            return Found::Final(Lookup::Unavailable { plugin, retry_after: RETRY_AFTER });
        };
        // Without that middleware, which may be what keeps a stranger out, nobody gets in.
        if let Some((plugin, _)) = table.away.iter().find(|(_, before)| before.may_route(path)) {
            return Found::Final(Lookup::Unavailable { plugin: plugin.clone(), retry_after: RETRY_AFTER });
        }
        let mut params = Vec::with_capacity(answer.params.len());
        for (name, (_, raw)) in answer.params.iter().zip(matched.params.iter()) {
            match percent_decode_str(raw).decode_utf8() {
                Ok(value) => params.push((name.clone(), value.into_owned())),
                Err(_) => return Found::Final(Lookup::Malformed { param: name.clone() }),
            }
        }
        let Some(call) = live.enter() else { return Found::Outdated };
        let mut passes = Vec::with_capacity(table.wrapped_by.len());
        for live in &table.wrapped_by {
            match live.enter() {
                Some(pass) => passes.push(pass),
                None => return Found::Outdated,
            }
        }
        Found::Final(Lookup::Found(RouteMatch {
            route: answer.route.clone(),
            params: PathParams::new(params),
            middleware: table.middleware.clone(),
            call,
            passes,
        }))
    }
}

fn compile(plugins: &[PluginRoutes]) -> Compiled {
    let mut compiled = Compiled::default();
    let mut by_shape: HashMap<String, usize> = HashMap::new();
    let mut wrapping = Vec::new();
    for PluginRoutes { plugin, live, routes, wraps } in plugins {
        for route in routes.iter() {
            // What cannot be matched was refused when it was published.
            let Ok(Shape { shape, params }) = Shape::of(&route.endpoint) else { continue };
            let next = compiled.paths.len();
            let at = *by_shape.entry(shape.clone()).or_insert(next);
            if at == next {
                if let Err(error) = compiled.router.insert(shape, at) {
                    tracing::error!(%plugin, endpoint = %route.endpoint, %error, "route left out");
                    continue;
                }
                compiled.paths.push(Vec::new());
            }
            compiled.paths[at].push(Answer {
                method: route.endpoint.method().clone(),
                route: route.clone(),
                params,
                plugin: plugin.clone(),
                live: live.clone(),
            });
        }
        if let (None, Some(wraps)) = (live, wraps) {
            compiled.away.push((plugin.clone(), wraps.clone()));
        }
        if let Some(live) = live {
            let before = wrapping.len();
            wrapping.extend(live.middleware().map(|(priority, m)| (priority, plugin.clone(), m.clone())));
            if wrapping.len() > before {
                compiled.wrapped_by.push(live.clone());
            }
        }
    }
    // Stable, so that a plugin's own of one priority stay in the order in which it registered them.
    wrapping.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    compiled.middleware = wrapping.into_iter().map(|(_, _, middleware)| middleware).collect();
    compiled
}

/// A path with its parameters numbered, so that `/a/{x}` and `/a/{y}` are seen to be the same.
pub(crate) struct Shape {
    pub(crate) shape: String,
    pub(crate) params: Vec<String>,
}

impl Shape {
    pub(crate) fn of(endpoint: &Endpoint) -> Result<Self, &'static str> {
        let mut shape = String::new();
        let mut params: Vec<String> = Vec::new();
        let mut rest = endpoint.path();
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            shape.push_str(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                shape.push_str(&brace[..2]);
                rest = &brace[2..];
                continue;
            }
            let (param, after) = match brace.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(split) => split,
                None => return Err("has a brace without its other half"),
            };
            let (star, name) = match param.strip_prefix('*') {
                Some(name) => ("*", name),
                None => ("", param),
            };
            if name.is_empty() || name.contains(['{', '*', '/']) {
                return Err("has a parameter without a proper name");
            }
            if params.iter().any(|other| other == name) {
                return Err("names a parameter twice");
            }
            shape.push_str(&format!("{{{star}p{}}}", params.len()));
            params.push(name.to_owned());
            rest = after;
        }
        shape.push_str(rest);
        Ok(Self { shape, params })
    }
}

#[cfg(test)]
mod tests;
