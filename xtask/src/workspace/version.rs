//! The oldest compiler that the workspace is built with.

use std::process::Command;

use anyhow::{Context, bail};

/// `rust-version` of the workspace, which this package inherits.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Refuses a compiler that is older than the workspace states. Cargo checks the one that it builds xtask
/// with; this one is the one that builds the rest, and says what to do.
pub(super) fn check() -> anyhow::Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).arg("--version").output();
    let output = output.with_context(|| format!("start `{}`", rustc.to_string_lossy()))?;
    refuse_older(&String::from_utf8_lossy(&output.stdout), OLDEST)
}

fn refuse_older(said: &str, oldest: &str) -> anyhow::Result<()> {
    let present = said.split_whitespace().nth(1).unwrap_or_default();
    // `1.96.0-nightly` counts as 1.96.0.
    let numbers = present.split(['-', '+']).next().unwrap_or_default();
    match (parse(numbers), parse(oldest)) {
        (Some(present_numbers), Some(oldest_numbers)) if present_numbers < oldest_numbers => {
            bail!(
                "Gantry needs Rust {oldest} or newer and this is {present}; `rustup update stable` brings it"
            )
        }
        (Some(_), Some(_)) => Ok(()),
        _ => bail!("cannot read the version of the compiler from `{}`", said.trim()),
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_compiler_is_refused_with_what_to_do() {
        let refused = |said| refuse_older(said, "1.95").err().map(|error| error.to_string());
        assert_eq!(refused("rustc 1.95.0 (59807616e 2026-04-14)"), None);
        assert_eq!(refused("rustc 1.100.0-nightly (abc 2027-01-01)"), None);
        let old = refused("rustc 1.94.1 (abc 2026-03-01)").unwrap_or_default();
        assert!(old.contains("needs Rust 1.95 or newer and this is 1.94.1") && old.contains("rustup update"));
        assert!(refused("").unwrap_or_default().contains("cannot read the version"));
    }
}
