//! Figures as text for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json as value};

use super::row::Goal;
use super::run::Measured;
use super::stats::Spread;

/// A few lines for one row.
pub(crate) fn text(row: &Measured) -> String {
    let mut out = format!("{}  {}\n", row.id, row.what);
    let mut line = |label: &str, shown: String, more: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "  {}", format!("{label:<10} {shown:<36} {more}").trim_end());
    };
    let with_unit = |spread: &Spread| {
        let Spread { median, low, high } = *spread;
        format!("{}  ({} – {})", row.unit.show(median), row.unit.show(low), row.unit.show(high))
    };
    line("ours", with_unit(&row.ours), "");
    for (name, spread) in &row.details {
        line(&format!("· {name}"), with_unit(spread), "");
    }
    if let Some(reference) = &row.reference {
        line("reference", with_unit(&reference.figures), &reference.name);
        for (name, spread) in &reference.details {
            line(&format!("· {name}"), with_unit(spread), "");
        }
        let Spread { median, low, high } = reference.ratio;
        line("ratio", format!("{median:.3}  ({low:.3} – {high:.3})"), "");
    }
    let verdict = match row.goal {
        Goal::None => "",
        _ if row.met() => "met, ",
        _ => "MISSED, ",
    };
    line("goal", row.goal.show(row.unit), &format!("{verdict}{} rounds", row.rounds));
    out
}

/// The closing line.
pub(crate) fn summary(rows: &[Measured]) -> String {
    let judged = rows.iter().filter(|row| row.goal != Goal::None).count();
    let missed: Vec<_> = rows.iter().filter(|row| !row.met()).map(|row| row.id).collect();
    let met = judged - missed.len();
    match missed.as_slice() {
        [] => format!("{met} of {judged} goals met"),
        _ => format!("{met} of {judged} goals met; missed: {}", missed.join(" ")),
    }
}

/// The list of `{"id", "what", "value", "unit", "reference", "ratio", "goal", "met"}`.
pub(crate) fn json(rows: &[Measured]) -> Value {
    let row = |row: &Measured| {
        value!({
            "id": row.id,
            "what": row.what,
            "value": row.ours.median,
            "unit": row.unit.name(),
            "reference": row.reference.as_ref().map(|reference| {
                value!({ "name": reference.name, "value": reference.figures.median })
            }),
            "ratio": row.reference.as_ref().map(|reference| reference.ratio.median),
            "goal": (row.goal != Goal::None).then(|| row.goal.show(row.unit)),
            "met": (row.goal != Goal::None).then(|| row.met()),
        })
    };
    Value::Array(rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::row::Unit;
    use crate::harness::run::Reference;

    fn at(median: f64) -> Spread {
        Spread { median, low: median * 0.9, high: median * 1.1 }
    }

    fn row(reference: Option<Reference>, goal: Goal) -> Measured {
        Measured {
            id: "bus.nobody",
            what: "publish where nobody listens".to_owned(),
            unit: Unit::Nanoseconds,
            goal,
            rounds: 5,
            ours: at(80.0),
            details: vec![("p99".to_owned(), at(90.0))],
            reference,
        }
    }

    fn beside(ratio: f64) -> Option<Reference> {
        Some(Reference { name: "raw".to_owned(), figures: at(40.0), details: Vec::new(), ratio: at(ratio) })
    }

    #[test]
    fn json_has_the_published_form() {
        let rows = [row(None, Goal::AtMost(100.0)), row(beside(2.0), Goal::RatioAtMost(1.5))];
        let expected = value!([
            { "id": "bus.nobody", "what": "publish where nobody listens", "value": 80.0, "unit": "ns",
              "reference": null, "ratio": null, "goal": "≤ 100 ns", "met": true },
            { "id": "bus.nobody", "what": "publish where nobody listens", "value": 80.0, "unit": "ns",
              "reference": { "name": "raw", "value": 40.0 }, "ratio": 2.0, "goal": "ratio ≤ 1.50", "met": false },
        ]);
        assert_eq!(json(&rows), expected);
    }

    #[test]
    fn text_shows_spread_reference_and_verdict() {
        let shown = text(&row(beside(2.0), Goal::RatioAtMost(1.5)));
        for part in
            ["80.00 ns  (72.00 ns – 88.00 ns)", "· p99", "raw", "2.000  (1.800 – 2.200)", "MISSED, 5 rounds"]
        {
            assert!(shown.contains(part), "{part} in:\n{shown}");
        }
        assert!(!text(&row(None, Goal::AtMost(100.0))).contains("ratio"));
    }

    #[test]
    fn the_summary_names_what_was_missed() {
        let rows = [row(None, Goal::AtMost(100.0)), row(beside(2.0), Goal::RatioAtMost(1.5))];
        assert_eq!(summary(&rows), "1 of 2 goals met; missed: bus.nobody");
        assert_eq!(summary(&rows[..1]), "1 of 1 goals met");
    }
}
