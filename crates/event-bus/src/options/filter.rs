//! Which of the events of its pattern a subscription wants.

use std::fmt;
use std::sync::Arc;

use crate::event::{Event, MetadataValue};

type Predicate = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// Which events a subscription wants, of those whose topic its pattern takes: those that all its parts take.
///
/// An event that it does not take is passed over by the subscription's own task, so that it costs publishers
/// nothing; until then it waits like any other and counts for the capacity. It counts as
/// [`filtered`](crate::SubscriptionStats::filtered), and for whoever waits for it as handled.
#[derive(Clone, Default)]
#[must_use]
pub struct EventFilter {
    sources: Vec<String>,
    targets: Vec<String>,
    metadata: Vec<(String, MetadataValue)>,
    predicate: Option<Predicate>,
}

impl EventFilter {
    /// A filter that takes every event.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events of that source, or of one of those, if it is called several times.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.sources.push(source.into());
        self
    }

    /// Only events that are meant for that target, or for one of those, if it is called several times.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.targets.push(target.into());
        self
    }

    /// Only events with that extension attribute. What is said of one name several times are the values that
    /// it may have; what is said of several names must hold for each.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<MetadataValue>) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }

    /// Only events that the function takes, which is asked last, once for each event, and must not block.
    /// An event for which it panics is one that the handler panicked on.
    pub fn matching(mut self, predicate: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.predicate = Some(match self.predicate {
            None => Arc::new(predicate),
            Some(first) => Arc::new(move |event| first(event) && predicate(event)),
        });
        self
    }

    /// Whether the filter takes the event.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let one_of = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|wanted| wanted == found))
        };
        one_of(&self.sources, Some(event.source()))
            && one_of(&self.targets, event.target())
            && self.metadata.iter().all(|(name, _)| {
                let found = event.metadata().get(name);
                self.metadata.iter().any(|(wanted, value)| wanted == name && found == Some(value))
            })
            && self.predicate.as_ref().is_none_or(|predicate| predicate(event))
    }
}

/// For people: `source=shop metadata.tenant=acme function`.
impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.sources.iter().map(|source| format!("source={source}")).collect();
        parts.extend(self.targets.iter().map(|target| format!("target={target}")));
        parts.extend(self.metadata.iter().map(|(name, value)| format!("metadata.{name}={value}")));
        parts.extend(self.predicate.iter().map(|_| "function".to_owned()));
        f.write_str(&parts.join(" "))
    }
}

impl fmt::Debug for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventFilter({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runtime::SystemClock;

    use super::*;
    use crate::topic::Topic;

    fn event(source: &str, target: Option<&str>, metadata: &[(String, MetadataValue)]) -> Event {
        let mut event = Event::builder(Topic::new("a").unwrap()).source(source);
        if let Some(target) = target {
            event = event.target(target);
        }
        for (name, value) in metadata {
            event = event.metadata(name, value.clone());
        }
        event.build(&SystemClock).unwrap()
    }

    #[test]
    fn a_filter_says_what_it_takes() {
        let filter = EventFilter::new().source("a").metadata("tenant", "x").matching(|_| true);
        assert_eq!(filter.to_string(), "source=a metadata.tenant=x function");
        let number = [("n".to_owned(), MetadataValue::Integer(1))];
        assert!(EventFilter::new().metadata("n", 1).takes(&event("a", None, &number)));
        assert!(
            !EventFilter::new().metadata("n", "1").takes(&event("a", None, &number)),
            "a text is no number"
        );
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, MetadataValue)>> {
        prop::collection::vec(("[xy]", prop_oneof!["[a-c]".prop_map(MetadataValue::Text)]), 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against the rule as it is written: for each part that has values, one of them is the event's.
        #[test]
        fn an_event_is_taken_if_every_part_takes_it(
            sources in prop::collection::vec("[a-c]", 0..3),
            targets in prop::collection::vec("[a-c]", 0..3),
            wanted in pairs(),
            function in prop::option::of(any::<bool>()),
            source in "[a-c]", target in prop::option::of("[a-c]"), has in pairs(),
        ) {
            let mut filter = EventFilter::new();
            for source in &sources {
                filter = filter.source(source);
            }
            for target in &targets {
                filter = filter.target(target);
            }
            for (name, value) in &wanted {
                filter = filter.metadata(name, value.clone());
            }
            if let Some(answer) = function {
                filter = filter.matching(move |_| answer);
            }
            let event = event(&source, target.as_deref(), &has);
            let names: std::collections::BTreeSet<_> = wanted.iter().map(|(name, _)| name).collect();
            let expected = (sources.is_empty() || sources.contains(&source))
                && (targets.is_empty() || target.is_some_and(|target| targets.contains(&target)))
                && names.into_iter().all(|name| {
                    // The last of several is the event's.
                    let found = has.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value);
                    found.is_some_and(|found| wanted.contains(&(name.clone(), found.clone())))
                })
                && function != Some(false);
            prop_assert_eq!(filter.takes(&event), expected);
        }
    }
}
