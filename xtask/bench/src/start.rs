//! How soon the server is ready, and what it takes.

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
    ]
}
