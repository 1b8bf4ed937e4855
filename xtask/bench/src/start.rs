//! How soon the server is ready and what it takes, and how long plugins that depend on each other take.

mod plugins;

use crate::harness::{Goal, Plan, Row, Unit, block_on};
use crate::server::Server;

pub(crate) fn rows(_: &Plan) -> Vec<Row> {
    let what = "embedded defaults, no configuration file, empty data folder";
    vec![
        Row::new(
            "start.ready",
            format!("start of the process → first 200 on /health/ready; {what}"),
            Unit::Milliseconds,
            Goal::AtMost(50.0),
            |_| block_on(1, async { Ok(Server::gantry().await?.ready_after.as_secs_f64() * 1e3) }),
        ),
        Row::new(
            "start.rss",
            format!("resident memory then; {what}"),
            Unit::Megabytes,
            Goal::AtMost(25.0),
            |_| block_on(1, async { Ok(Server::gantry().await?.resident_bytes()? / 1e6) }),
        ),
        Row::new(
            "start.plugins.1000",
            format!(
                "start of {} plugins in {} levels, each needing up to 3 of the level below and 10 to 30 ms; \
                 manager in this process, memory, 2 worker threads, no tracing",
                plugins::PLUGINS,
                plugins::LEVELS
            ),
            Unit::Milliseconds,
            Goal::RatioAtMost(1.10),
            |_| block_on(2, plugins::managed()),
        )
        .reference("critical path alone", |_| block_on(2, plugins::alone())),
    ]
}
