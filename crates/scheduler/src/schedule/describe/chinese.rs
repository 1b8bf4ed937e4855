//! Schedules in simplified Chinese: from the greatest unit of time to the smallest.

use std::time::Duration;

use super::english::{from_monday, week_run};
use super::{Days, Fields, Piece, Values, Weekdays, What, Words, clock, parts, pieces, stretches};

const WEEKDAYS: [&str; 7] = ["周日", "周一", "周二", "周三", "周四", "周五", "周六"];

pub(super) fn say(words: &Words<'_>) -> String {
    let spec = words.spec;
    let mut said = match &words.what {
        What::Cron(fields) => cron(fields),
        What::Every(every) => format!("每{}", each(*every)),
        What::AfterEnd(every) => format!("每次运行结束 {}后", span(*every)),
        What::OnceAt => format!("仅一次，于 {}", spec.at.map(|at| at.to_string()).unwrap_or_default()),
        What::OnceAfter(delay) => format!("仅一次，{}后", span(*delay)),
    };
    if let Some(zone) = &spec.timezone {
        said += &format!("，时区 {zone}");
    }
    if let (What::Every(_) | What::AfterEnd(_), Some(delay)) = (&words.what, spec.delay) {
        said += &format!("，首次在 {}后", span(delay.0));
    }
    if !spec.exclude.is_empty() {
        said += &format!("，{} 除外", join(spec.exclude.iter().cloned()));
    }
    if let Some(start) = spec.start_at {
        said += &format!("，不早于 {start}");
    }
    if let Some(end) = spec.end_at {
        said += &format!("，不晚于 {end}");
    }
    if let Some(runs) = spec.max_runs {
        said += &format!("，最多 {runs} 次");
    }
    if let Some(jitter) = spec.jitter {
        said += &format!("，最多延后 {}", span(jitter.0));
    }
    said
}

fn cron(fields: &Fields) -> String {
    let mut said = Vec::new();
    if let Some(years) = &fields.years {
        said.push(format!("{} 年", numbers(years)));
    }
    match &fields.months {
        Values::All => {}
        Values::Step(step) => said.push(format!("从 1 月起每 {step} 个月")),
        Values::List(months) => said.push(format!("{} 月", numbers(months))),
    }
    let day = day(fields);
    if !day.is_empty() {
        said.push(day);
    } else if fields.times_of_day().is_some() {
        said.push("每天".to_owned());
    }
    said.push(time(fields));
    said.join(" ")
}

fn time(fields: &Fields) -> String {
    if let Some(times) = fields.times_of_day() {
        return join(times.into_iter().map(clock));
    }
    let is_on_the_minute = fields.seconds.is_zero();
    if is_on_the_minute && fields.minutes.is_zero() {
        return match &fields.hours {
            Values::All => "每小时整点".to_owned(),
            Values::Step(step) => format!("每 {step} 小时"),
            Values::List(hours) => match (pieces(hours).as_slice(), stretches(hours).as_slice()) {
                ([Piece::Steps(from, to, step)], _) => {
                    format!("{from:02}:00 至 {to:02}:00 之间每 {step} 小时")
                }
                (_, spans) => {
                    format!("{} 的每小时整点", join(spans.iter().map(|(from, to)| on_the_hour(*from, *to))))
                }
            },
        };
    }
    let hour = match &fields.hours {
        Values::All if matches!(fields.minutes, Values::List(_)) => "每小时的".to_owned(),
        Values::All => String::new(),
        Values::Step(step) => format!("每隔 {step} 小时的那一小时内"),
        Values::List(hours) => {
            let spans = stretches(hours).into_iter().map(|(from, to)| format!("{from:02}:00 至 {to:02}:59"));
            format!("{} 之间", join(spans))
        }
    };
    let minute = match (&fields.minutes, is_on_the_minute) {
        (Values::All, true) => "每分钟".to_owned(),
        (Values::All, false) if matches!(fields.seconds, Values::List(_)) => "每分钟的".to_owned(),
        (Values::All, false) => String::new(),
        (Values::Step(step), true) => format!("每 {step} 分钟"),
        (Values::Step(step), false) => format!("每隔 {step} 分钟的那一分钟内"),
        (Values::List(minutes), true) => format!("第 {} 分钟", numbers(minutes)),
        (Values::List(minutes), false) => format!("第 {} 分钟的", numbers(minutes)),
    };
    let second = match &fields.seconds {
        _ if is_on_the_minute => String::new(),
        Values::All => "每秒".to_owned(),
        Values::Step(step) => format!("每 {step} 秒"),
        Values::List(seconds) => format!("第 {} 秒", numbers(seconds)),
    };
    hour + &minute + &second
}

fn on_the_hour(from: u16, to: u16) -> String {
    if from == to { format!("{from:02}:00") } else { format!("{from:02}:00 至 {to:02}:00") }
}

fn day(fields: &Fields) -> String {
    // The month has been named already where there are not all of them.
    let (month, of_month) = match fields.months {
        Values::All => ("每月", "每月"),
        Values::Step(_) => ("当月", "当月"),
        Values::List(_) => ("", "当月"),
    };
    match (&fields.days, &fields.weekdays) {
        (None, None) => String::new(),
        (Some(days), None) => of_the_month(days, month),
        (None, Some(weekdays)) => weekday(weekdays, "每", of_month),
        (Some(days), Some(weekdays)) if fields.both => {
            format!("{}且为{}", of_the_month(days, month), weekday(weekdays, "", of_month))
        }
        (Some(days), Some(weekdays)) => {
            format!("{}或{}", of_the_month(days, month), weekday(weekdays, "每", of_month))
        }
    }
}

fn of_the_month(days: &Days, month: &str) -> String {
    let mut said = Vec::new();
    let spaced = if month.is_empty() { String::new() } else { format!("{month} ") };
    if !days.numbers.is_empty() {
        said.push(format!("{spaced}{} 日", numbers(&days.numbers)));
    }
    if !days.nearest_workday.is_empty() {
        said.push(format!("离{month} {} 日最近的工作日", numbers(&days.nearest_workday)));
    }
    if days.last {
        said.push(format!("{month}最后一天"));
    }
    if days.last_workday {
        said.push(format!("{month}最后一个工作日"));
    }
    together(said)
}

fn weekday(weekdays: &Weekdays, each: &str, month: &str) -> String {
    let mut said = Vec::new();
    if !weekdays.every.is_empty() {
        said.push(match week_run(&weekdays.every) {
            Some((from, to)) => format!("{}至{}", name(from), name(to)),
            None => format!("{each}{}", names(&weekdays.every)),
        });
    }
    for (number, days) in ["一", "二", "三", "四", "五"].into_iter().zip(&weekdays.nth) {
        if !days.is_empty() {
            said.push(format!("{month}第{number}个{}", names(days)));
        }
    }
    if !weekdays.last.is_empty() {
        said.push(format!("{month}最后一个{}", names(&weekdays.last)));
    }
    together(said)
}

fn name(day: u16) -> String {
    WEEKDAYS.get(usize::from(day)).copied().unwrap_or_default().to_owned()
}

fn names(days: &[u16]) -> String {
    together(from_monday(days).into_iter().map(name))
}

fn numbers(values: &[u16]) -> String {
    join(pieces(values).into_iter().map(|piece| match piece {
        Piece::One(value) => value.to_string(),
        Piece::Range(from, to) => format!("{from} 至 {to}"),
        Piece::Steps(from, to, step) => format!("{from} 至 {to}（间隔 {step}）"),
    }))
}

/// Joins words.
fn together(items: impl IntoIterator<Item = String>) -> String {
    listed(items, "和")
}

/// Joins numbers and times, which stand apart from words.
fn join(items: impl IntoIterator<Item = String>) -> String {
    listed(items, " 和 ")
}

fn listed(items: impl IntoIterator<Item = String>, and: &str) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{}{and}{last}", items.join("、")) }
}

const UNITS: [&str; 5] = ["天", "小时", "分钟", "秒", "毫秒"];

fn span(span: Duration) -> String {
    let parts = parts(span).into_iter();
    let parts =
        parts.map(|(count, unit)| format!("{count} {}", UNITS.get(unit).copied().unwrap_or_default()));
    parts.collect::<Vec<_>>().join(" ")
}

/// A span after "every": one of a unit is the unit.
fn each(every: Duration) -> String {
    match parts(every).as_slice() {
        [(1, unit)] => UNITS.get(*unit).copied().unwrap_or_default().to_owned(),
        _ => format!(" {}", span(every)),
    }
}
