//! Many tasks at once: lists, one action on all that match, all of them out and in.

use std::collections::BTreeSet;

use proptest::prelude::*;
use scheduler::{
    BulkReport, OnConflict, Page, SchedulerConfig, TaskError, TaskFilter, TaskSpec, TaskStatus, TaskView,
};
use serde_json::{Value, json};

use crate::support::{Bench, secs, spec};

fn hourly(id: &str) -> Value {
    json!({"id": id, "executor": "work", "schedule": {"type": "interval", "interval": "1h"}})
}

fn with(mut body: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn ids(bench: &Bench, filter: Value) -> Vec<String> {
    let filter: TaskFilter = serde_json::from_value(filter).unwrap();
    let page = bench.scheduler.list(&filter, &Page { limit: 1000, cursor: None }).await.unwrap();
    assert_eq!(page.total, page.items.len() as u64);
    page.items.into_iter().map(|task| task.id).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_are_filtered_by_each_facet_and_by_all_of_them() {
    let bench = Bench::new().await;
    for body in [
        with(hourly("alpha"), json!({"group": "g", "name": "Übung EINS"})),
        with(hourly("beta"), json!({"group": {"name": "g", "limit": 3}, "executor": "log"})),
        with(hourly("gamma"), json!({"group": "h"})),
    ] {
        bench.create(body).await;
    }
    bench.scheduler.upsert_owned("plugin", spec(hourly("delta"))).await.unwrap();
    bench.scheduler.pause("gamma").await.unwrap();
    assert_eq!(ids(&bench, json!({"group": "g"})).await, ["alpha", "beta"]);
    assert_eq!(ids(&bench, json!({"group": "g", "executor": "log"})).await, ["beta"]);
    assert_eq!(ids(&bench, json!({"group": "plugin"})).await, ["delta"; 0], "an owner is no group");
    assert_eq!(ids(&bench, json!({"owner": "plugin"})).await, ["delta"]);
    assert_eq!(ids(&bench, json!({"q": "TA"})).await, ["beta", "delta"]);
    assert_eq!(ids(&bench, json!({"q": "übung eins"})).await, ["alpha"]);
    assert_eq!(ids(&bench, json!({"q": "a", "status": "paused"})).await, ["gamma"]);
    assert_eq!(ids(&bench, json!({"q": "a", "group": "g", "executor": "work"})).await, ["alpha"]);
    // What has changed is found as it is now.
    let moved = with(hourly("alpha"), json!({"group": "h"}));
    bench.scheduler.replace("alpha", spec(moved), None).await.unwrap();
    bench.scheduler.remove("beta", None).await.unwrap();
    assert_eq!(ids(&bench, json!({"group": "g"})).await, ["alpha"; 0]);
    assert_eq!(ids(&bench, json!({"group": "h"})).await, ["alpha", "gamma"]);
    assert_eq!(ids(&bench, json!({"q": "übung"})).await, ["alpha"; 0]);
    bench.create(hourly("beta2")).await;
    assert_eq!(ids(&bench, json!({"q": "beta"})).await, ["beta2"], "in the place of the one before");
}

/// A list is what going through all tasks one by one would give, on every page.
async fn check_lists(changes: Vec<(u8, u8, u8)>, filters: Vec<(u8, u8)>) {
    let bench = Bench::new().await;
    let mut model: std::collections::BTreeMap<String, TaskSpec> = std::collections::BTreeMap::new();
    for (id, group, executor) in changes {
        let id = format!("task-{}", id % 40);
        let body = with(
            hourly(&id),
            json!({"group": format!("g{}", group % 3), "executor": format!("x{}", executor % 3),
                "name": format!("n{}", group % 5)}),
        );
        if model.contains_key(&id) && executor % 4 == 0 {
            bench.scheduler.remove(&id, None).await.unwrap();
            model.remove(&id);
        } else if model.insert(id.clone(), spec(body.clone())).is_some() {
            bench.scheduler.replace(&id, spec(body), None).await.unwrap();
        } else {
            bench.create(body).await;
        }
    }
    for (kind, value) in filters {
        let filter = TaskFilter {
            group: (kind & 1 != 0).then(|| format!("g{}", value % 4)),
            executor: (kind & 2 != 0).then(|| format!("x{}", value % 4)),
            q: (kind & 4 != 0).then(|| ["-1", "N2", "task-3", "nowhere"][usize::from(value % 4)].to_owned()),
            ..TaskFilter::default()
        };
        let matches = |task: &TaskSpec| {
            let text =
                |q: &String| task.id.contains(&q.to_lowercase()) || task.name.contains(&q.to_lowercase());
            filter.group.as_ref().is_none_or(|group| task.group.as_ref().unwrap().name == *group)
                && filter.executor.as_ref().is_none_or(|executor| task.executor == *executor)
                && filter.q.as_ref().is_none_or(text)
        };
        let wanted: BTreeSet<String> =
            model.values().filter(|task| matches(task)).map(|task| task.id.clone()).collect();
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = bench.scheduler.list(&filter, &Page { limit: 7, cursor }).await.unwrap();
            assert_eq!(page.total, wanted.len() as u64, "{filter:?}");
            found.extend(page.items.into_iter().map(|task| task.id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), wanted.len(), "{filter:?}: {found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted, "{filter:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn lists_are_what_a_pass_over_all_tasks_would_give(
        changes in prop::collection::vec(any::<(u8, u8, u8)>(), 1..120),
        filters in prop::collection::vec(any::<(u8, u8)>(), 1..8),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(check_lists(changes, filters));
    }
}

async fn bulk(bench: &Bench, request: Value) -> Result<BulkReport, TaskError> {
    bench.scheduler.bulk(&serde_json::from_value(request).unwrap(), false).await
}

#[tokio::test(start_paused = true)]
async fn one_action_is_done_to_all_that_match() {
    let bench = Bench::new().await;
    for number in 0..5 {
        bench.create(with(hourly(&format!("t{number}")), json!({"group": "g"}))).await;
    }
    bench.create(hourly("other")).await;
    bench.scheduler.pause("t1").await.unwrap();
    let request = json!({"action": "pause", "filter": {"group": "g"}});
    let tried = serde_json::from_value(request.clone()).unwrap();
    let dry = bench.scheduler.bulk(&tried, true).await.unwrap();
    assert_eq!((dry.dry_run, dry.matched, dry.done, dry.refused, dry.more), (true, 5, 4, 1, false));
    assert_eq!(ids(&bench, json!({"status": "paused"})).await, ["t1"], "nothing was done");
    let report = bulk(&bench, request).await.unwrap();
    assert_eq!((report.matched, report.done, report.refused), (5, 4, 1));
    assert_eq!(report.tasks, ["t0", "t2", "t3", "t4"]);
    assert_eq!(report.refusals[0].task, "t1");
    assert!(report.refusals[0].reason.contains("paused already"), "{report:?}");
    assert_eq!(ids(&bench, json!({"status": "paused"})).await.len(), 5);
    let resumed =
        bulk(&bench, json!({"action": "resume", "filter": {"status": "paused"}, "limit": 2})).await.unwrap();
    assert_eq!((resumed.matched, resumed.done, resumed.more), (5, 2, true));
    let canceled = bulk(&bench, json!({"action": "cancel", "all": true})).await.unwrap();
    assert_eq!((canceled.matched, canceled.done, canceled.refused), (6, 6, 0));
    assert_eq!(bench.status("other").await, TaskStatus::Canceled);
}

#[tokio::test(start_paused = true)]
async fn tasks_are_removed_before_those_that_they_run_after() {
    let bench = Bench::new().await;
    bench.create(hourly("a")).await;
    bench.create(json!({"id": "b", "executor": "work", "after": ["a"]})).await;
    bench.create(json!({"id": "c", "executor": "work", "after": ["b"]})).await;
    bench.create(json!({"id": "kept", "executor": "work", "after": ["b"]})).await;
    let removed =
        bulk(&bench, json!({"action": "remove", "filter": {"executor": "work"}, "limit": 3})).await.unwrap();
    assert_eq!((removed.done, removed.refused), (1, 2), "{removed:?}");
    assert_eq!(ids(&bench, json!({})).await, ["a", "b", "kept"]);
    let removed = bulk(&bench, json!({"action": "remove", "all": true})).await.unwrap();
    assert_eq!((removed.done, removed.refused), (3, 0), "{removed:?}");
    assert_eq!(bench.scheduler.status().total_tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_wrong_bulk_request_changes_nothing() {
    let bench = Bench::new().await;
    bench.create(hourly("t")).await;
    for (request, field) in [
        (json!({"action": "remove"}), "filter"),
        (json!({"action": "remove", "all": true, "limit": 0}), "limit"),
        (json!({"action": "remove", "all": true, "limit": 10_001}), "limit"),
    ] {
        match bulk(&bench, request.clone()).await {
            Err(TaskError::Invalid { field: named, .. }) => assert_eq!(named, field, "{request}"),
            other => panic!("{request}: {other:?}"),
        }
    }
    assert_eq!(bench.scheduler.status().total_tasks, 1);
}

fn export(bench: &Bench) -> String {
    let mut text = String::new();
    let mut from = Some(0);
    while let Some(place) = from {
        let (lines, next) = bench.scheduler.export(place);
        for line in lines {
            text += &serde_json::to_string(&line).unwrap();
            text.push('\n');
        }
        from = next;
    }
    text
}

async fn import(
    bench: &Bench,
    text: &str,
    how: OnConflict,
    dry_run: bool,
) -> Result<scheduler::ImportReport, TaskError> {
    let mut import = bench.scheduler.import(how);
    // Cut anywhere.
    for part in text.as_bytes().chunks(7) {
        import.feed(part)?;
    }
    import.commit(dry_run).await
}

#[tokio::test(start_paused = true)]
async fn what_is_exported_can_be_imported_and_says_the_same() {
    let one = Bench::new().await;
    for body in [
        with(hourly("plain"), json!({"payload": {"text": "line\nbreak ü"}, "metadata": {"k": [1]}})),
        with(
            hourly("full"),
            json!({"name": "Full", "overlap": "queue_one", "misfire": {"policy": "run_all", "limit": 5},
                "retry": {"attempts": 3}, "timeout": "5s", "priority": 7, "group": {"name": "g", "limit": 2},
                "pause_after_failures": 4, "failure_backoff": "1m"}),
        ),
        json!({"id": "follows", "executor": "work",
            "after": [{"task": "plain", "on": "always", "into": "/x"}, "full"]}),
        hourly("paused"),
        json!({"id": "done", "executor": "work", "schedule": {"type": "once", "delay": "1s"}}),
        hourly("canceled"),
    ] {
        one.create(body).await;
    }
    one.scheduler.upsert_owned("plugin", spec(hourly("owned"))).await.unwrap();
    one.scheduler.pause("paused").await.unwrap();
    one.scheduler.cancel("canceled").await.unwrap();
    one.sleep(secs(2)).await;
    let text = export(&one);
    assert_eq!(text.lines().count(), 7);

    let two = Bench::new().await;
    let dry = import(&two, &text, OnConflict::Fail, true).await.unwrap();
    assert_eq!((dry.read, dry.created, dry.left_out, dry.dry_run), (7, 4, 3, true));
    assert_eq!(two.scheduler.status().total_tasks, 0);
    let report = import(&two, &text, OnConflict::Fail, false).await.unwrap();
    assert_eq!((report.read, report.created, report.left_out, report.failed), (7, 4, 3, 0));
    let same = |view: TaskView| {
        let mut value = serde_json::to_value(view).unwrap();
        for changing in ["created_at", "updated_at", "next_run_at", "incarnation", "version"] {
            value.as_object_mut().unwrap().remove(changing);
        }
        value
    };
    for id in ["plain", "full", "follows", "paused"] {
        assert_eq!(same(two.get(id).await), same(one.get(id).await));
    }
    two.sleep(secs(4000)).await;
    assert!(two.seconds("paused").is_empty() && two.seconds("plain").len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_taken_id_fails_the_import_or_is_left_or_replaced() {
    let bench = Bench::new().await;
    bench.create(with(hourly("a"), json!({"description": "old"}))).await;
    bench.scheduler.trigger("a", None).await.unwrap();
    bench.settle().await;
    let text = format!(
        "{}\n\n{}\r\n",
        json!({"task": hourly("new")}),
        json!({"task": with(hourly("a"), json!({"description": "new", "after": ["new"]})), "status": "paused"})
    );
    let error = import(&bench, &text, OnConflict::Fail, false).await.unwrap_err();
    assert_eq!(error.to_string(), "line 3, task.id: `a` is the id of a task already");
    assert_eq!(bench.scheduler.status().total_tasks, 1, "nothing of it was taken");
    let skipped = import(&bench, &text, OnConflict::Skip, false).await.unwrap();
    assert_eq!((skipped.created, skipped.skipped), (1, 1));
    assert_eq!(bench.get("a").await.description, "old");
    let replaced = import(&bench, &text, OnConflict::Replace, false).await.unwrap();
    assert_eq!((replaced.created, replaced.replaced), (0, 2));
    let task = bench.get("a").await;
    assert_eq!((task.description.as_str(), task.run_count, task.status), ("new", 1, TaskStatus::Paused));
}

#[tokio::test(start_paused = true)]
async fn an_import_puts_tasks_in_an_order_that_dependencies_allow() {
    let bench = Bench::new().await;
    let after = |id: &str, after: &[&str]| {
        json!({"task": {"id": id, "executor": "work", "after": after}}).to_string()
    };
    let mut lines: Vec<String> =
        (1..600).map(|number| after(&format!("t{number}"), &[&format!("t{}", number - 1), "base"])).collect();
    lines.push(json!({"task": hourly("t0")}).to_string());
    lines.push(json!({"task": hourly("base")}).to_string());
    let report = import(&bench, &lines.join("\n"), OnConflict::Fail, false).await.unwrap();
    assert_eq!((report.created, report.failed), (601, 0));
    bench.scheduler.trigger("t0", None).await.unwrap();
    bench.scheduler.trigger("base", None).await.unwrap();
    bench.sleep(secs(1)).await;
    assert_eq!(bench.get("t1").await.run_count, 1);
}

/// Promise 10: the first line that is wrong is named with its field, and nothing is taken.
#[tokio::test(start_paused = true)]
async fn promise_10_an_import_that_is_wrong_anywhere_changes_nothing() {
    let bench = Bench::with(SchedulerConfig { max_tasks: 5, ..SchedulerConfig::default() }).await;
    bench.create(hourly("present")).await;
    bench.create(json!({"id": "behind", "executor": "work", "after": ["present"]})).await;
    let good = json!({"task": hourly("good")}).to_string();
    let line = |task: Value| json!({"task": task}).to_string();
    for (how, text, field, detail) in [
        (OnConflict::Fail, format!("{good}\n{{"), "line 2", "EOF"),
        (OnConflict::Fail, format!("{good}\nnonsense"), "line 2", "expected"),
        (OnConflict::Fail, format!("{good}\n{good}"), "line 2, task.id", "line 1"),
        (OnConflict::Fail, format!("{good} {good}"), "line 1", "trailing"),
        (
            OnConflict::Fail,
            format!("{good}\n{}", json!({"task": {"id": "x"}})),
            "line 2, task.schedule",
            "required",
        ),
        (
            OnConflict::Fail,
            format!("{good}\n{}", line(with(hourly("x"), json!({"priority": 200})))),
            "line 2, task.priority",
            "100",
        ),
        (
            OnConflict::Fail,
            format!("{good}\n{}", line(with(hourly("x"), json!({"priority": "high"})))),
            "line 2, task.priority",
            "invalid type",
        ),
        (
            OnConflict::Fail,
            format!("{good}\n{}", json!({"task": hourly("x"), "colour": 1})),
            "line 2, colour",
            "unknown",
        ),
        (
            OnConflict::Fail,
            format!("{good}\n{}", line(json!({"id": "x", "after": ["good", "nobody"]}))),
            "line 2, task.after[1].task",
            "`nobody`",
        ),
        (
            OnConflict::Fail,
            format!(
                "{good}\n{}\n{}",
                line(json!({"id": "x", "after": ["y"]})),
                line(json!({"id": "y", "after": ["x"]}))
            ),
            "line 2, task.after",
            "x -> y -> x",
        ),
        (
            OnConflict::Replace,
            format!("{good}\n{}", line(with(hourly("present"), json!({"after": ["behind"]})))),
            "line 2, task.after",
            "present -> behind -> present",
        ),
        (OnConflict::Fail, format!("{good}\n{}", line(hourly("present"))), "line 2, task.id", "already"),
        (OnConflict::Fail, "x".repeat(300 * 1024), "line 1", "256 KiB"),
    ] {
        match import(&bench, &text, how, false).await {
            Err(TaskError::Invalid { field: named, detail: said }) => {
                assert_eq!(named, field, "{said}");
                assert!(said.contains(detail), "{named}: {said}");
            }
            other => panic!("{text:.200}: {other:?}"),
        }
    }
    let many: Vec<String> = (0..4).map(|number| line(hourly(&format!("m{number}")))).collect();
    let full = import(&bench, &many.join("\n"), OnConflict::Fail, false).await.unwrap_err();
    assert!(matches!(full, TaskError::Full(_)), "{full}");
    assert_eq!(ids(&bench, json!({})).await, ["present", "behind"]);
}

#[tokio::test(start_paused = true)]
async fn the_graph_shows_the_neighbourhood_of_a_task() {
    let bench = Bench::new().await;
    bench.create(hourly("a")).await;
    for (id, after) in [("b", "a"), ("c", "b"), ("d", "c")] {
        bench.create(json!({"id": id, "executor": "work", "after": [after]})).await;
    }
    bench.create(hourly("apart")).await;
    let names = |task: Option<&str>, depth: u32| {
        let graph = bench.scheduler.graph(task, depth).unwrap();
        let nodes: BTreeSet<String> = graph.nodes.iter().map(|node| node.id.clone()).collect();
        let edges: BTreeSet<String> =
            graph.edges.iter().map(|edge| format!("{}-{}", edge.from, edge.to)).collect();
        (nodes.into_iter().collect::<Vec<_>>().join(" "), edges.into_iter().collect::<Vec<_>>().join(" "))
    };
    let pair = |nodes: &str, edges: &str| (nodes.to_owned(), edges.to_owned());
    assert_eq!(names(None, 0), pair("a apart b c d", "a-b b-c c-d"));
    assert_eq!(names(Some("b"), 0), pair("b", ""));
    assert_eq!(names(Some("b"), 1), pair("a b c", "a-b b-c"));
    assert_eq!(names(Some("b"), u32::MAX), pair("a b c d", "a-b b-c c-d"));
    assert!(matches!(bench.scheduler.graph(Some("nobody"), 1), Err(TaskError::NotFound(_))));
}
