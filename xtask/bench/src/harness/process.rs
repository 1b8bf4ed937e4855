//! What the system says about a process; `std::process::id()` is this one.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// This program, to be started once more: even where its file was replaced by a build in the meantime.
pub(crate) fn this_program() -> anyhow::Result<Command> {
    let running = Path::new("/proc/self/exe");
    let path = if running.exists() { running.to_owned() } else { std::env::current_exe()? };
    Ok(Command::new(path))
}

/// CPU time that a process has used, in user and in kernel mode.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    // Fields 14 and 15 of proc_pid_stat(5), counted after the name in parentheses, which may hold spaces; in
    // ticks, of which every Linux has shown user space 100 a second.
    let stat = read(process, "stat")?;
    let (_, fields) = stat.rsplit_once(')').context("read the CPU time of a process")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// Resident memory of a process.
pub(crate) fn resident_bytes(process: u32) -> anyhow::Result<f64> {
    let status = read(process, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("read VmRSS")?;
    Ok(kibibytes * 1024.0)
}

fn read(process: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{process}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("read `{path}`"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_time() {
        let process = std::process::id();
        assert!(resident_bytes(process).unwrap() > 100_000.0);
        assert!(cpu_seconds(process).unwrap() < 1000.0);
    }
}
