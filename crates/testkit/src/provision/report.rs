//! What was found, for a person and for CI.

use std::fmt;

use super::{Found, Program, Provision};
use crate::Unavailable;

/// What was found of a list of programs, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found.
    pub found: Vec<Found>,
    /// What was not, and where it was looked for.
    pub missing: Vec<Unavailable>,
}

/// Finds these programs, fetching what is missing: to be run before tests, so that none of them waits for a
/// package manager. Blocks meanwhile.
#[must_use]
pub fn report(provision: &Provision, programs: &[Program]) -> Report {
    let mut report = Report::default();
    for program in programs {
        match provision.find(*program) {
            Ok(found) => report.found.push(found),
            Err(missing) => report.missing.push(missing),
        }
    }
    report
}

impl Report {
    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Found { program, version, origin, .. } in &self.found {
            writeln!(formatter, "{:14}{version} from {origin}", program.name())?;
        }
        for missing in &self.missing {
            writeln!(formatter, "{:14}missing, tests that need it are left out: {missing}", missing.program)?;
        }
        Ok(())
    }
}
