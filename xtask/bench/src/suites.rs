//! The suites there are, in the order in which they run.

use anyhow::bail;

use crate::harness::{Plan, Row};
use crate::{bus, http, scheduler, start};

/// A named list of rows.
pub(crate) struct Suite {
    name: &'static str,
    content: Content,
}

enum Content {
    Rows(fn(&Plan) -> Vec<Row>),
    /// Nothing to measure yet, and why.
    Pending(&'static str),
}

impl Suite {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn pending(&self) -> Option<&'static str> {
        match self.content {
            Content::Rows(_) => None,
            Content::Pending(why) => Some(why),
        }
    }

    pub(crate) fn rows(&self, plan: &Plan) -> Vec<Row> {
        match self.content {
            Content::Rows(rows) => rows(plan),
            Content::Pending(_) => Vec::new(),
        }
    }
}

/// Every suite.
pub(crate) fn all() -> Vec<Suite> {
    let rows = |name, rows| Suite { name, content: Content::Rows(rows) };
    let pending = |name, why| Suite { name, content: Content::Pending(why) };
    vec![
        rows("bus", bus::rows),
        rows("scheduler", scheduler::rows),
        rows("http", http::rows),
        pending("integrations", "arrives with the Redis, Kafka and etcd adapters"),
        rows("start", start::rows),
    ]
}

/// The suites of these names, or all where there are none.
pub(crate) fn named(names: &[String]) -> anyhow::Result<Vec<Suite>> {
    let suites = all();
    if let Some(unknown) = names.iter().find(|name| !suites.iter().any(|suite| suite.name == name.as_str())) {
        let known: Vec<_> = suites.iter().map(Suite::name).collect();
        bail!("no suite `{unknown}`; there are: {}", known.join(" "));
    }
    Ok(suites.into_iter().filter(|suite| names.is_empty() || names.iter().any(|n| n == suite.name)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::harness::Goal;

    #[test]
    fn an_id_is_used_once_and_belongs_to_its_suite() {
        let plan = Plan::new(true, None);
        let mut seen = HashSet::new();
        for suite in all() {
            for row in suite.rows(&plan) {
                assert!(seen.insert(row.id()), "`{}` twice", row.id());
                let family = row.id().split('.').next();
                let integrations = ["redis", "kafka", "etcd"].map(Some).contains(&family);
                assert!(family == Some(suite.name()) || (suite.name() == "integrations" && integrations));
            }
        }
    }

    #[test]
    fn a_quick_row_that_is_smaller_says_so() {
        let smaller = [
            "bus.fanout.1",
            "bus.fanout.10",
            "bus.fanout.100",
            "bus.nobody",
            "bus.latency.p99",
            "bus.growth",
            "scheduler.add.1m",
            "scheduler.bytes.1m",
            "scheduler.burst.1m.max",
            "scheduler.steady.p99",
            "scheduler.growth",
            "scheduler.durable.concurrent",
            "scheduler.durable.batch",
            "scheduler.restart.1m",
            "http.get_task",
            "http.plugin_route",
        ];
        let said = |quick, id| {
            let plan = Plan::new(quick, None);
            let row = all().into_iter().flat_map(|suite| suite.rows(&plan)).find(|row| row.id() == id);
            row.unwrap_or_else(|| panic!("no row `{id}`")).what().to_owned()
        };
        for id in smaller {
            assert_ne!(said(false, id), said(true, id), "`{id}`");
        }
    }

    #[test]
    fn a_ratio_goal_has_a_reference_to_stand_beside() {
        let plan = Plan::new(true, None);
        for row in all().iter().flat_map(|suite| suite.rows(&plan)) {
            let ratio = matches!(row.goal(), Goal::RatioAtLeast(_) | Goal::RatioAtMost(_));
            assert!(!ratio || row.has_reference(), "`{}`", row.id());
        }
    }

    #[test]
    fn an_unknown_suite_is_refused_by_name() {
        let error = named(&["buss".to_owned()]).err().map(|e| e.to_string());
        assert_eq!(
            error.as_deref(),
            Some("no suite `buss`; there are: bus scheduler http integrations start")
        );
    }
}
