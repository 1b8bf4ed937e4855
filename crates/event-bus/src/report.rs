//! What the bus tells the metrics facade.

use std::collections::BTreeMap;

use crate::bus::EventBus;
use crate::refused::refused;
use crate::subscription::SubscriptionStats;

/// The most owners that are told apart; those that come later are one, [`OTHERS`].
const MAX_OWNERS: usize = 100;
/// The owner of subscriptions that name none.
const NOBODY: &str = "none";
const OTHERS: &str = "other";

/// Counts by owner.
#[derive(Clone, Default)]
pub(crate) struct ByOwner(BTreeMap<String, SubscriptionStats>);

impl ByOwner {
    pub(crate) fn add(&mut self, owner: Option<&str>, stats: &SubscriptionStats) {
        let owner = owner.unwrap_or(NOBODY);
        let has_room = self.0.len() < MAX_OWNERS || self.0.contains_key(owner);
        let sum = self.0.entry(if has_room { owner } else { OTHERS }.to_owned()).or_default();
        sum.add(stats);
    }
}

impl EventBus {
    /// Copies the counts to the metrics facade: `event_bus_published_total`, `event_bus_delivered_total`,
    /// `event_bus_dropped_total`, `event_bus_queue_depth` and their kin, and by owner of the subscriptions,
    /// for 100 owners and all others together, `event_bus_subscription_depth{owner}` and its kin; of bridges
    /// `event_bus_bridge_sent_total{transport}` and its kin.
    pub fn report_metrics(&self) {
        let stats = self.stats();
        metrics::counter!("event_bus_published_total").absolute(stats.published);
        for (reason, count) in refused() {
            metrics::counter!("event_bus_refused_total", "reason" => reason).absolute(count);
        }
        metrics::counter!("event_bus_delivered_total").absolute(stats.totals.delivered);
        metrics::counter!("event_bus_dropped_total").absolute(stats.totals.dropped);
        metrics::counter!("event_bus_discarded_total").absolute(stats.totals.discarded);
        metrics::counter!("event_bus_filtered_total").absolute(stats.totals.filtered);
        metrics::counter!("event_bus_dead_lettered_total").absolute(stats.dead_lettered);
        metrics::counter!("event_bus_redriven_total").absolute(stats.redriven);
        metrics::counter!("event_bus_retried_total").absolute(stats.totals.retried);
        metrics::counter!("event_bus_failed_total").absolute(stats.totals.failed);
        metrics::counter!("event_bus_panicked_total").absolute(stats.totals.panicked);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        {
            metrics::gauge!("event_bus_queue_depth").set(stats.totals.depth as f64);
            metrics::gauge!("event_bus_dead_letters").set(stats.totals.dead as f64);
            metrics::gauge!("event_bus_retrying").set(stats.totals.retrying as f64);
            metrics::gauge!("event_bus_subscriptions").set(stats.subscriptions as f64);
        }
        self.report_by_owner();
        self.report_bridges();
    }

    fn report_bridges(&self) {
        let bridges = self.hub.bridges().by_transport();
        for (transport, stats) in bridges {
            let labels = [("transport", transport.clone())];
            metrics::counter!("event_bus_bridge_sent_total", &labels).absolute(stats.sent);
            metrics::counter!("event_bus_bridge_received_total", &labels).absolute(stats.received);
            metrics::counter!("event_bus_bridge_duplicates_total", &labels).absolute(stats.duplicates);
            metrics::counter!("event_bus_bridge_lost_total", &labels).absolute(stats.lost);
            metrics::counter!("event_bus_bridge_refused_total", &labels).absolute(stats.refused);
            metrics::counter!("event_bus_bridge_failures_total", &labels).absolute(stats.failures);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("event_bus_bridge_waiting", &labels).set(stats.waiting as f64);
            let not_taken =
                [("foreign", stats.foreign), ("rejected", stats.rejected), ("unreadable", stats.unreadable)];
            for (reason, count) in not_taken {
                let labels = [("reason", reason.to_owned()), ("transport", transport.clone())];
                metrics::counter!("event_bus_bridge_not_taken_total", &labels).absolute(count);
            }
        }
    }

    fn report_by_owner(&self) {
        let mut owners = self.hub.registry().retired_by_owner.clone();
        for info in self.subscriptions() {
            owners.add(info.owner.as_deref(), &info.stats);
        }
        for (owner, stats) in owners.0 {
            let labels = [("owner", owner)];
            metrics::counter!("event_bus_subscription_delivered_total", &labels).absolute(stats.delivered);
            metrics::counter!("event_bus_subscription_dropped_total", &labels).absolute(stats.dropped);
            metrics::counter!("event_bus_subscription_failed_total", &labels)
                .absolute(stats.failed + stats.panicked);
            metrics::counter!("event_bus_subscription_retried_total", &labels).absolute(stats.retried);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("event_bus_subscription_depth", &labels)
                .set((stats.depth + stats.retrying) as f64);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("event_bus_subscription_lag", &labels).set(stats.lag as f64);
            metrics::gauge!("event_bus_subscription_oldest_age_seconds", &labels)
                .set(stats.oldest_seconds.unwrap_or(0.0));
            metrics::gauge!("event_bus_subscription_handler_seconds", &labels)
                .set(stats.mean_handler_seconds);
        }
    }
}
