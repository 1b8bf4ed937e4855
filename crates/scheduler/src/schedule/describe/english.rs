//! Schedules in English.

use std::time::Duration;

use super::{Days, Fields, Piece, Values, Weekdays, What, Words, clock, parts, pieces, stretches};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) fn say(words: &Words<'_>) -> String {
    let spec = words.spec;
    let mut said = match &words.what {
        What::Cron(fields) => cron(fields),
        What::Every(every) => format!("every {}", each(*every)),
        What::AfterEnd(every) => format!("{} after the end of each run", span(*every)),
        What::OnceAt => format!("once, at {}", spec.at.map(|at| at.to_string()).unwrap_or_default()),
        What::OnceAfter(delay) => format!("once, after {}", span(*delay)),
    };
    if let Some(zone) = &spec.timezone {
        said += &format!(", in the time zone {zone}");
    }
    if let (What::Every(_) | What::AfterEnd(_), Some(delay)) = (&words.what, spec.delay) {
        said += &format!(", the first time after {}", span(delay.0));
    }
    if !spec.exclude.is_empty() {
        said += &format!(", except on {}", join(spec.exclude.iter().cloned()));
    }
    if let Some(start) = spec.start_at {
        said += &format!(", not before {start}");
    }
    if let Some(end) = spec.end_at {
        said += &format!(", not after {end}");
    }
    if let Some(runs) = spec.max_runs {
        said += &format!(", at most {}", if runs == 1 { "once".to_owned() } else { format!("{runs} times") });
    }
    if let Some(jitter) = spec.jitter {
        said += &format!(", up to {} later", span(jitter.0));
    }
    capital(&said)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

fn cron(fields: &Fields) -> String {
    let mut said = time(fields);
    let day = day(fields);
    if !day.is_empty() {
        said += &format!(", {day}");
    } else if fields.times_of_day().is_some() && fields.months == Values::All && fields.years.is_none() {
        said += ", every day";
    }
    match &fields.months {
        Values::All => {}
        Values::Step(step) => said += &format!(", in every {} month from January on", ordinal(*step)),
        Values::List(months) => {
            let name =
                |month: u16| MONTHS.get(usize::from(month) - 1).copied().unwrap_or_default().to_owned();
            said += &format!(", {}", within(months, name));
        }
    }
    if let Some(years) = &fields.years {
        said += &format!(", {}", within(years, |year| year.to_string()));
    }
    said
}

fn time(fields: &Fields) -> String {
    if let Some(times) = fields.times_of_day() {
        return format!("at {}", join(times.into_iter().map(clock)));
    }
    let is_on_the_minute = fields.seconds.is_zero();
    let second = match &fields.seconds {
        Values::All => "every second".to_owned(),
        Values::Step(step) => format!("every {step} seconds"),
        Values::List(seconds) => format!("at second{} {}", plural(seconds), numbers(seconds)),
    };
    // What happens once an hour, on the hour, is said as hours.
    if is_on_the_minute && fields.minutes.is_zero() {
        return match &fields.hours {
            Values::All => "every hour".to_owned(),
            Values::Step(step) => format!("every {step} hours"),
            Values::List(hours) => match (pieces(hours).as_slice(), stretches(hours).as_slice()) {
                ([Piece::Steps(from, to, step)], _) => {
                    format!("every {step} hours from {from:02}:00 to {to:02}:00")
                }
                (_, spans) => {
                    format!("every hour {}", join(spans.iter().map(|(from, to)| on_the_hour(*from, *to))))
                }
            },
        };
    }
    let minute = match (&fields.minutes, is_on_the_minute) {
        (Values::All, true) => "every minute".to_owned(),
        (Values::All, false) if matches!(fields.seconds, Values::List(_)) => {
            format!("{second} of every minute")
        }
        (Values::All, false) => second,
        (Values::Step(step), true) => format!("every {step} minutes"),
        (Values::Step(step), false) => format!("{second} of every {} minute", ordinal(*step)),
        (Values::List(minutes), true) => format!("at minute{} {}", plural(minutes), numbers(minutes)),
        (Values::List(minutes), false) => {
            format!("{second} of minute{} {}", plural(minutes), numbers(minutes))
        }
    };
    match &fields.hours {
        Values::All if matches!(fields.minutes, Values::List(_)) => format!("{minute} of every hour"),
        Values::All => minute,
        Values::Step(step) => format!("{minute} of every {} hour", ordinal(*step)),
        Values::List(hours) => {
            let spans =
                stretches(hours).into_iter().map(|(from, to)| format!("from {from:02}:00 to {to:02}:59"));
            let of = if matches!(fields.minutes, Values::List(_)) { " of every hour" } else { "" };
            format!("{minute}{of} {}", join(spans))
        }
    }
}

fn on_the_hour(from: u16, to: u16) -> String {
    if from == to { format!("at {from:02}:00") } else { format!("from {from:02}:00 to {to:02}:00") }
}

fn day(fields: &Fields) -> String {
    match (&fields.days, &fields.weekdays) {
        (None, None) => String::new(),
        (Some(days), None) => format!("on {}", of_the_month(days)),
        (None, Some(weekdays)) => weekday(weekdays),
        (Some(days), Some(weekdays)) if fields.both => {
            format!("on {}, if that falls {}", of_the_month(days), weekday(weekdays))
        }
        (Some(days), Some(weekdays)) => format!("on {} or {}", of_the_month(days), weekday(weekdays)),
    }
}

fn of_the_month(days: &Days) -> String {
    let mut said = Vec::new();
    match pieces(&days.numbers).as_slice() {
        [] => {}
        [Piece::Steps(from, to, step)] => {
            said.push(format!("every {} day from {from} to {to} of the month", ordinal(*step)));
        }
        _ => said.push(format!("day{} {} of the month", plural(&days.numbers), numbers(&days.numbers))),
    }
    if !days.nearest_workday.is_empty() {
        let near = &days.nearest_workday;
        said.push(format!("the working day nearest to day{} {} of the month", plural(near), numbers(near)));
    }
    if days.last {
        said.push("the last day of the month".to_owned());
    }
    if days.last_workday {
        said.push("the last working day of the month".to_owned());
    }
    join(said)
}

fn weekday(weekdays: &Weekdays) -> String {
    let mut said = Vec::new();
    if !weekdays.every.is_empty() {
        said.push(match week_run(&weekdays.every) {
            Some((from, to)) => format!("from {} to {}", name(from), name(to)),
            None => format!("on {}", join(from_monday(&weekdays.every).into_iter().map(name))),
        });
    }
    for (number, days) in (1_u16..).zip(&weekdays.nth) {
        if !days.is_empty() {
            let names = join(from_monday(days).into_iter().map(name));
            said.push(format!("on the {} {names} of the month", ordinal(number)));
        }
    }
    if !weekdays.last.is_empty() {
        let names = join(from_monday(&weekdays.last).into_iter().map(name));
        said.push(format!("on the last {names} of the month"));
    }
    join(said)
}

fn name(day: u16) -> String {
    WEEKDAYS.get(usize::from(day)).copied().unwrap_or_default().to_owned()
}

/// The week as people read it, from Monday.
pub(super) fn from_monday(days: &[u16]) -> Vec<u16> {
    let mut days = days.to_vec();
    days.sort_unstable_by_key(|day| (day + 6) % 7);
    days
}

/// The first and the last of three days or more that follow each other within a week.
pub(super) fn week_run(days: &[u16]) -> Option<(u16, u16)> {
    let days = from_monday(days);
    let is_run = days.windows(2).all(|pair| matches!(pair, [a, b] if (a + 1) % 7 == *b));
    match (days.first(), days.last()) {
        (Some(first), Some(last)) if is_run && days.len() > 2 => Some((*first, *last)),
        _ => None,
    }
}

fn list(values: &[u16], name: impl Fn(u16) -> String) -> String {
    join(pieces(values).into_iter().map(|piece| match piece {
        Piece::One(value) => name(value),
        Piece::Range(from, to) => format!("{} to {}", name(from), name(to)),
        Piece::Steps(from, to, step) => {
            format!("every {} from {} to {}", ordinal(step), name(from), name(to))
        }
    }))
}

fn within(values: &[u16], name: impl Fn(u16) -> String) -> String {
    match pieces(values).as_slice() {
        [Piece::Range(from, to)] => format!("from {} to {}", name(*from), name(*to)),
        _ => format!("in {}", list(values, name)),
    }
}

fn numbers(values: &[u16]) -> String {
    list(values, |value| value.to_string())
}

fn plural(values: &[u16]) -> &'static str {
    if values.len() == 1 { "" } else { "s" }
}

fn join(items: impl IntoIterator<Item = String>) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{} and {last}", items.join(", ")) }
}

fn ordinal(number: u16) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

const UNITS: [&str; 5] = ["day", "hour", "minute", "second", "millisecond"];

fn span(span: Duration) -> String {
    let parts = parts(span).into_iter().map(|(count, unit)| {
        let unit = UNITS.get(unit).copied().unwrap_or_default();
        format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
    });
    join(parts)
}

/// A span after "every": one of a unit is the unit.
fn each(every: Duration) -> String {
    match parts(every).as_slice() {
        [(1, unit)] => UNITS.get(*unit).copied().unwrap_or_default().to_owned(),
        _ => span(every),
    }
}
