//! One incarnation of a plugin as others see it, and the slot that points to it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use semver::Version;
use tokio::sync::Notify;

use crate::route::{MiddlewareEntry, Route};
use crate::service::{Service, ServiceKey};
use crate::{Middleware, Permissions, PluginName};

/// What one incarnation of a plugin has published: immutable, and counted while it is in use.
///
/// Requests and service calls [`enter`](Live::enter) it; once it is closed no new call gets in, and what is
/// inside can be waited for.
pub struct Live {
    plugin: PluginName,
    version: Version,
    incarnation: u64,
    pub(crate) services: HashMap<ServiceKey, Service>,
    routes: Vec<Arc<Route>>,
    middleware: Vec<MiddlewareEntry>,
    permissions: Permissions,
    closed: AtomicBool,
    inside: AtomicUsize,
    left: Notify,
    /// Who holds guards of services, for naming those that outlive a drain.
    holders: Mutex<BTreeMap<PluginName, usize>>,
}

impl Live {
    pub(crate) fn new(
        plugin: PluginName,
        version: Version,
        incarnation: u64,
        services: HashMap<ServiceKey, Service>,
        routes: Vec<Arc<Route>>,
        middleware: Vec<MiddlewareEntry>,
        permissions: Permissions,
    ) -> Self {
        Self {
            plugin,
            version,
            incarnation,
            services,
            routes,
            middleware,
            permissions,
            closed: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            left: Notify::new(),
            holders: Mutex::default(),
        }
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    /// The version of the plugin that this is an incarnation of.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The number of this incarnation: it grows with each start of any plugin in the host.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The routes that it serves.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Its middleware with the priority of each; lower is further out.
    pub fn middleware(&self) -> impl Iterator<Item = (i32, &Arc<dyn Middleware>)> {
        self.middleware.iter().map(|entry| (entry.priority, &entry.middleware))
    }

    /// What it was granted; its middleware stands before the paths that it may serve itself.
    #[must_use]
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// The services that it offers.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Counts a call in, unless this incarnation is closed; the call counts until the guard goes.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<CallGuard> {
        // Counted first and checked after: `close` sets the flag first and reads the count after, so that
        // one of the two sees the other. Both orders have to be sequentially consistent for that.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let guard = CallGuard { live: self.clone() };
        if self.closed.load(Ordering::SeqCst) { None } else { Some(guard) }
    }

    /// Lets no new call in.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether no new call gets in.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How many calls are inside now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// Waits until no call is inside, for `deadline` at the most; says whether that came about.
    pub async fn drained(&self, deadline: Duration) -> bool {
        let empty = async {
            loop {
                let left = self.left.notified();
                tokio::pin!(left);
                // Registered before the count is read, so that the last one's leaving is not missed.
                left.as_mut().enable();
                if self.in_flight() == 0 {
                    return;
                }
                left.await;
            }
        };
        tokio::time::timeout(deadline, empty).await.is_ok()
    }

    /// Which plugins hold guards of this incarnation's services, and how many.
    #[must_use]
    pub fn holders(&self) -> BTreeMap<PluginName, usize> {
        self.holding().clone()
    }

    pub(crate) fn hold(&self, by: &PluginName) {
        *self.holding().entry(by.clone()).or_insert(0) += 1;
    }

    pub(crate) fn release(&self, by: &PluginName) {
        let mut holders = self.holding();
        if let Some(count) = holders.get_mut(by) {
            *count -= 1;
            if *count == 0 {
                holders.remove(by);
            }
        }
    }

    fn holding(&self) -> MutexGuard<'_, BTreeMap<PluginName, usize>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("plugin", &self.plugin)
            .field("version", &self.version)
            .field("incarnation", &self.incarnation)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// A call that is inside an incarnation. Dropping it is leaving.
#[derive(Debug)]
pub struct CallGuard {
    live: Arc<Live>,
}

impl CallGuard {
    /// The incarnation that the call is inside of.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.live.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.live.left.notify_waiters();
        }
    }
}

/// One plugin's place in its host, for as long as it is registered: it points to the present incarnation,
/// across restarts and swaps.
pub struct Slot {
    name: PluginName,
    live: ArcSwapOption<Live>,
    /// Which services are in use, by whom: each handle counts.
    users: Mutex<HashMap<ServiceKey, BTreeMap<PluginName, usize>>>,
}

impl Slot {
    /// An empty slot.
    #[must_use]
    pub fn new(name: PluginName) -> Arc<Self> {
        Arc::new(Self { name, live: ArcSwapOption::empty(), users: Mutex::default() })
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// The present incarnation, or nothing while the plugin does not run.
    #[must_use]
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// Points the slot to another incarnation, in one step, and gives the one before.
    ///
    /// For the [`Directory`](crate::Directory), which keeps its indexes in step; nobody else calls it.
    pub fn replace(&self, live: Option<Arc<Live>>) -> Option<Arc<Live>> {
        self.live.swap(live)
    }

    /// The services of this plugin for which others hold handles, with the names of those plugins.
    #[must_use]
    pub fn services_in_use(&self) -> Vec<(ServiceKey, Vec<PluginName>)> {
        let users = self.using();
        users.iter().map(|(key, by)| (key.clone(), by.keys().cloned().collect())).collect()
    }

    pub(crate) fn add_user(&self, key: &ServiceKey, user: &PluginName) {
        *self.using().entry(key.clone()).or_default().entry(user.clone()).or_insert(0) += 1;
    }

    pub(crate) fn remove_user(&self, key: &ServiceKey, user: &PluginName) {
        let mut users = self.using();
        let Some(by) = users.get_mut(key) else { return };
        if let Some(count) = by.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                by.remove(user);
            }
        }
        if by.is_empty() {
            users.remove(key);
        }
    }

    fn using(&self) -> MutexGuard<'_, HashMap<ServiceKey, BTreeMap<PluginName, usize>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).field("live", &self.live()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn live(incarnation: u64, services: HashMap<ServiceKey, Service>) -> Arc<Live> {
        let name = PluginName::new("p").unwrap();
        let (version, permissions) = (Version::new(1, 0, 0), Permissions::new(Vec::new()));
        Arc::new(Live::new(name, version, incarnation, services, Vec::new(), Vec::new(), permissions))
    }

    #[tokio::test]
    async fn a_closed_incarnation_lets_nobody_in_and_drains() {
        let live = live(1, HashMap::new());
        let inside = live.enter().unwrap();
        live.close();
        assert!(live.enter().is_none());
        assert_eq!(live.in_flight(), 1, "a refused call does not stay counted");
        assert!(!live.drained(Duration::from_millis(1)).await);
        let waiting = live.drained(Duration::from_secs(60));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(inside);
        assert!(waiting.await);
    }

    /// Promise 4: after a close has drained, nobody is inside and nobody gets in.
    #[test]
    fn promise_4_nobody_is_inside_after_close_and_drain() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..200 {
                let live = live(1, HashMap::new());
                let stopped = Arc::new(AtomicBool::new(false));
                let callers: Vec<_> = (0..3)
                    .map(|_| {
                        let (live, stopped) = (live.clone(), stopped.clone());
                        tokio::task::spawn_blocking(move || {
                            while let Some(guard) = live.enter() {
                                assert!(
                                    !stopped.load(Ordering::SeqCst),
                                    "a call got in after stop had returned"
                                );
                                drop(guard);
                            }
                        })
                    })
                    .collect();
                tokio::task::yield_now().await;
                live.close();
                assert!(live.drained(Duration::from_secs(10)).await);
                stopped.store(true, Ordering::SeqCst);
                for caller in callers {
                    caller.await.unwrap();
                }
            }
        });
    }
}
