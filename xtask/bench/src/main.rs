//! Measures Gantry beside its references, in one run on one machine: what `cargo xtask bench` starts.
//!
//! A figure from another machine proves nothing about this one, so every row that has a reference runs ours
//! and the reference in turn, round by round, and the goal is judged on the median of the rounds' ratios.
//!
//! # Shape
//!
//! A **suite** is a file beside this one (`bus.rs`, `scheduler.rs`, …) with one function
//! `pub(crate) fn rows(plan: &Plan) -> Vec<Row>`, listed in [`suites::all`]. A [`Row`](harness::Row) has the
//! id under which its figure is published, a sentence that says store, telemetry, payload and concurrency, a
//! [`Unit`](harness::Unit), a [`Goal`](harness::Goal), and a closure that does **one round** and returns one
//! [`Sample`](harness::Sample); `.reference(name, closure)` adds what it stands beside:
//!
//! ```text
//! Row::new("bus.fanout.1", "publish → delivered, 1 subscriber, 64 B, no tracing", Unit::PerSecond,
//!          Goal::RatioAtLeast(1.0), |plan| fan_out(plan, 1))
//!     .reference("tokio::sync::broadcast", |plan| raw_broadcast(plan, 1))
//! ```
//!
//! A closure is synchronous and makes the runtime that it wants ([`harness::block_on`]). `plan.pick(full,
//! quick)` chooses a size. The harness does the rest: warm-up, rounds, turns, medians, spread, text and JSON.
//! `.isolated()` runs each measurement in a fresh process, for rows about memory or cold starts;
//! `.without_warm_up()` is for rounds so long that one more is too dear. `Sample::detail` adds figures that
//! are shown and not judged; [`harness::growth`] is the slope for rows about growth, and
//! [`harness::resident_bytes`] what a process holds.

#![expect(clippy::print_stdout, reason = "a program: its output is its purpose")]

mod bus;
mod harness;
mod http;
mod scheduler;
mod server;
mod start;
mod suites;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use lexopt::prelude::*;

use crate::harness::{Contender, Plan};

// Shared with xtask, which answers `--help` without building this program.
const HELP: &str = include_str!("../help.txt");

struct Options {
    suites: Vec<String>,
    only: Vec<String>,
    json: Option<PathBuf>,
    list: bool,
    plan: Plan,
    /// Measure one contender of one row once and print the sample: what an isolated row starts.
    probe: Option<(String, Contender)>,
    /// Be a server of this kind with this argument: what the `http` suite starts.
    serve: Option<(String, String)>,
}

fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()).and_then(|options| options.map_or(Ok(()), |o| run(&o))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `None` where help was asked for and given.
fn parse(mut parser: lexopt::Parser) -> anyhow::Result<Option<Options>> {
    let (mut suites, mut only, mut json, mut list) = (Vec::new(), Vec::new(), None, false);
    let (mut quick, mut rounds, mut probe, mut serve) = (false, None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => quick = true,
            Long("only") => only.push(parser.value()?.string()?),
            Long("rounds") => rounds = Some(parser.value()?.parse::<usize>()?),
            Long("json") => json = Some(PathBuf::from(parser.value()?)),
            Long("list") => list = true,
            Long("probe") => {
                let id = parser.value()?.string()?;
                probe = Some((id, parser.value()?.parse::<Contender>()?));
            }
            Long("serve") => {
                let kind = parser.value()?.string()?;
                serve = Some((kind, parser.value()?.string()?));
            }
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(None);
            }
            Value(suite) => suites.push(suite.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if rounds == Some(0) {
        bail!("--rounds: at least one round is needed");
    }
    let plan = Plan::new(quick, rounds);
    Ok(Some(Options { suites, only, json, list, plan, probe, serve }))
}

fn run(options: &Options) -> anyhow::Result<()> {
    if let Some((id, contender)) = &options.probe {
        let rows = suites::all().into_iter().flat_map(|suite| suite.rows(&options.plan));
        return harness::probe(rows, id, *contender, &options.plan);
    }
    if let Some((kind, argument)) = &options.serve {
        return harness::block_on(http::workers(kind)?, http::serve(kind, argument));
    }
    let chosen = suites::named(&options.suites)?;
    let selected =
        |id: &str| options.only.is_empty() || options.only.iter().any(|o| id.starts_with(o.as_str()));
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build, its figures mean nothing; use `cargo xtask bench`");
    }

    let mut results = Vec::new();
    for suite in chosen {
        if let Some(why) = suite.pending() {
            println!("{}: {why}", suite.name());
        }
        for row in suite.rows(&options.plan).into_iter().filter(|row| selected(row.id())) {
            if options.list {
                println!("{:28} {}", row.id(), row.what());
                continue;
            }
            let result = harness::measure(row, &options.plan)?;
            print!("{}", harness::text(&result));
            results.push(result);
        }
    }
    if options.list {
        return Ok(());
    }
    ensure!(
        !results.is_empty() || options.only.is_empty(),
        "no row begins with `{}`",
        options.only.join("` or `")
    );
    println!("{}", harness::summary(&results));
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&harness::json(&results))? + "\n";
        std::fs::write(file, json).with_context(|| format!("write `{}`", file.display()))?;
        println!("figures written to {}", file.display());
    }
    Ok(())
}
