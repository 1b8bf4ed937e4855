//! What it costs to count and to look: `cargo run --release -p telemetry --example cost`.
//!
//! Prints the median of nine rounds for each; the figures of `docs/decisions/0001-metrics-facade.md` are
//! from here.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::hint::black_box;
use std::time::Instant;

use metrics::{counter, gauge, histogram};
use telemetry::{Format, Metrics, Telemetry, TraceContext};

const ROUNDS: usize = 9;

fn measure(what: &str, times: u32, mut work: impl FnMut(u32)) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            (0..times).for_each(&mut work);
            started.elapsed().as_secs_f64() * 1e9 / f64::from(times)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:<58} {:>10.1} ns", rounds[ROUNDS / 2]);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let metrics = Metrics::builder().process(false).build();
    let telemetry = Telemetry::builder().metrics(metrics.clone()).log_filter("warn".parse()?).install()?;

    let counted = counter!("held_total");
    measure("counter, handle held", 5_000_000, |_| counted.increment(1));
    measure("counter, macro, no label", 2_000_000, |_| counter!("macro_total").increment(1));
    measure("counter, macro, static label", 2_000_000, |_| counter!("macro_total", "a" => "b").increment(1));
    let values: Vec<String> = (0..16).map(|n| format!("value-{n}")).collect();
    measure("counter, macro, text label", 1_000_000, |n| {
        counter!("text_total", "a" => values[n as usize % 16].clone()).increment(1);
    });
    let depth = gauge!("depth");
    measure("gauge set, handle held", 5_000_000, |n| depth.set(f64::from(n)));

    let took = histogram!("took_seconds");
    let value = |n: u32| f64::from(black_box(n) % 1_000) * 1e-3;
    measure("histogram, handle held, no span", 5_000_000, |n| took.record(value(n)));
    for (what, sampled) in [("an unsampled", false), ("a sampled", true)] {
        let _entered = tracing::info_span!("request", traceparent = %TraceContext::root(sampled)).entered();
        measure(&format!("histogram, handle held, in {what} trace"), 2_000_000, |n| took.record(value(n)));
    }
    let plain = Metrics::builder().process(false).exemplars(false).build();
    let took = metrics::with_local_recorder(&plain, || histogram!("took_seconds"));
    measure("histogram, handle held, exemplars off", 5_000_000, |n| took.record(value(n)));

    for n in 0..1_000 {
        histogram!("many_seconds", "n" => n.to_string()).record(0.1);
    }
    measure("page of 1,000 histograms, OpenMetrics", 20, |_| {
        black_box(telemetry.metrics().render(Format::OpenMetrics));
    });
    Ok(())
}
