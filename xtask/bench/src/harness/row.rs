//! What a suite says about one figure.

/// How thorough this run is.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    quick: bool,
    rounds: usize,
}

impl Plan {
    /// A quick or a full plan; five rounds, or two where it is quick, unless `rounds` says otherwise.
    pub(crate) fn new(quick: bool, rounds: Option<usize>) -> Self {
        Self { quick, rounds: rounds.unwrap_or(if quick { 2 } else { 5 }) }
    }

    pub(crate) fn quick(&self) -> bool {
        self.quick
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    /// `full`, or `quick` where this is a quick run: for sizes and spans.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// The unit of a row's figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
    Megabytes,
    /// The slope of log cost over log size: 0 is flat, 1 grows with the size.
    Slope,
}

impl Unit {
    /// The name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "1/s",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Bytes => "B",
            Self::Megabytes => "MB",
            Self::Slope => "slope",
        }
    }

    /// A value with its unit, in three or four significant digits.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond if value >= 1e3 => format!("{:.1} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.1} /s"),
            Self::Slope => format!("{value:.3}"),
            _ if value.abs() >= 100.0 => format!("{value:.0} {}", self.text()),
            _ => format!("{value:.2} {}", self.text()),
        }
    }

    fn text(self) -> &'static str {
        if self == Self::Microseconds { "µs" } else { self.name() }
    }
}

/// A size as a row says it: `100 k`, `1 M`.
pub(crate) fn count(size: usize) -> String {
    match size {
        1_000_000.. if size.is_multiple_of(1_000_000) => format!("{} M", size / 1_000_000),
        1_000.. if size.is_multiple_of(1_000) => format!("{} k", size / 1_000),
        _ => size.to_string(),
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// Ours is at least this share of the reference: for rates.
    RatioAtLeast(f64),
    /// Ours is at most this multiple of the reference: for times and sizes.
    RatioAtMost(f64),
    /// Ours is at least this, in the unit of the row; a reference is only shown.
    AtLeast(f64),
    /// Ours is at most this, in the unit of the row; a reference is only shown.
    AtMost(f64),
    /// Nothing: the figure is shown and not judged.
    None,
}

impl Goal {
    /// Whether the goal is met by the median of ours, and of the ratio where there is a reference.
    pub(crate) fn met(self, value: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::RatioAtLeast(bound) => ratio.is_some_and(|ratio| ratio >= bound),
            Self::RatioAtMost(bound) => ratio.is_some_and(|ratio| ratio <= bound),
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::None => true,
        }
    }

    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::RatioAtLeast(bound) => format!("ratio ≥ {bound:.2}"),
            Self::RatioAtMost(bound) => format!("ratio ≤ {bound:.2}"),
            Self::AtLeast(bound) => format!("≥ {}", unit.show(bound)),
            Self::AtMost(bound) => format!("≤ {}", unit.show(bound)),
            Self::None => "none".to_owned(),
        }
    }
}

/// What one round measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) details: Vec<(String, f64)>,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self { value, details: Vec::new() }
    }
}

impl Sample {
    /// Adds a figure, in the unit of the row, that is shown and not judged: a median beside a p99.
    pub(crate) fn detail(mut self, name: impl Into<String>, value: f64) -> Self {
        self.details.push((name.into(), value));
        self
    }
}

/// Does one round and says what it measured.
pub(crate) type Measure = Box<dyn FnMut(&Plan) -> anyhow::Result<Sample>>;

/// One published figure: how it is measured, what it stands beside, and what it must reach.
pub(crate) struct Row {
    pub(super) id: &'static str,
    pub(super) what: String,
    pub(super) unit: Unit,
    pub(super) goal: Goal,
    pub(super) ours: Measure,
    pub(super) reference: Option<(String, Measure)>,
    pub(super) warm_up: bool,
    pub(super) isolated: bool,
}

impl Row {
    /// A row of this id; `what` says the store, the telemetry setting, the payload and the concurrency.
    pub(crate) fn new<S: Into<Sample>>(
        id: &'static str,
        what: impl Into<String>,
        unit: Unit,
        goal: Goal,
        mut ours: impl FnMut(&Plan) -> anyhow::Result<S> + 'static,
    ) -> Self {
        let ours: Measure = Box::new(move |plan| ours(plan).map(Into::into));
        Self { id, what: what.into(), unit, goal, ours, reference: None, warm_up: true, isolated: false }
    }

    /// Adds what ours stands beside, measured in the same rounds.
    pub(crate) fn reference<S: Into<Sample>>(
        mut self,
        name: impl Into<String>,
        mut measure: impl FnMut(&Plan) -> anyhow::Result<S> + 'static,
    ) -> Self {
        self.reference = Some((name.into(), Box::new(move |plan| measure(plan).map(Into::into))));
        self
    }

    /// Leaves out the round that is run and not counted.
    pub(crate) fn without_warm_up(mut self) -> Self {
        self.warm_up = false;
        self
    }

    /// Runs every measurement in a process of its own; implies no warm-up.
    pub(crate) fn isolated(mut self) -> Self {
        self.isolated = true;
        self.without_warm_up()
    }

    pub(crate) fn id(&self) -> &'static str {
        self.id
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }
}

#[cfg(test)]
impl Row {
    pub(crate) fn goal(&self) -> Goal {
        self.goal
    }

    pub(crate) fn has_reference(&self) -> bool {
        self.reference.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_in_a_unit_of_their_size() {
        let cases = [
            (Unit::PerSecond, 4_213_000.0, "4.21 M/s"),
            (Unit::PerSecond, 41_300.0, "41.3 k/s"),
            (Unit::PerSecond, 12.0, "12.0 /s"),
            (Unit::Nanoseconds, 87.4, "87.40 ns"),
            (Unit::Microseconds, 1234.0, "1234 µs"),
            (Unit::Slope, 0.0512, "0.051"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn a_size_is_said_exactly() {
        let said = [500, 4096, 3_000, 100_000, 1_000_000, 1_500_000].map(count);
        assert_eq!(said, ["500", "4096", "3 k", "100 k", "1 M", "1500 k"]);
    }

    #[test]
    fn a_goal_is_judged_on_the_ratio_or_on_the_value() {
        assert!(Goal::RatioAtLeast(0.85).met(1.0, Some(0.85)));
        assert!(!Goal::RatioAtLeast(0.85).met(1e9, Some(0.84)));
        assert!(!Goal::RatioAtLeast(0.85).met(1e9, None));
        assert!(Goal::RatioAtMost(1.1).met(0.0, Some(1.1)));
        assert!(Goal::AtMost(100.0).met(99.0, Some(50.0)));
        assert!(!Goal::AtLeast(1e6).met(999_999.0, None));
    }
}
