//! The bus behind its handles: who is subscribed, and how an event gets to them.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{AbortHandle, AbortRegistration, Abortable};
use runtime::{CancellationToken, SharedClock, TaskOwner};
use tokio::runtime::Handle;

use crate::ack::AckTicket;
use crate::bus::Limits;
use crate::dispatch::Reader;
use crate::event::Event;
use crate::history::History;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::ring::{Entry, Pushed, Ring, RingClass, Wakes};
use crate::subscribe::{Start, SubscribeError, SubscriptionSpec};
use crate::subscription::{Counters, Subscriber, SubscriptionId, SubscriptionStats};
use crate::table::{Edit, Table, exact_topic};

/// See the module's text.
pub(crate) struct Hub {
    pub(crate) clock: SharedClock,
    pub(crate) source: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) history: Option<History>,
    pub(crate) table: Table,
    pub(crate) refused: AtomicU64,
    handle: Option<Handle>,
    tasks: TaskOwner,
    closed: AtomicBool,
    registry: Mutex<Registry>,
}

/// Changed by one at a time. Locked before the table's shards and the rings.
#[derive(Default)]
struct Registry {
    subscribers: BTreeMap<SubscriptionId, Arc<Subscriber>>,
    rings: HashMap<(Pattern, RingClass), Arc<Ring>>,
    next_id: u64,
    /// The counts of subscriptions that have ended.
    retired: SubscriptionStats,
}

/// What an attempt to publish came to.
pub(crate) enum Attempt {
    Done {
        /// Subscriptions that have the event.
        delivered_to: usize,
        /// Subscriptions that had no room for it.
        missed: usize,
    },
    /// Nothing was done, since a subscription that must not miss the event has no room in this ring.
    Full(Arc<Ring>),
}

impl Hub {
    pub(crate) fn new(
        clock: SharedClock,
        source: Arc<str>,
        limits: Limits,
        history: Option<History>,
        handle: Option<Handle>,
    ) -> Arc<Self> {
        let tasks = match &handle {
            Some(handle) => TaskOwner::on(handle.clone(), "event-bus"),
            None => TaskOwner::new("event-bus"),
        };
        Arc::new(Self {
            clock,
            source,
            limits,
            history,
            table: Table::new(),
            refused: AtomicU64::new(0),
            handle,
            tasks,
            closed: AtomicBool::new(false),
            registry: Mutex::default(),
        })
    }

    /// Puts the event into the ring of every subscription that takes it, in one step. A ring whose members
    /// must not miss it and that has no room is left out if `may_miss`; else nothing is done.
    pub(crate) fn attempt(&self, event: &Event, ack: Option<&Arc<AckTicket>>, may_miss: bool) -> Attempt {
        let mut wakes = spare_wakes();
        let entry = || Entry { event: event.clone(), ack: ack.cloned() };
        let lookup = self.table.look_up(event.topic());
        let (mut delivered_to, mut missed) = (0, 0);
        if let Some(route) = lookup.route() {
            match &*route.gated {
                [] => {}
                gated if may_miss => {
                    for ring in gated {
                        match ring.push(entry(), &mut wakes) {
                            Pushed::To(members) => delivered_to += members,
                            Pushed::Full => missed += ring.miss(),
                        }
                    }
                }
                [ring] => match ring.push(entry(), &mut wakes) {
                    Pushed::To(members) => delivered_to += members,
                    Pushed::Full => return Attempt::Full(ring.clone()),
                },
                gated => match Ring::push_all(gated, entry, &mut wakes) {
                    Ok(members) => delivered_to += members,
                    Err(full) => return Attempt::Full(full.clone()),
                },
            }
            for ring in &route.free {
                match ring.push(entry(), &mut wakes) {
                    Pushed::To(members) => delivered_to += members,
                    Pushed::Full => missed += ring.miss(),
                }
            }
        }
        let forgotten = self.history.as_ref().map(|history| history.push(event));
        drop(lookup);
        // Both may run foreign code, which must find no lock held.
        drop(forgotten);
        wake(wakes);
        Attempt::Done { delivered_to, missed }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses events from now on. When it returns, none is on its way into a ring.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.table.edit_all());
    }

    /// Ends subscriptions and begins others in one step: an event goes to those that end or to those that
    /// begin, never to both and never to neither. Those that end handle what they have.
    pub(crate) fn change(
        self: &Arc<Self>,
        remove: &[SubscriptionId],
        add: Vec<SubscriptionSpec>,
    ) -> Result<Vec<Arc<Subscriber>>, SubscribeError> {
        for spec in &add {
            spec.options.check()?;
        }
        if self.handle.is_none() && !add.is_empty() && Handle::try_current().is_err() {
            return Err(SubscribeError::NoRuntime);
        }
        let mut registry = self.registry();
        if self.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let mut leaving = Vec::with_capacity(remove.len());
        for id in remove {
            match registry.subscribers.get(id) {
                Some(subscriber) => leaving.push(subscriber.clone()),
                // It has ended by itself, as one that fell behind does: nothing is left to do.
                None if (1..=registry.next_id).contains(&id.0) => {}
                None => return Err(SubscribeError::Unknown(*id)),
            }
        }
        let count = registry.subscribers.len() - leaving.len() + add.len();
        if count > self.limits.subscriptions {
            return Err(SubscribeError::TooMany(self.limits.subscriptions));
        }
        let mut wakes = Wakes::new();
        let mut edit = registry.edit_for(&self.table, &leaving, &add);
        for subscriber in &leaving {
            registry.take_out(subscriber, edit.as_mut(), &mut wakes);
        }
        let mut joined = Vec::with_capacity(add.len());
        for spec in add {
            let (subscriber, start, registration) = registry.put_in(spec, edit.as_mut());
            joined.push((subscriber, start, registration));
        }
        drop(edit);
        drop(registry);
        wake(wakes);
        Ok(joined
            .into_iter()
            .map(|(subscriber, start, registration)| {
                let work = start(Reader::new(subscriber.clone(), Arc::downgrade(self)));
                let name = subscriber.name.to_string();
                self.tasks.spawn(name, async move {
                    let _ = Abortable::new(work, registration).await;
                });
                subscriber
            })
            .collect())
    }

    /// A membership without a task, for a stream, and what `history` had at that very moment.
    pub(crate) fn tap(
        self: &Arc<Self>,
        spec: SubscriptionSpec,
        history: &mut dyn FnMut(&History),
    ) -> Result<Arc<Subscriber>, SubscribeError> {
        spec.options.check()?;
        let mut registry = self.registry();
        if self.is_closed() {
            return Err(SubscribeError::Closed);
        }
        if registry.subscribers.len() >= self.limits.subscriptions {
            return Err(SubscribeError::TooMany(self.limits.subscriptions));
        }
        let mut edit = Some(self.table.edit_all());
        if let Some(kept) = &self.history {
            history(kept);
        }
        let (subscriber, _, _) = registry.put_in(spec, edit.as_mut());
        Ok(subscriber)
    }

    /// Ends a subscription: no event that is published from now on goes to it.
    pub(crate) fn leave(&self, subscriber: &Arc<Subscriber>) {
        let mut wakes = Wakes::new();
        {
            let mut registry = self.registry();
            if !subscriber.member.has_left() {
                let leaving = std::slice::from_ref(subscriber);
                let mut edit = registry.edit_for(&self.table, leaving, &[]);
                registry.take_out(subscriber, edit.as_mut(), &mut wakes);
                drop(edit);
            }
        }
        wake(wakes);
    }

    /// Takes a subscription whose reader has ended off the list, and keeps its counts.
    pub(crate) fn forget(&self, subscriber: &Arc<Subscriber>) {
        let mut registry = self.registry();
        if registry.subscribers.remove(&subscriber.id).is_some() {
            let stats = subscriber.stats();
            registry.retired.add(&stats);
        }
    }

    pub(crate) fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.registry().subscribers.values().cloned().collect()
    }

    pub(crate) fn subscriber(&self, id: SubscriptionId) -> Option<Arc<Subscriber>> {
        self.registry().subscribers.get(&id).cloned()
    }

    /// The counts of all subscriptions, ended ones included.
    pub(crate) fn totals(&self) -> (usize, SubscriptionStats) {
        let (subscribers, mut totals) = {
            let registry = self.registry();
            (registry.subscribers.values().cloned().collect::<Vec<_>>(), registry.retired)
        };
        for subscriber in &subscribers {
            totals.add(&subscriber.stats());
        }
        (subscribers.len(), totals)
    }

    pub(crate) fn tasks(&self) -> &TaskOwner {
        &self.tasks
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // No foreign code runs under the lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Nobody can publish any more; what waits could still be handled, but by whom it would be waited
        // for is gone as well.
        let subscribers: Vec<_> = self.registry().subscribers.values().cloned().collect();
        let mut wakes = Wakes::new();
        for subscriber in subscribers {
            subscriber.member.stop();
            subscriber.ring.leave(&subscriber.member, &mut wakes);
        }
        wake(wakes);
    }
}

impl Registry {
    /// Holds as much of the table as the change needs: nothing if it touches no ring that others find by
    /// topic, one shard if it touches one topic, all if it must look like one step.
    fn edit_for<'a>(
        &self,
        table: &'a Table,
        leaving: &[Arc<Subscriber>],
        add: &[SubscriptionSpec],
    ) -> Option<Edit<'a>> {
        let pattern = match (leaving, add) {
            ([], [spec]) => &spec.pattern,
            ([subscriber], []) => &subscriber.pattern,
            ([], []) => return None,
            _ => return Some(table.edit_all()),
        };
        let changes_table = match (leaving, add) {
            ([subscriber], _) => subscriber.ring.members() <= 1,
            (_, [spec]) => class_of(&spec.options, 0)
                .is_none_or(|class| !self.rings.contains_key(&(spec.pattern.clone(), class))),
            _ => true,
        };
        match exact_topic(pattern) {
            _ if !changes_table => None,
            Some(topic) => Some(table.edit_topic(&topic)),
            None => Some(table.edit_all()),
        }
    }

    fn put_in(
        &mut self,
        spec: SubscriptionSpec,
        edit: Option<&mut Edit<'_>>,
    ) -> (Arc<Subscriber>, Start, AbortRegistration) {
        self.next_id += 1;
        let id = SubscriptionId(self.next_id);
        let SubscriptionSpec { pattern, options, start } = spec;
        let class = class_of(&options, id.0).unwrap_or(RingClass::Own(id.0));
        let key = (pattern.clone(), class);
        let ring = match self.rings.get(&key) {
            Some(ring) => ring.clone(),
            None => {
                let ring = Arc::new(Ring::new(id.0, class));
                if let Some(edit) = edit {
                    edit.insert(&pattern, &ring);
                }
                self.rings.insert(key, ring.clone());
                ring
            }
        };
        let member = ring.join(options.overflow, options.capacity as u64);
        let (abort, registration) = AbortHandle::new_pair();
        let subscriber = Arc::new(Subscriber {
            id,
            name: options.name.as_deref().unwrap_or(pattern.as_str()).into(),
            pattern,
            options,
            ring,
            member,
            counters: Counters::default(),
            ended: CancellationToken::new(),
            abort,
        });
        self.subscribers.insert(id, subscriber.clone());
        (subscriber, start, registration)
    }

    /// The subscriber stays on the list until its reader has ended.
    fn take_out(&mut self, subscriber: &Subscriber, edit: Option<&mut Edit<'_>>, wakes: &mut Wakes) {
        let left = subscriber.ring.leave(&subscriber.member, wakes);
        if left == 0 {
            let class =
                class_of(&subscriber.options, subscriber.id.0).unwrap_or(RingClass::Own(subscriber.id.0));
            self.rings.remove(&(subscriber.pattern.clone(), class));
            if let Some(edit) = edit {
                edit.remove(&subscriber.pattern, &subscriber.ring);
            }
        }
    }
}

/// Which ring of its pattern a subscription shares; nothing if it has one of its own.
fn class_of(options: &SubscribeOptions, own: u64) -> Option<RingClass> {
    match options.overflow {
        Overflow::Block => Some(RingClass::Gated),
        Overflow::DropOldest | Overflow::Disconnect => Some(RingClass::Free),
        Overflow::DropNewest => (own != 0).then_some(RingClass::Own(own)),
    }
}

/// Wakes readers. The list's memory goes back to the thread, for the next time.
pub(crate) fn wake(mut wakes: Wakes) {
    if wakes.capacity() == 0 {
        return;
    }
    wakes.drain(..).flatten().for_each(std::task::Waker::wake);
    WAKES.with(|kept| kept.set(wakes));
}

thread_local! {
    static WAKES: Cell<Wakes> = const { Cell::new(Wakes::new()) };
}

/// An empty list with the memory of the last one.
pub(crate) fn spare_wakes() -> Wakes {
    WAKES.with(Cell::take)
}
