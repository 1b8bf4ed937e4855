//! A snapshot as text, in both formats.

use std::collections::HashSet;
use std::fmt::Write;

use metrics::Unit;

use crate::format::Format;
use crate::snapshot::{Exemplar, Family, HistogramValue, MetricKind, Snapshot, Value};

/// Writes all of `snapshot`.
pub(crate) fn encode(snapshot: &Snapshot, format: Format) -> String {
    let taken = snapshot.families.iter().map(|family| family.name.as_str()).collect();
    let mut page = Page { out: String::with_capacity(16 * 1024), format, taken };
    for family in &snapshot.families {
        page.family(family);
    }
    if format == Format::OpenMetrics {
        page.out.push_str("# EOF\n");
    }
    page.out
}

struct Page<'a> {
    out: String,
    format: Format,
    /// The names of all families.
    taken: HashSet<&'a str>,
}

/// How a family appears: the name in its comments, the name of its samples, its type.
struct Heading<'a> {
    family: &'a str,
    sample: String,
    kind: &'static str,
}

impl Page<'_> {
    fn family(&mut self, family: &Family) {
        let heading = self.heading(family);
        if !family.help.is_empty() {
            self.comment("HELP", heading.family);
            let quotes = self.format == Format::OpenMetrics;
            escape(&mut self.out, &family.help, quotes);
            self.out.push('\n');
        }
        self.comment("TYPE", heading.family);
        self.out.push_str(heading.kind);
        self.out.push('\n');
        if let Some(unit) = self.unit(family, heading.family) {
            self.comment("UNIT", heading.family);
            self.out.push_str(unit);
            self.out.push('\n');
        }
        for series in &family.series {
            match &series.value {
                Value::Integer(value) => {
                    self.sample(&heading.sample, &series.labels, None);
                    let _ = write!(self.out, "{value}");
                    self.out.push('\n');
                }
                Value::Float(value) => {
                    self.sample(&heading.sample, &series.labels, None);
                    float(&mut self.out, *value);
                    self.out.push('\n');
                }
                Value::Histogram(value) => self.histogram(&family.name, &series.labels, value),
            }
        }
    }

    /// OpenMetrics says `requests` of type counter where its sample is `requests_total`. Where another
    /// family has one of the two names already, this one keeps its own and is of unknown type: one name
    /// twice would cost the scraper the whole page.
    fn heading<'f>(&self, family: &'f Family) -> Heading<'f> {
        let plain = |kind| Heading { family: &family.name, sample: family.name.clone(), kind };
        if self.format == Format::PrometheusText || family.kind != MetricKind::Counter {
            return plain(family.kind.as_str());
        }
        let base = family.name.strip_suffix("_total").unwrap_or(&family.name);
        let sample = format!("{base}_total");
        let is_free = |name: &str| name == family.name || !self.taken.contains(name);
        if !base.is_empty() && is_free(base) && is_free(&sample) {
            Heading { family: base, sample, kind: "counter" }
        } else {
            plain("unknown")
        }
    }

    fn unit(&self, family: &Family, heading: &str) -> Option<&'static str> {
        let unit = match family.unit? {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            _ => return None,
        };
        // OpenMetrics wants the unit to end the name; the Prometheus text has no such line.
        let named = heading.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
        (self.format == Format::OpenMetrics && named).then_some(unit)
    }

    fn histogram(&mut self, name: &str, labels: &[(String, String)], value: &HistogramValue) {
        let bucket = format!("{name}_bucket");
        let mut cumulative = 0;
        for (index, count) in value.counts.iter().enumerate() {
            cumulative += count;
            let bound = value.bounds.get(index).copied().unwrap_or(f64::INFINITY);
            self.sample(&bucket, labels, Some(bound));
            let _ = write!(self.out, "{cumulative}");
            if let (Format::OpenMetrics, Some(Some(exemplar))) = (self.format, value.exemplars.get(index)) {
                self.exemplar(exemplar);
            }
            self.out.push('\n');
        }
        self.sample(&format!("{name}_sum"), labels, None);
        float(&mut self.out, value.sum);
        self.out.push('\n');
        self.sample(&format!("{name}_count"), labels, None);
        let _ = writeln!(self.out, "{cumulative}");
    }

    fn exemplar(&mut self, exemplar: &Exemplar) {
        let (trace, span) = (exemplar.trace.trace_id(), exemplar.trace.span_id());
        let _ = write!(self.out, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} ");
        float(&mut self.out, exemplar.value);
        let at = exemplar.at.as_millisecond();
        let _ = write!(self.out, " {}.{:03}", at.div_euclid(1000), at.rem_euclid(1000));
    }

    fn comment(&mut self, word: &str, name: &str) {
        let _ = write!(self.out, "# {word} {name} ");
    }

    /// All of a sample's line before its value.
    fn sample(&mut self, name: &str, labels: &[(String, String)], bound: Option<f64>) {
        let out = &mut self.out;
        out.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            let _ = write!(out, "{separator}{label}=\"");
            escape(out, value, true);
            out.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(out, "{separator}le=\"");
            float(out, bound);
            // OpenMetrics compares these as text, and wants `1.0`.
            if self.format == Format::OpenMetrics && bound.fract() == 0.0 && bound.is_finite() {
                out.push_str(".0");
            }
            out.push('"');
            separator = ',';
        }
        out.push_str(if separator == ',' { "} " } else { " " });
    }
}

fn float(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{value}");
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            _ => out.push(char),
        }
    }
}
