//! The metrics of the process itself, by the names that Prometheus clients agree on.

use metrics::Unit;

use crate::snapshot::{Family, MetricKind, Series, Value};

/// Clock ticks a second in `/proc`: the kernel's interface fixes it, whatever the kernel runs at.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc` says of this process; what cannot be read is left out, on other systems all of it.
pub(crate) fn families() -> Vec<Family> {
    let mut families = Vec::new();
    if let Some(status) = read("/proc/self/status") {
        let gauge = |name, help, key| Some(bytes(name, help, kibibytes(&status, key)?));
        families.extend(gauge("process_resident_memory_bytes", "Memory held in RAM.", "VmRSS:"));
        families.extend(gauge("process_virtual_memory_bytes", "Address space in use.", "VmSize:"));
    }
    if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
        let cpu = Value::Float(stat.cpu_ticks / TICKS_PER_SECOND);
        families.push(Family {
            kind: MetricKind::Counter,
            ..seconds("process_cpu_seconds_total", "Processor time, user and system.", cpu)
        });
        families.push(number(
            "process_threads",
            "Threads of the operating system.",
            Value::Float(stat.threads),
        ));
        if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_time) {
            let start = Value::Float(boot + stat.start_ticks / TICKS_PER_SECOND);
            families.push(seconds(
                "process_start_time_seconds",
                "When the process started, since 1970-01-01 in UTC.",
                start,
            ));
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // The one that reads the folder is not counted.
        let open = open.count().saturating_sub(1) as u64;
        families.push(number("process_open_fds", "Open file descriptors.", Value::Integer(open)));
    }
    if let Some(max) = read("/proc/self/limits").as_deref().and_then(fds_max) {
        families.push(number(
            "process_max_fds",
            "Most file descriptors that may be open.",
            Value::Float(max),
        ));
    }
    families
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// What is used of `/proc/self/stat`, see `proc(5)`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name comes second, in parentheses, and may hold spaces and parentheses itself.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of the rest is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, threads: field(20)?, start_ticks: field(22)? })
    }
}

/// The value of a line like `VmRSS:     1234 kB`, in bytes.
fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn fds_max(limits: &str) -> Option<f64> {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?;
    if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
}

fn number(name: &str, help: &str, value: Value) -> Family {
    let series = vec![Series { labels: [].into(), value }];
    Family { name: name.to_owned(), help: help.to_owned(), unit: None, kind: MetricKind::Gauge, series }
}

fn bytes(name: &str, help: &str, value: u64) -> Family {
    Family { unit: Some(Unit::Bytes), ..number(name, help, Value::Integer(value)) }
}

fn seconds(name: &str, help: &str, value: Value) -> Family {
    Family { unit: Some(Unit::Seconds), ..number(name, help, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_an_awkward_name() {
        let line = "42 (a) b ( c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 12345 1000 200 18";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { cpu_ticks: 300.0, threads: 7.0, start_ticks: 12345.0 });
        assert_eq!(Stat::parse("42 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn reads_memory_boot_time_and_limits() {
        assert_eq!(kibibytes("VmSize:\t  99 kB\nVmRSS:\t  2 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(kibibytes("VmRSS:\t  x kB\n", "VmRSS:"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(
            fds_max("Max open files            1024                 524288               files\n"),
            Some(1024.0)
        );
        assert_eq!(fds_max("Max open files            unlimited   unlimited  files\n"), Some(f64::INFINITY));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_of_them() {
        let families = families();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name == name).expect(name);
            match family.series[0].value {
                Value::Integer(value) => value as f64,
                Value::Float(value) => value,
                Value::Histogram(_) => panic!("a histogram"),
            }
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = runtime::Clock::now(&runtime::SystemClock).as_second() as f64;
        let started = value("process_start_time_seconds");
        // `btime` is in whole seconds.
        assert!(started <= now + 2.0 && started > now - 86_400.0, "{started} and now {now}");
    }
}
