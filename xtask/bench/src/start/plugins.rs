//! A thousand plugins that depend on each other, started as soon as the graph allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use event_bus::EventBus;
use plugin_core::PluginBuilder;
use plugin_manager::{PluginManager, PluginOptions};

pub(super) const PLUGINS: usize = 1_000;

/// Each plugin needs this many of the level below its own, other than in the first.
const NEEDS: usize = 3;

pub(super) const LEVELS: usize = 20;

/// A plugin's start takes from 10 ms to 30 ms, like opening a connection.
const START_MS: (u64, u64) = (10, 30);

/// One plugin of the graph.
struct Node {
    needs: Vec<usize>,
    start: Duration,
}

/// The same graph in every run: numbers of a small linear congruential generator, that of Numerical Recipes.
fn graph() -> Vec<Node> {
    let mut state = 1_u32;
    let mut below = move |bound: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The upper bits are the good ones.
        (state >> 8) as usize % bound
    };
    let width = PLUGINS / LEVELS;
    let mut node = |index: usize| {
        let level = index / width;
        let needed = if level == 0 { 0 } else { NEEDS };
        let mut needs: Vec<usize> = (0..needed).map(|_| (level - 1) * width + below(width)).collect();
        needs.sort_unstable();
        needs.dedup();
        let (least, most) = START_MS;
        Node { needs, start: Duration::from_millis(least + below((most - least + 1) as usize) as u64) }
    };
    (0..PLUGINS).map(&mut node).collect()
}

/// The starts that no scheduling can avoid, one after the other.
fn critical_path(graph: &[Node]) -> Vec<Duration> {
    let mut paths: Vec<Vec<Duration>> = Vec::with_capacity(graph.len());
    for node in graph {
        let before =
            node.needs.iter().map(|index| &paths[*index]).max_by_key(|path| path.iter().sum::<Duration>());
        let mut path = before.cloned().unwrap_or_default();
        path.push(node.start);
        paths.push(path);
    }
    paths.into_iter().max_by_key(|path| path.iter().sum::<Duration>()).unwrap_or_default()
}

/// Milliseconds until all run, started by the manager.
pub(super) async fn managed() -> anyhow::Result<f64> {
    let manager = PluginManager::builder(EventBus::builder().build()).build();
    // In the order that helps least: nothing that a plugin needs is there when it is registered.
    for (index, node) in graph().into_iter().enumerate().rev() {
        let mut plugin = PluginBuilder::new(&format!("p{index}"), "1.0.0")?;
        for needed in &node.needs {
            plugin = plugin.depends_on(&format!("p{needed}"), "^1")?;
        }
        let plugin = plugin.on_start(move |_| async move {
            tokio::time::sleep(node.start).await;
            Ok(())
        });
        manager.register(Arc::new(plugin.build()), PluginOptions::default())?;
    }
    let started = Instant::now();
    let report = manager.start_all().await?;
    let passed = started.elapsed();
    ensure!(report.running.len() == PLUGINS, "{} of {PLUGINS} plugins run", report.running.len());
    manager.stop_all(Duration::from_secs(30)).await;
    Ok(passed.as_secs_f64() * 1e3)
}

/// Milliseconds that the critical path takes by itself, with the same timer.
pub(super) async fn alone() -> anyhow::Result<f64> {
    let path = critical_path(&graph());
    let started = Instant::now();
    for start in path {
        tokio::time::sleep(start).await;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_critical_path_is_the_longest() {
        let node = |needs: &[usize], ms| Node { needs: needs.to_vec(), start: Duration::from_millis(ms) };
        let graph = [node(&[], 5), node(&[], 9), node(&[0], 7), node(&[0, 1], 1), node(&[2], 1)];
        assert_eq!(critical_path(&graph), [5, 7, 1].map(Duration::from_millis));
    }

    #[test]
    fn the_graph_has_its_levels() {
        let path = critical_path(&graph());
        assert_eq!((graph().len(), path.len()), (PLUGINS, LEVELS));
    }
}
