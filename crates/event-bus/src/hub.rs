//! The bus behind its handles: who is subscribed, and how an event gets to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::{SharedClock, TaskOwner};
use tokio::runtime::Handle;

use crate::ack::AckTicket;
use crate::bus::Limits;
use crate::counter::Counter;
use crate::dead::DeadStore;
use crate::dispatch::{Reader, UntilCut};
use crate::event::Event;
use crate::history::History;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::publish::Published;
use crate::report::ByOwner;
use crate::ring::{self, Entry, Held, Leftovers, Push, Refused, Ring, RingClass};
use crate::subscribe::{SubscribeError, SubscriptionSpec};
use crate::subscription::{Subscriber, SubscriptionId, SubscriptionStats};
use crate::table::Table;
use crate::transport::Bridges;

/// See the module's text.
pub(crate) struct Hub {
    pub(crate) clock: SharedClock,
    pub(crate) source: Arc<str>,
    pub(crate) limits: Limits,
    /// Whether handlers are called within spans.
    pub(crate) spans: bool,
    pub(crate) history: Option<History>,
    pub(crate) table: Table,
    pub(crate) published: Counter,
    pub(crate) refused: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) redriven: Counter,
    handle: Option<Handle>,
    tasks: TaskOwner,
    closed: AtomicBool,
    registry: Mutex<Registry>,
    bridges: Mutex<Bridges>,
}

/// Changed by one at a time. Locked before the table's shards and the rings.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) subscribers: BTreeMap<SubscriptionId, Arc<Subscriber>>,
    rings: HashMap<(Pattern, RingClass), Arc<Ring>>,
    next_id: u64,
    /// The counts of subscriptions that have ended, and of them by owner.
    pub(crate) retired: SubscriptionStats,
    pub(crate) retired_by_owner: ByOwner,
    pub(crate) dead: DeadStore,
}

impl Hub {
    pub(crate) fn new(
        (clock, source, limits): (SharedClock, Arc<str>, Limits),
        history: Option<History>,
        handle: Option<Handle>,
        spans: bool,
    ) -> Arc<Self> {
        let tasks = match &handle {
            Some(handle) => TaskOwner::on(handle.clone(), "event-bus"),
            None => TaskOwner::new("event-bus"),
        };
        Arc::new(Self {
            clock,
            source,
            limits,
            spans,
            history,
            table: Table::new(),
            published: Counter::default(),
            refused: Counter::default(),
            dead_lettered: Counter::default(),
            redriven: Counter::default(),
            handle,
            tasks,
            closed: AtomicBool::new(false),
            registry: Mutex::default(),
            bridges: Mutex::default(),
        })
    }

    /// Puts the event into the ring of every subscription that takes it, in one step. Where a member must
    /// not miss it and has no room, nothing is done, or, if `may_miss`, the member misses it.
    pub(crate) fn attempt(
        &self,
        event: Event,
        ack: Option<Arc<AckTicket>>,
        may_miss: bool,
    ) -> Result<Published, (Event, Option<Arc<AckTicket>>, Refused)> {
        let mut push = Push { may_miss, ..Push::default() };
        let mut entry = Some(Entry { event, ack });
        let written = match &self.history {
            None => self.write(&mut entry, &mut push),
            Some(history) => self.write_and_keep(history, &mut entry, &mut push),
        };
        if written.is_ok() {
            self.published.count();
        }
        // Runs foreign code, which must find no lock held.
        if let Some(leftovers) = push.leftovers.take() {
            leftovers.settle();
        }
        match (written, entry) {
            (Err(refused), Some(Entry { event, ack })) => Err((event, ack, refused)),
            _ => Ok(Published { delivered_to: push.delivered_to, missed: push.missed }),
        }
    }

    #[inline]
    fn write(&self, entry: &mut Option<Entry>, push: &mut Push<'_>) -> Result<(), Refused> {
        loop {
            let written = self.table.with_route(
                &mut *entry,
                |entry| entry.as_ref().map(|entry| entry.event.topic()),
                |entry, rings, current| ring::push(rings, entry, push, || current.holds()),
            );
            match written {
                Some(Err(Refused::Stale)) if !self.is_closed() => {}
                // It is taken only by a push that succeeds.
                written => return written.unwrap_or(Ok(())),
            }
        }
    }

    fn write_and_keep<'a>(
        &'a self,
        history: &'a History,
        entry: &mut Option<Entry>,
        push: &mut Push<'a>,
    ) -> Result<(), Refused> {
        let Some(event) = entry.as_ref().map(|entry| entry.event.clone()) else { return Ok(()) };
        push.numbers = Some(history.numbers());
        // Held before the rings are, so that a stream that begins sees one and the same moment of both.
        let mut kept = history.open();
        self.write(entry, push)?;
        let forgotten = kept.push(push.number, event);
        drop(kept);
        history.settle(forgotten);
        Ok(())
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses events from now on. One that is on its way finds its route out of date and is refused, too.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.table.all_changed();
    }

    /// Ends subscriptions and begins others in one step: an event goes to those that end or to those that
    /// begin, never to both and never to neither. Those that end handle what they have.
    pub(crate) fn change(
        self: &Arc<Self>,
        remove: &[SubscriptionId],
        add: Vec<SubscriptionSpec>,
    ) -> Result<Vec<Arc<Subscriber>>, SubscribeError> {
        if self.handle.is_none() && !add.is_empty() && Handle::try_current().is_err() {
            return Err(SubscribeError::NoRuntime);
        }
        let (mut patterns, mut starts) = (Vec::new(), Vec::new());
        for SubscriptionSpec { pattern, options, start } in add {
            patterns.push((pattern, options));
            starts.push(start);
        }
        let joined = match &self.history {
            _ if patterns.iter().all(|(_, options)| options.replay.is_none()) => {
                self.change_members(remove, patterns)?
            }
            None => return Err(SubscribeError::NoHistory),
            Some(history) => {
                // Held until all have their places in the rings: publishers hold it, too.
                let kept = history.hold();
                let joined = self.change_members(remove, patterns)?;
                joined.iter().for_each(|subscriber| subscriber.replay_from(&kept));
                joined
            }
        };
        for (subscriber, start) in joined.iter().zip(starts) {
            let work = start(Reader::new(subscriber.clone(), Arc::downgrade(self)));
            subscriber.has_task.store(true, Ordering::Release);
            self.tasks.spawn(&*subscriber.name, UntilCut::new(work, subscriber.member.clone()));
        }
        Ok(joined)
    }

    /// [`Hub::change`] without tasks.
    pub(crate) fn change_members(
        &self,
        remove: &[SubscriptionId],
        add: Vec<(Pattern, SubscribeOptions)>,
    ) -> Result<Vec<Arc<Subscriber>>, SubscribeError> {
        for (_, options) in &add {
            options.check()?;
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
        if registry.subscribers.len() + add.len() > self.limits.subscriptions + leaving.len() {
            return Err(SubscribeError::TooMany(self.limits.subscriptions));
        }
        // New rings are written to from now on by those who find them, and have no members yet.
        let joining: Vec<_> = add
            .into_iter()
            .map(|(pattern, options)| {
                registry.next_id += 1;
                let id = SubscriptionId(registry.next_id);
                let ring = registry.ring(&self.table, &pattern, &options, id);
                (id, pattern, options, ring)
            })
            .collect();
        let mut leftovers = Leftovers::default();
        let rings = leaving.iter().map(|subscriber| &subscriber.ring);
        let mut held = Held::new(rings.chain(joining.iter().map(|(_, _, _, ring)| ring)));
        for subscriber in &leaving {
            if let Some(log) = held.log(&subscriber.ring) {
                log.leave(&subscriber.member, &mut leftovers);
            }
        }
        let mut joined = Vec::with_capacity(joining.len());
        for (id, pattern, options, ring) in &joining {
            let Some(log) = held.log(ring) else { continue };
            let member = log.join(options.overflow, options.capacity);
            let place = (pattern.clone(), options.clone(), ring.clone());
            joined.push(Arc::new(Subscriber::new(*id, place, member)));
        }
        for pattern in leaving.iter().map(|s| &s.pattern).chain(joined.iter().map(|s| &s.pattern)) {
            self.table.changed(pattern);
        }
        held.release();
        for subscriber in &leaving {
            registry.clean_up(&self.table, subscriber);
        }
        registry.subscribers.extend(joined.iter().map(|subscriber| (subscriber.id, subscriber.clone())));
        drop(registry);
        leftovers.settle();
        joined.iter().for_each(|subscriber| self.table.prepare(&subscriber.pattern));
        Ok(joined)
    }

    /// Ends a subscription: no event that is published from now on goes to it.
    pub(crate) fn leave(&self, subscriber: &Subscriber) {
        let mut registry = self.registry();
        if subscriber.member.end().is_some() {
            return;
        }
        let mut leftovers = Leftovers::default();
        let mut held = Held::new([&subscriber.ring]);
        if let Some(log) = held.log(&subscriber.ring) {
            log.leave(&subscriber.member, &mut leftovers);
        }
        held.release();
        registry.clean_up(&self.table, subscriber);
        drop(registry);
        leftovers.settle();
    }

    /// Takes a subscription whose reader has ended off the list, and keeps its counts.
    pub(crate) fn forget(&self, subscriber: &Subscriber) {
        let mut registry = self.registry();
        if registry.subscribers.remove(&subscriber.id).is_some() {
            let stats = subscriber.stats();
            registry.retired.add(&stats);
            registry.retired_by_owner.add(subscriber.options.owner.as_deref(), &stats);
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

    pub(crate) fn bridges(&self) -> MutexGuard<'_, Bridges> {
        // No foreign code runs under the lock.
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // No foreign code runs under the lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Nobody can publish any more; what waits could still be handled, but whoever would wait for that
        // is gone as well.
        for subscriber in self.subscribers() {
            subscriber.stop();
            self.leave(&subscriber);
        }
    }
}

impl Registry {
    /// The ring that a subscription shares or has for itself; one is made and found by topic from now on,
    /// if there is none.
    fn ring(
        &mut self,
        table: &Table,
        pattern: &Pattern,
        options: &SubscribeOptions,
        id: SubscriptionId,
    ) -> Arc<Ring> {
        let key = (pattern.clone(), class_of(options, id));
        if let Some(ring) = self.rings.get(&key) {
            return ring.clone();
        }
        let ring = Arc::new(Ring::new(id.0, key.1));
        table.insert(pattern, &ring);
        self.rings.insert(key, ring.clone());
        ring
    }

    /// Takes the ring of a subscriber that has left out of the table, if it was the last. The subscriber
    /// itself stays on the list until its reader has ended.
    fn clean_up(&mut self, table: &Table, subscriber: &Subscriber) {
        if subscriber.ring.members() > 0 {
            return;
        }
        let key = (subscriber.pattern.clone(), class_of(&subscriber.options, subscriber.id));
        if self.rings.get(&key).is_some_and(|ring| Arc::ptr_eq(ring, &subscriber.ring)) {
            self.rings.remove(&key);
            table.remove(&subscriber.pattern, &subscriber.ring);
            table.changed(&subscriber.pattern);
        }
    }
}

/// Which ring of its pattern a subscription goes to.
fn class_of(options: &SubscribeOptions, id: SubscriptionId) -> RingClass {
    match options.overflow {
        Overflow::Block => RingClass::Gated,
        Overflow::DropOldest | Overflow::Disconnect => RingClass::Free,
        Overflow::DropNewest => RingClass::Own(id.0),
    }
}
