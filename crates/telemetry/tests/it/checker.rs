//! A strict reader of both text formats: it refuses what a scraper would, and more.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use telemetry::Format;

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    pub(crate) exemplar: Option<BTreeMap<String, String>>,
}

/// A page that was read.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) samples: Vec<Sample>,
    pub(crate) kinds: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
}

impl Page {
    /// Reads `text`; panics with the line where it breaks a rule of `format`.
    #[track_caller]
    pub(crate) fn read(text: &str, format: Format) -> Self {
        Self::try_read(text, format).unwrap_or_else(|error| panic!("{error}\n--- in ---\n{text}"))
    }

    pub(crate) fn try_read(text: &str, format: Format) -> Result<Self, String> {
        let open_metrics = format == Format::OpenMetrics;
        let body = if open_metrics {
            text.strip_suffix("# EOF\n").ok_or("does not end with the line `# EOF`")?
        } else {
            text
        };
        require(body.is_empty() || body.ends_with('\n'), || "the last line is not ended".into())?;
        let mut page = Self::default();
        let mut family: Option<String> = None;
        let mut closed = HashSet::new();
        for line in body.split_terminator('\n') {
            let wrong = |what: &str| format!("{what}: `{line}`");
            if let Some(comment) = line.strip_prefix("# ") {
                let (word, rest) = comment.split_once(' ').ok_or_else(|| wrong("comment without a name"))?;
                let (name, text) = rest.split_once(' ').ok_or_else(|| wrong("comment without a text"))?;
                require(is_name(name, true), || wrong("name"))?;
                if family.as_deref() != Some(name) {
                    closed.extend(family.replace(name.to_owned()));
                    require(!closed.contains(name), || wrong("family in two places"))?;
                }
                let old = match word {
                    "TYPE" => {
                        let known = ["counter", "gauge", "histogram", "unknown"];
                        require(known.contains(&text), || wrong("type"))?;
                        page.kinds.insert(name.to_owned(), text.to_owned())
                    }
                    "HELP" => page.helps.insert(name.to_owned(), unescape(text, open_metrics)?),
                    "UNIT" if open_metrics => {
                        require(name.ends_with(&format!("_{text}")), || wrong("unit does not end the name"))?;
                        None
                    }
                    _ => return Err(wrong("comment")),
                };
                require(old.is_none(), || wrong("said twice"))?;
                require(page.samples.iter().all(|sample| !of_family(&sample.name, name)), || {
                    wrong("said late")
                })?;
            } else {
                let sample = sample(line, open_metrics)?;
                let family = family.as_deref().ok_or_else(|| wrong("sample before any family"))?;
                let kind = page.kinds.get(family).ok_or_else(|| wrong("sample before its type"))?;
                let suffix =
                    sample.name.strip_prefix(family).ok_or_else(|| wrong("sample of another family"))?;
                let fits = match (kind.as_str(), suffix) {
                    ("counter", "_total") => open_metrics,
                    ("counter", "") => !open_metrics,
                    ("gauge" | "unknown", "") => true,
                    ("histogram", "_bucket") => sample.labels.contains_key("le"),
                    ("histogram", "_sum" | "_count") => !sample.labels.contains_key("le"),
                    _ => false,
                };
                require(fits, || wrong("sample does not fit its type"))?;
                require(kind != "counter" || sample.value >= 0.0, || wrong("negative counter"))?;
                require(sample.exemplar.is_none() || suffix == "_bucket", || wrong("exemplar out of place"))?;
                page.samples.push(sample);
            }
        }
        page.no_duplicates()?;
        page.histograms_add_up()?;
        Ok(page)
    }

    /// The value of the one sample with this name and these labels.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}")).value
    }

    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Sample> {
        let wanted: BTreeMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.iter().find(|sample| sample.name == name && sample.labels == wanted)
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.samples.iter().filter(|sample| sample.name == name).count()
    }

    fn no_duplicates(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            require(seen.insert((&sample.name, &sample.labels)), || format!("twice: {sample:?}"))?;
        }
        Ok(())
    }

    fn histograms_add_up(&self) -> Result<(), String> {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut groups: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.samples.iter().filter(|sample| sample.name == format!("{name}_bucket")) {
                let mut labels = sample.labels.clone();
                let bound = number(&labels.remove("le").unwrap_or_default())?;
                groups.entry(labels).or_default().push((bound, sample.value));
            }
            for (labels, buckets) in groups {
                let rising = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
                require(buckets.windows(2).all(rising), || format!("{name} {labels:?}: not rising"))?;
                let (bound, all) = *buckets.last().ok_or("no bucket")?;
                require(bound == f64::INFINITY, || format!("{name} {labels:?}: no +Inf"))?;
                let pairs: Vec<_> = labels.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                let count = self.find(&format!("{name}_count"), &pairs).map(|sample| sample.value);
                require(count == Some(all), || format!("{name} {labels:?}: count {count:?}, +Inf {all}"))?;
                require(self.find(&format!("{name}_sum"), &pairs).is_some(), || format!("{name}: no sum"))?;
            }
        }
        Ok(())
    }
}

fn require(holds: bool, error: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(error()) }
}

fn of_family(sample: &str, family: &str) -> bool {
    sample
        .strip_prefix(family)
        .is_some_and(|suffix| matches!(suffix, "" | "_total" | "_bucket" | "_sum" | "_count"))
}

fn sample(line: &str, exemplars: bool) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or_else(|| format!("no value: `{line}`"))?;
    let (name, rest) = line.split_at(end);
    require(is_name(name, true), || format!("name: `{line}`"))?;
    let (labels, rest) = labels(rest)?;
    let rest = rest.strip_prefix(' ').ok_or_else(|| format!("no space before the value: `{line}`"))?;
    let (value, exemplar) = match rest.split_once(" # ") {
        None => (rest, None),
        Some((value, rest)) if exemplars => {
            let (labels, rest) = self::labels(rest)?;
            let long: usize =
                labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
            require(long <= 128, || format!("exemplar too long: `{line}`"))?;
            let mut numbers = rest.split_terminator(' ').skip(1);
            number(numbers.next().unwrap_or_default())?;
            numbers.next().map_or(Ok(0.0), number)?;
            require(numbers.next().is_none(), || format!("after the exemplar: `{line}`"))?;
            (value, Some(labels))
        }
        Some(_) => return Err(format!("exemplar in Prometheus text: `{line}`")),
    };
    Ok(Sample { name: name.to_owned(), labels, value: number(value)?, exemplar })
}

/// Reads `{a="b",…}`, or nothing.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((labels, text)) };
    loop {
        let (name, after) = rest.split_once("=\"").ok_or_else(|| format!("label: `{rest}`"))?;
        require(is_name(name, false), || format!("label name `{name}`"))?;
        let mut escaped = false;
        let end = after
            .find(|char| {
                let ends = char == '"' && !escaped;
                escaped = char == '\\' && !escaped;
                ends
            })
            .ok_or_else(|| format!("label not ended: `{after}`"))?;
        let old = labels.insert(name.to_owned(), unescape(&after[..end], true)?);
        require(old.is_none(), || format!("label `{name}` twice"))?;
        rest = &after[end + 1..];
        match rest.split_at_checked(1) {
            Some((",", more)) => rest = more,
            Some(("}", more)) => return Ok((labels, more)),
            _ => return Err(format!("labels not ended: `{rest}`")),
        }
    }
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quotes => out.push('"'),
                other => return Err(format!("escape {other:?} in `{text}`")),
            },
            '"' if quotes => return Err(format!("bare quote in `{text}`")),
            _ => out.push(char),
        }
    }
    Ok(out)
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.contains(|char: char| char.is_alphabetic() && char != 'e') => {
            Err(format!("number `{text}`"))
        }
        _ => text.parse().map_err(|_| format!("number `{text}`")),
    }
}

fn is_name(text: &str, metric: bool) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || char == '_' || metric && char == ':';
    !text.is_empty() && !text.starts_with(|char: char| char.is_ascii_digit()) && text.chars().all(allowed)
}

#[test]
fn the_checker_refuses_what_is_wrong() {
    let check = |text: &str, format| assert!(Page::try_read(text, format).is_err(), "{text}");
    for format in [Format::PrometheusText, Format::OpenMetrics] {
        let eof = if format == Format::OpenMetrics { "# EOF\n" } else { "" };
        for text in [
            "a 1\n",
            "# TYPE a gauge\na 1\na 2\n",
            "# TYPE a gauge\na{b=\"c\" 1\n",
            "# TYPE a gauge\na{b=\"c\\x\"} 1\n",
            "# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n",
            "# TYPE a gauge\na  1\n",
            "# TYPE a gauge\na one\n",
            "# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n",
            "# TYPE a gauge\nb 1\n",
            "# TYPE a thing\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
            "# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
            "\n",
        ] {
            check(&format!("{text}{eof}"), format);
        }
    }
    check("# TYPE a gauge\na 1\n", Format::OpenMetrics);
    check("# TYPE a_total counter\na_total 1\n# EOF\n", Format::OpenMetrics);
    check("# TYPE a gauge\na 1 # {b=\"c\"} 1\n", Format::PrometheusText);
}
