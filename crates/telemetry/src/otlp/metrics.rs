//! A snapshot of the metrics as OTLP has it.

use metrics::Unit;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
    exemplar, number_data_point,
};

use super::fields::{attribute, text};
use super::nanos;
use crate::snapshot::{self, Family, HistogramValue, Labels, MetricKind, Series, Snapshot, Value};

/// All metrics that have a value, under the names that they have on `/metrics`. Counters and histograms are
/// cumulative.
pub(super) fn metrics(snapshot: &Snapshot) -> Vec<Metric> {
    let times = Times { start: nanos(snapshot.counted_since), now: nanos(snapshot.taken_at) };
    let used = snapshot.families.iter().filter(|family| !family.series.is_empty());
    used.map(|family| metric(family, times)).collect()
}

/// How many data points that are.
pub(super) fn points(snapshot: &Snapshot) -> u64 {
    snapshot.families.iter().map(|family| family.series.len() as u64).sum()
}

#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

fn metric(family: &Family, times: Times) -> Metric {
    let numbers = || family.series.iter().filter_map(|series| number(series, times)).collect();
    let aggregation_temporality = AggregationTemporality::Cumulative as i32;
    let data = match family.kind {
        MetricKind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality, is_monotonic: true })
        }
        MetricKind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        MetricKind::Histogram => {
            let points = family.series.iter().filter_map(|series| match &series.value {
                Value::Histogram(value) => Some(histogram(&series.labels, value, times)),
                _ => None,
            });
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality })
        }
    };
    Metric {
        name: family.name.clone(),
        description: family.help.clone(),
        unit: family.unit.map(unit).unwrap_or_default(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(series: &Series, times: Times) -> Option<NumberDataPoint> {
    let value = match series.value {
        Value::Float(number) => number_data_point::Value::AsDouble(number),
        Value::Integer(count) => match i64::try_from(count) {
            Ok(count) => number_data_point::Value::AsInt(count),
            Err(_) => number_data_point::Value::AsDouble(count as f64),
        },
        Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(&series.labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(labels: &Labels, value: &HistogramValue, times: Times) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count: value.count(),
        sum: Some(value.sum),
        bucket_counts: value.counts.clone(),
        explicit_bounds: value.bounds.to_vec(),
        exemplars: value.exemplars.iter().flatten().map(exemplar).collect(),
        ..HistogramDataPoint::default()
    }
}

fn exemplar(exemplar: &snapshot::Exemplar) -> Exemplar {
    Exemplar {
        time_unix_nano: nanos(exemplar.at),
        trace_id: exemplar.trace.trace_id().to_bytes().to_vec(),
        span_id: exemplar.trace.span_id().to_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
        ..Exemplar::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| attribute(name, text(value))).collect()
}

/// The unit as [UCUM](https://ucum.org) writes it; nothing for what is only counted.
fn unit(unit: Unit) -> String {
    match unit {
        Unit::Seconds => "s",
        Unit::Milliseconds => "ms",
        Unit::Microseconds => "us",
        Unit::Nanoseconds => "ns",
        Unit::Bytes => "By",
        Unit::Kibibytes => "KiBy",
        Unit::Mebibytes => "MiBy",
        Unit::Gibibytes => "GiBy",
        Unit::Percent => "%",
        _ => "",
    }
    .to_owned()
}
