//! Rounds: ours and the reference in turn.

use std::io::IsTerminal as _;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::process::this_program;
use super::row::{Goal, Plan, Row, Sample, Unit};
use super::stats::Spread;

/// One of the two that a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours,
    Reference,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Reference => "reference",
        }
    }
}

impl FromStr for Contender {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "ours" => Ok(Self::Ours),
            "reference" => Ok(Self::Reference),
            _ => bail!("`{text}` is neither `ours` nor `reference`"),
        }
    }
}

/// What a row came to.
pub(crate) struct Measured {
    pub(super) id: &'static str,
    pub(super) what: String,
    pub(super) unit: Unit,
    pub(super) goal: Goal,
    pub(super) rounds: usize,
    pub(super) ours: Spread,
    pub(super) details: Vec<(String, Spread)>,
    pub(super) reference: Option<Reference>,
}

pub(super) struct Reference {
    pub(super) name: String,
    pub(super) figures: Spread,
    pub(super) details: Vec<(String, Spread)>,
    /// Ours divided by the reference, round by round.
    pub(super) ratio: Spread,
}

impl Measured {
    pub(super) fn met(&self) -> bool {
        self.goal.met(self.ours.median, self.reference.as_ref().map(|reference| reference.ratio.median))
    }
}

/// Runs all rounds of a row, telling on standard error which one it is at.
pub(crate) fn measure(mut row: Row, plan: &Plan) -> anyhow::Result<Measured> {
    let progress = Progress { id: row.id, started: Instant::now(), shown: std::io::stderr().is_terminal() };
    let both: &[Contender] = match row.reference {
        Some(_) => &[Contender::Ours, Contender::Reference],
        None => &[Contender::Ours],
    };
    if row.warm_up {
        progress.show("warm-up");
        for contender in both {
            once(&mut row, *contender, plan)?;
        }
    }

    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for round in 0..plan.rounds() {
        progress.show(&format!("round {} of {}", round + 1, plan.rounds()));
        // Who goes first changes from round to round, so that a machine that slows down harms both alike.
        let turn = both.iter().cycle().skip(round % both.len()).take(both.len());
        for contender in turn {
            let sample = once(&mut row, *contender, plan)?;
            match contender {
                Contender::Ours => ours.add(sample),
                Contender::Reference => theirs.add(sample),
            }
        }
    }
    progress.end();

    let ratios: Vec<f64> =
        ours.values.iter().zip(&theirs.values).map(|(ours, theirs)| ours / theirs).collect();
    let reference = match (row.reference, Spread::of(&theirs.values), Spread::of(&ratios)) {
        (Some((name, _)), Some(figures), Some(ratio)) => {
            Some(Reference { name, figures, details: theirs.details(), ratio })
        }
        _ => None,
    };
    Ok(Measured {
        id: row.id,
        what: row.what,
        unit: row.unit,
        goal: row.goal,
        rounds: plan.rounds(),
        ours: Spread::of(&ours.values).context("no round was run")?,
        details: ours.details(),
        reference,
    })
}

/// One contender's rounds.
#[derive(Default)]
struct Figures {
    values: Vec<f64>,
    /// In the order in which a round names them.
    details: Vec<(String, Vec<f64>)>,
}

impl Figures {
    fn add(&mut self, sample: Sample) {
        self.values.push(sample.value);
        for (name, value) in sample.details {
            match self.details.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => self.details.push((name, vec![value])),
            }
        }
    }

    fn details(self) -> Vec<(String, Spread)> {
        self.details.into_iter().filter_map(|(name, values)| Some((name, Spread::of(&values)?))).collect()
    }
}

/// One line that is written over, for a person who waits.
struct Progress {
    id: &'static str,
    started: Instant,
    shown: bool,
}

impl Progress {
    fn show(&self, at: &str) {
        if self.shown {
            eprint!("\r\x1b[K{}: {at}, {} s so far", self.id, self.started.elapsed().as_secs());
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// Does one measurement, in a process of its own where the row asks for that.
fn once(row: &mut Row, contender: Contender, plan: &Plan) -> anyhow::Result<Sample> {
    let sample = if row.isolated { in_child(row, contender, plan) } else { here(row, contender, plan) };
    let sample = sample.with_context(|| format!("measure `{}`, {}", row.id, contender.name()))?;
    ensure!(sample.value.is_finite(), "measure `{}`: {} is no figure", row.id, sample.value);
    Ok(sample)
}

fn here(row: &mut Row, contender: Contender, plan: &Plan) -> anyhow::Result<Sample> {
    match (contender, &mut row.reference) {
        (Contender::Ours, _) => (row.ours)(plan),
        (Contender::Reference, Some((_, reference))) => reference(plan),
        (Contender::Reference, None) => bail!("`{}` has no reference", row.id),
    }
}

fn in_child(row: &Row, contender: Contender, plan: &Plan) -> anyhow::Result<Sample> {
    let mut command = this_program()?;
    command.args(["--probe", row.id, contender.name()]);
    if plan.quick() {
        command.arg("--quick");
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the process of its own ended with {}", output.status);
    let value: Value = serde_json::from_slice(&output.stdout).context("read the sample")?;
    let mut sample = Sample::from(value["value"].as_f64().context("the sample has no value")?);
    for detail in value["details"].as_array().into_iter().flatten() {
        if let (Some(name), Some(value)) = (detail[0].as_str(), detail[1].as_f64()) {
            sample = sample.detail(name, value);
        }
    }
    Ok(sample)
}

/// The other end of [`in_child`]: finds the row, measures once, prints the sample.
pub(crate) fn probe(
    rows: impl IntoIterator<Item = Row>,
    id: &str,
    contender: Contender,
    plan: &Plan,
) -> anyhow::Result<()> {
    let mut row = rows.into_iter().find(|row| row.id == id).with_context(|| format!("no row `{id}`"))?;
    let sample = here(&mut row, contender, plan)?;
    println!("{}", json!({ "value": sample.value, "details": sample.details }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn measured(row: Row, rounds: usize) -> Measured {
        measure(row, &Plan::new(false, Some(rounds))).unwrap()
    }

    #[test]
    fn ours_and_the_reference_take_turns() {
        let order = Rc::new(RefCell::new(String::new()));
        let (ours, theirs) = (Rc::clone(&order), Rc::clone(&order));
        let row = Row::new("x.y", "", Unit::PerSecond, Goal::RatioAtLeast(1.0), move |_| {
            ours.borrow_mut().push('o');
            Ok(1.0)
        })
        .reference("r", move |_| {
            theirs.borrow_mut().push('r');
            Ok(1.0)
        })
        .without_warm_up();
        measured(row, 3);
        assert_eq!(*order.borrow(), "orroor");
    }

    #[test]
    fn the_ratio_is_of_each_round_and_not_of_the_medians() {
        // The machine slows to a tenth in the middle round: both do, and the ratio stays.
        let (mut ours, mut theirs) = ([200.0, 20.0, 220.0].into_iter(), [100.0, 10.0, 100.0].into_iter());
        let row = Row::new("x.y", "", Unit::PerSecond, Goal::RatioAtLeast(2.0), move |_| {
            Ok(Sample::from(ours.next().unwrap()).detail("p50", 1.0))
        })
        .reference("r", move |_| Ok(theirs.next().unwrap()))
        .without_warm_up();
        let measured = measured(row, 3);
        let ratio = measured.reference.as_ref().unwrap().ratio;
        assert_eq!((ratio.low, ratio.median, ratio.high), (2.0, 2.0, 2.2));
        assert_eq!(measured.ours.median, 200.0);
        assert_eq!(measured.details.len(), 1);
        assert!(measured.met());
    }

    #[test]
    fn the_warm_up_does_not_count() {
        let mut figures = [0.0, 5.0, 5.0].into_iter();
        let row = Row::new("x.y", "", Unit::Bytes, Goal::AtMost(5.0), move |_| Ok(figures.next().unwrap()));
        assert_eq!(measured(row, 2).ours.low, 5.0);
    }

    #[test]
    fn what_is_no_figure_is_an_error() {
        let row = Row::new("x.y", "", Unit::Bytes, Goal::AtMost(5.0), |_| Ok(f64::NAN)).without_warm_up();
        assert!(measure(row, &Plan::new(true, None)).is_err());
    }
}
