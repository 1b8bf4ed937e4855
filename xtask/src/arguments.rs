//! The little that all command lines share.

use std::ffi::OsString;

use anyhow::bail;

/// Arguments before and after the first `--`.
pub(crate) struct Split {
    pub(crate) own: Vec<OsString>,
    pub(crate) rest: Vec<OsString>,
}

impl Split {
    pub(crate) fn at_dashes(mut arguments: Vec<OsString>) -> Self {
        let at = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
        let mut rest = arguments.split_off(at);
        rest.drain(..rest.len().min(1));
        Self { own: arguments, rest }
    }
}

/// Refuses every argument: for commands that take none.
pub(crate) fn none(own: Vec<OsString>) -> anyhow::Result<()> {
    match own.first() {
        None => Ok(()),
        Some(argument) => {
            let argument = argument.to_string_lossy();
            bail!("`{argument}` is not an argument here; what is meant for the program goes after `--`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(arguments: &[&str]) -> (Vec<OsString>, Vec<OsString>) {
        let Split { own, rest } = Split::at_dashes(arguments.iter().map(OsString::from).collect());
        (own, rest)
    }

    #[test]
    fn what_stands_after_the_dashes_is_handed_on() {
        let of = |texts: &[&str]| texts.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            split(&["--full", "--", "--check-config", "--"]),
            (of(&["--full"]), of(&["--check-config", "--"]))
        );
        assert_eq!(split(&["a"]), (of(&["a"]), of(&[])));
        assert_eq!(split(&[]), (of(&[]), of(&[])));
    }

    #[test]
    fn an_argument_that_nothing_takes_is_named() {
        let error = none(vec!["--port".into()]).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("`--port`") && error.contains("after `--`"));
    }
}
