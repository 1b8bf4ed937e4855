//! Who offers what: services and routes of all plugins, kept in step with their slots.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use plugin_core::{
    Directory, Live, Permissions, PluginName, PublishError, Route, ServiceKey, Slot, Withdrawal,
};
use runtime::CancellationToken;
use tokio::time::Instant;

use crate::routes::{Found, Lookup, PluginRoutes, RouteTable, Shape};

/// How often a lookup looks again because what it found was closed in between. Each time means a swap
/// within a microsecond.
const ATTEMPTS: usize = 100;

/// One service that a plugin offers.
#[derive(Debug, Clone)]
pub struct ServiceEntry {
    /// Its name and type.
    pub key: ServiceKey,
    /// The plugin that offers it.
    pub provider: PluginName,
    /// Whether it can be called now; not while its plugin restarts.
    pub available: bool,
    /// The plugins that hold handles of it.
    pub users: Vec<PluginName>,
}

/// The host's [`Directory`]: writers take one lock, requests look into a snapshot.
#[derive(Default)]
pub struct ServiceDirectory {
    writer: Mutex<Writer>,
    routes: ArcSwap<RouteTable>,
    holds: Mutex<Holds>,
}

#[derive(Default)]
struct Writer {
    services: HashMap<ServiceKey, Arc<Slot>>,
    published: BTreeMap<PluginName, Published>,
    endpoints: HashMap<(String, Method), PluginName>,
    /// Finds paths that no request could tell apart. Holds at least the shapes that are known, unless stale.
    shapes: matchit::Router<()>,
    shapes_stale: bool,
}

/// What a plugin has published, or had until a restart that is under way.
struct Published {
    slot: Arc<Slot>,
    incarnation: u64,
    live: Option<Arc<Live>>,
    services: Vec<ServiceKey>,
    routes: Arc<[Arc<Route>]>,
    /// The paths that its middleware stands before, if it has any.
    wraps: Option<Permissions>,
}

impl Published {
    /// Whether requests notice it.
    fn is_routed(&self) -> bool {
        self.wraps.is_some() || !self.routes.is_empty()
    }
}

#[derive(Default)]
struct Holds {
    by_plugin: HashMap<PluginName, Arc<Hold>>,
    /// How many have ended. A request that sees no hold where one has ended since it looked for its route
    /// has an answer that is out of date.
    ended: u64,
}

/// A plugin whose requests wait instead of being answered 503.
struct Hold {
    released: CancellationToken,
    until: Instant,
    waiting: AtomicUsize,
    capacity: usize,
}

impl Hold {
    /// Waits until it ends; says whether it did within its limit. Not at all where as many wait as may.
    async fn wait(&self) -> bool {
        let Some(_place) = Place::take(self) else { return false };
        tokio::time::timeout_at(self.until, self.released.cancelled()).await.is_ok()
    }
}

/// Lets the requests that wait for a plugin go on when it is dropped.
pub struct HoldGuard {
    directory: Arc<ServiceDirectory>,
    plugin: PluginName,
    hold: Arc<Hold>,
}

impl HoldGuard {
    /// How many requests wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.hold.waiting.load(Ordering::Acquire)
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let mut holds = self.directory.holds();
        if holds.by_plugin.get(&self.plugin).is_some_and(|hold| Arc::ptr_eq(hold, &self.hold)) {
            holds.by_plugin.remove(&self.plugin);
        }
        holds.ended += 1;
        drop(holds);
        self.hold.released.cancel();
    }
}

impl fmt::Debug for HoldGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldGuard").field("plugin", &self.plugin).field("waiting", &self.waiting()).finish()
    }
}

impl ServiceDirectory {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// What answers `method` on `path`, a path as it stands in a request, still percent-encoded. Takes no
    /// lock.
    #[must_use]
    pub fn lookup(&self, method: &Method, path: &str) -> Lookup {
        for _ in 0..ATTEMPTS {
            // An incarnation is closed only after the table without it is in place, so that another look
            // finds another table.
            match self.routes.load().lookup(method, path) {
                Found::Final(lookup) => return lookup,
                Found::Outdated => std::hint::spin_loop(),
            }
        }
        Lookup::NotFound
    }

    /// The same, but a request for a plugin that is [held](ServiceDirectory::hold) waits its turn.
    pub async fn route(&self, method: &Method, path: &str) -> Lookup {
        loop {
            let ended = self.holds().ended;
            let lookup = self.lookup(method, path);
            let Lookup::Unavailable { plugin, .. } = &lookup else { return lookup };
            let hold = {
                let holds = self.holds();
                match holds.by_plugin.get(plugin) {
                    Some(hold) => hold.clone(),
                    None if holds.ended == ended => return lookup,
                    None => continue,
                }
            };
            if !hold.wait().await {
                return lookup;
            }
        }
    }

    /// Has requests for `plugin` wait while it is away, `capacity` of them and for `limit` at the most. The
    /// rest are told that it is unavailable.
    #[must_use]
    pub fn hold(self: &Arc<Self>, plugin: &PluginName, capacity: usize, limit: Duration) -> HoldGuard {
        let hold = Arc::new(Hold {
            released: CancellationToken::new(),
            until: Instant::now() + limit,
            waiting: AtomicUsize::new(0),
            capacity,
        });
        self.holds().by_plugin.insert(plugin.clone(), hold.clone());
        HoldGuard { directory: self.clone(), plugin: plugin.clone(), hold }
    }

    /// Every service that is offered, by name and provider.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceEntry> {
        let writer = self.writer();
        let mut entries = Vec::with_capacity(writer.services.len());
        for (provider, published) in &writer.published {
            let users = published.slot.services_in_use();
            for key in &published.services {
                let users = users.iter().find(|(used, _)| used == key).map(|(_, by)| by.clone());
                entries.push(ServiceEntry {
                    key: key.clone(),
                    provider: provider.clone(),
                    available: published.live.is_some(),
                    users: users.unwrap_or_default(),
                });
            }
        }
        entries.sort_by(|a, b| (a.key.name(), &a.provider).cmp(&(b.key.name(), &b.provider)));
        entries
    }

    fn store_routes(&self, writer: &Writer) {
        let plugins = writer
            .published
            .iter()
            .filter(|(_, published)| published.is_routed())
            .map(|(plugin, published)| PluginRoutes {
                plugin: plugin.clone(),
                live: published.live.clone(),
                routes: published.routes.clone(),
                wraps: published.wraps.clone(),
            })
            .collect();
        self.routes.store(Arc::new(RouteTable::new(plugins)));
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue of a held plugin.
struct Place<'a>(&'a Hold);

impl<'a> Place<'a> {
    fn take(hold: &'a Hold) -> Option<Self> {
        let free = |waiting: usize| (waiting < hold.capacity).then_some(waiting + 1);
        hold.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).ok().map(|_| Self(hold))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Directory for ServiceDirectory {
    fn find(&self, key: &ServiceKey) -> Option<Arc<Slot>> {
        self.writer().services.get(key).cloned()
    }

    fn publish(&self, slot: &Arc<Slot>, live: Arc<Live>) -> Result<Option<Arc<Live>>, PublishError> {
        let mut writer = self.writer();
        let name = slot.name();
        writer.check_services(name, slot, &live)?;
        let endpoints = writer.check_routes(name, &live)?;

        let before = writer.forget(name);
        for key in live.services() {
            writer.services.insert(key.clone(), slot.clone());
        }
        writer.endpoints.extend(endpoints.into_iter().map(|endpoint| (endpoint, name.clone())));
        let published = Published {
            slot: slot.clone(),
            incarnation: live.incarnation(),
            services: live.services().cloned().collect(),
            routes: live.routes().into(),
            wraps: live.middleware().next().map(|_| live.permissions().clone()),
            live: Some(live.clone()),
        };
        let routed = published.is_routed() || before.is_some_and(|before| before.is_routed());
        writer.published.insert(name.clone(), published);
        let previous = slot.replace(Some(live));
        if routed {
            self.store_routes(&writer);
        }
        Ok(previous)
    }

    fn withdraw(&self, slot: &Arc<Slot>, incarnation: u64, why: Withdrawal) {
        let mut writer = self.writer();
        let Some(published) = writer.published.get_mut(slot.name()) else { return };
        if published.incarnation != incarnation {
            return;
        }
        let routed = published.is_routed();
        match why {
            // Its successor has taken over already.
            Withdrawal::Replaced => return,
            Withdrawal::Restarting => {
                published.live = None;
            }
            Withdrawal::Failed if published.wraps.is_some() => {
                if let Some(published) = writer.forget(slot.name()) {
                    let (services, routes) = (Vec::new(), Arc::from([]));
                    let away = Published { live: None, services, routes, ..published };
                    writer.published.insert(slot.name().clone(), away);
                }
            }
            Withdrawal::Stopped | Withdrawal::Failed | Withdrawal::Unloaded => {
                writer.forget(slot.name());
            }
        }
        slot.replace(None);
        if routed {
            self.store_routes(&writer);
        }
    }
}

impl Writer {
    fn check_services(&self, name: &PluginName, slot: &Slot, live: &Live) -> Result<(), PublishError> {
        for key in live.services() {
            if let Some(other) = self.services.get(key)
                && other.name() != name
            {
                let what = format!("service {}", key.name());
                return Err(PublishError::Conflict { what, by: other.name().clone() });
            }
        }
        let swaps = self.published.get(name).is_some_and(|published| published.live.is_some());
        if swaps {
            for (key, mut users) in slot.services_in_use() {
                users.retain(|user| user != name);
                if !users.is_empty() && !live.services().any(|offered| *offered == key) {
                    return Err(PublishError::InUse { service: key.name().to_owned(), users });
                }
            }
        }
        Ok(())
    }

    /// The endpoints of `live`, if no other plugin has one of them.
    fn check_routes(
        &mut self,
        name: &PluginName,
        live: &Live,
    ) -> Result<Vec<(String, Method)>, PublishError> {
        if live.routes().is_empty() {
            return Ok(Vec::new());
        }
        let has_own = self.published.get(name).is_some_and(|published| !published.routes.is_empty());
        if has_own || self.shapes_stale {
            // What the plugin served before does not stand in its own way.
            self.shapes = matchit::Router::new();
            for ((shape, _), owner) in &self.endpoints {
                if owner != name {
                    // Again and again for several methods of a path, which only says that it is there.
                    let _ = self.shapes.insert(shape.clone(), ());
                }
            }
            // Where the publication is refused, those left out above are missing.
            self.shapes_stale = has_own;
        }
        let mut endpoints = Vec::with_capacity(live.routes().len());
        let mut added = false;
        for route in live.routes() {
            let refused = |why: String| PublishError::Refused {
                what: format!("route {}", route.endpoint),
                source: why.into(),
            };
            let conflict = |by: &PluginName| PublishError::Conflict {
                what: format!("route {}", route.endpoint),
                by: by.clone(),
            };
            let outcome = match Shape::of(&route.endpoint) {
                Err(why) => Err(refused(why.to_owned())),
                Ok(Shape { shape, .. }) => {
                    let key = (shape, route.endpoint.method().clone());
                    match self.endpoints.get(&key) {
                        _ if endpoints.contains(&key) => Err(refused("is registered twice".to_owned())),
                        Some(other) if other != name => Err(conflict(other)),
                        _ => match self.shapes.insert(key.0.clone(), ()) {
                            Ok(()) => {
                                added = true;
                                Ok(key)
                            }
                            Err(matchit::InsertError::Conflict { with }) if with == key.0 => Ok(key),
                            Err(matchit::InsertError::Conflict { with }) => {
                                let owner = self.endpoints.iter().find(|((shape, _), _)| *shape == with);
                                Err(match owner {
                                    Some((_, owner)) if owner != name => conflict(owner),
                                    _ => refused(format!("cannot be told from `{with}`")),
                                })
                            }
                            Err(error) => Err(refused(error.to_string())),
                        },
                    }
                }
            };
            match outcome {
                Ok(key) => endpoints.push(key),
                Err(error) => {
                    self.shapes_stale |= added;
                    return Err(error);
                }
            }
        }
        self.shapes_stale = false;
        Ok(endpoints)
    }

    /// Takes a plugin out of every index but the slot.
    fn forget(&mut self, name: &PluginName) -> Option<Published> {
        let published = self.published.remove(name)?;
        for key in &published.services {
            self.services.remove(key);
        }
        for route in published.routes.iter() {
            if let Ok(Shape { shape, .. }) = Shape::of(&route.endpoint) {
                self.endpoints.remove(&(shape, route.endpoint.method().clone()));
                self.shapes_stale = true;
            }
        }
        Some(published)
    }
}

impl fmt::Debug for ServiceDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = self.writer();
        f.debug_struct("ServiceDirectory")
            .field("services", &writer.services.len())
            .field("endpoints", &writer.endpoints.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
