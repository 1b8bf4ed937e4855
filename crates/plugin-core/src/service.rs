//! Typed services: a handle that follows its provider across restarts and swaps, and guards to call by.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use crate::live::{CallGuard, Slot};
use crate::{PluginName, ServiceError};

/// What a service is found by: its name and its type.
#[derive(Debug, Clone)]
pub struct ServiceKey {
    name: Arc<str>,
    type_id: TypeId,
    type_name: &'static str,
}

impl ServiceKey {
    /// The key of the service `name` of type `T`, as a rule a `dyn Trait`.
    #[must_use]
    pub fn of<T: ?Sized + 'static>(name: &str) -> Self {
        Self { name: name.into(), type_id: TypeId::of::<T>(), type_name: type_name::<T>() }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's type, for people.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }
}

impl PartialEq for ServiceKey {
    fn eq(&self, other: &Self) -> bool {
        self.type_id == other.type_id && self.name == other.name
    }
}

impl Eq for ServiceKey {}

impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.type_id.hash(state);
    }
}

/// An `Arc<T>` of which only the key knows the `T`.
pub(crate) struct Service(Box<dyn Any + Send + Sync>);

impl Service {
    pub(crate) fn new<T: ?Sized + Send + Sync + 'static>(service: Arc<T>) -> Self {
        Self(Box::new(service))
    }

    fn get<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.downcast_ref::<Arc<T>>().cloned()
    }
}

/// A service of another plugin. It stays good across that plugin's restarts and swaps: each
/// [`get`](ServiceHandle::get) gives the present instance, or says that there is none now.
pub struct ServiceHandle<T: ?Sized> {
    slot: Arc<Slot>,
    key: ServiceKey,
    user: PluginName,
    service: PhantomData<fn() -> Arc<T>>,
}

impl<T: ?Sized + Send + Sync + 'static> ServiceHandle<T> {
    /// A handle for `user` to the service `key` that the plugin of `slot` offers.
    ///
    /// For contexts and tests; a plugin asks its context.
    #[must_use]
    pub fn new(slot: Arc<Slot>, key: ServiceKey, user: PluginName) -> Self {
        slot.add_user(&key, &user);
        Self { slot, key, user, service: PhantomData }
    }

    /// The service as it is now. Keep the guard for a call or a few, not for ever: a stop or a swap of the
    /// provider waits for it, up to the drain deadline.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unavailable`] while the provider is stopped, restarting or gone; never an instance
    /// that was replaced.
    pub fn get(&self) -> Result<ServiceGuard<T>, ServiceError> {
        let unavailable = || ServiceError::Unavailable {
            name: self.key.name().to_owned(),
            provider: self.slot.name().clone(),
        };
        loop {
            let live = self.slot.live().ok_or_else(unavailable)?;
            let Some(call) = live.enter() else {
                // Closed between the two lines: either a successor stands in the slot by now, or nothing will
                // come here.
                if self.slot.live().is_some_and(|now| !Arc::ptr_eq(&now, &live)) {
                    continue;
                }
                return Err(unavailable());
            };
            let service = live.services.get(&self.key).and_then(Service::get::<T>).ok_or_else(unavailable)?;
            live.hold(&self.user);
            return Ok(ServiceGuard { service, user: self.user.clone(), call });
        }
    }

    /// The plugin that offers the service.
    #[must_use]
    pub fn provider(&self) -> &PluginName {
        self.slot.name()
    }
}

impl<T: ?Sized> Clone for ServiceHandle<T> {
    fn clone(&self) -> Self {
        self.slot.add_user(&self.key, &self.user);
        Self { slot: self.slot.clone(), key: self.key.clone(), user: self.user.clone(), service: PhantomData }
    }
}

impl<T: ?Sized> Drop for ServiceHandle<T> {
    fn drop(&mut self) {
        self.slot.remove_user(&self.key, &self.user);
    }
}

impl<T: ?Sized> fmt::Debug for ServiceHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("key", &self.key).field("provider", self.slot.name()).finish()
    }
}

/// A service instance in use: it derefs to the service, and the instance lives at least as long.
pub struct ServiceGuard<T: ?Sized> {
    service: Arc<T>,
    user: PluginName,
    call: CallGuard,
}

impl<T: ?Sized> Deref for ServiceGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.service
    }
}

impl<T: ?Sized> Drop for ServiceGuard<T> {
    fn drop(&mut self) {
        self.call.live().release(&self.user);
    }
}

impl<T: ?Sized> fmt::Debug for ServiceGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceGuard").field("user", &self.user).field("of", self.call.live()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::live::tests::live;

    trait Greeter: Send + Sync {
        fn greet(&self) -> String;
    }

    struct Says(&'static str);

    impl Greeter for Says {
        fn greet(&self) -> String {
            self.0.to_owned()
        }
    }

    fn offering(incarnation: u64, says: &'static str) -> Arc<crate::Live> {
        let service: Arc<dyn Greeter> = Arc::new(Says(says));
        live(incarnation, HashMap::from([(ServiceKey::of::<dyn Greeter>("greeter"), Service::new(service))]))
    }

    fn handle(slot: &Arc<Slot>) -> ServiceHandle<dyn Greeter> {
        let user = PluginName::new("user").unwrap();
        ServiceHandle::new(slot.clone(), ServiceKey::of::<dyn Greeter>("greeter"), user)
    }

    #[tokio::test]
    async fn a_handle_follows_a_swap_and_never_gives_what_was_replaced() {
        let slot = Slot::new(PluginName::new("p").unwrap());
        let handle = handle(&slot);
        assert!(matches!(handle.get(), Err(ServiceError::Unavailable { .. })));
        slot.replace(Some(offering(1, "hello")));
        let held = handle.get().unwrap();
        let old = slot.replace(Some(offering(2, "good day"))).unwrap();
        old.close();
        assert_eq!(handle.get().unwrap().greet(), "good day");
        assert_eq!(held.greet(), "hello", "an old instance lives until its last guard goes");
        assert!(!old.drained(Duration::from_millis(1)).await);
        assert_eq!(old.holders().into_iter().collect::<Vec<_>>(), [(PluginName::new("user").unwrap(), 1)]);
        drop(held);
        assert!(old.drained(Duration::from_millis(1)).await);
        assert!(old.holders().is_empty());
        slot.replace(None).unwrap().close();
        assert!(handle.get().is_err());
    }

    #[test]
    fn handles_count_as_use_until_the_last_is_dropped() {
        let slot = Slot::new(PluginName::new("p").unwrap());
        let one = handle(&slot);
        let two = one.clone();
        drop(one);
        assert_eq!(slot.services_in_use().len(), 1);
        drop(two);
        assert!(slot.services_in_use().is_empty());
    }

    #[test]
    fn name_and_type_both_count() {
        assert_ne!(ServiceKey::of::<dyn Greeter>("a"), ServiceKey::of::<dyn Greeter>("b"));
        assert_ne!(ServiceKey::of::<dyn Greeter>("a"), ServiceKey::of::<Says>("a"));
    }
}
