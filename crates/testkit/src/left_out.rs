//! Tests that cannot run on a machine say so, and are red where everything must run.

use std::io::Write as _;

use crate::Unavailable;

/// Evaluates to the server, or leaves the test out where it cannot be had.
///
/// What it is given is a future of a server, such as `Redis::start()`. Where the programs of that server are
/// not to be had, the test's name and the reason are printed past the capture of the test harness, a line is
/// added to the file that `GANTRY_TEST_LEFT_OUT` names, and the test returns; with `CI=true` in the
/// environment it fails instead. Any other failure to start fails the test.
///
/// ```no_run
/// # async fn test() {
/// let redis = testkit::need!(testkit::Redis::start());
/// redis.server().kill().await.unwrap();
/// # }
/// ```
#[macro_export]
macro_rules! need {
    ($server:expr) => {
        match $server.await {
            Ok(server) => server,
            Err(error) => {
                fn here() {}
                $crate::left_out(::std::any::type_name_of_val(&here), error);
                return;
            }
        }
    };
}

/// What [`need!`](crate::need) does without a server.
#[doc(hidden)]
#[expect(clippy::panic, reason = "this is how a test fails")]
#[track_caller]
pub fn left_out(place: &str, error: crate::StartError) {
    let name = test_name(place);
    let crate::StartError::Unavailable(missing) = error else { panic!("failed to {}", chain(&error)) };
    let line = line(name, &missing);
    if ci() {
        panic!("{line}; with CI=true nothing is left out");
    }
    // `eprintln!` is captured and shown for failed tests only.
    let _ = writeln!(std::io::stderr(), "{line}");
    if let Some(file) = std::env::var_os("GANTRY_TEST_LEFT_OUT").filter(|file| !file.is_empty()) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Whether `CI=true`: then what cannot be tested is an error.
#[must_use]
pub fn ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn line(name: &str, missing: &Unavailable) -> String {
    format!("left out: {name}: {missing}")
}

/// The function that a place such as `it::redis::starts::{{closure}}::here` is in.
fn test_name(place: &str) -> &str {
    let name = place.strip_suffix("::here").unwrap_or(place);
    name.trim_end_matches("::{{closure}}")
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_by_its_function() {
        assert_eq!(test_name("it::redis::starts::{{closure}}::here"), "it::redis::starts");
        assert_eq!(test_name("it::starts::here"), "it::starts");
    }

    #[test]
    fn what_is_left_out_is_named_with_the_reason() {
        let missing = Unavailable { program: "etcd".into(), tried: vec!["no etcd on the PATH".into()] };
        let line = line("it::etcd::starts", &missing);
        assert_eq!(line, "left out: it::etcd::starts: `etcd` is not to be had: no etcd on the PATH");
    }
}
