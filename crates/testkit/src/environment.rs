//! Servers that the environment names: used as they are, and never hurt.
//!
//! The names are the tests' own, and not those that Gantry's configuration uses, so that nobody's shell with
//! a `REDIS_ADDR` in it makes tests write into a server that matters.

use std::time::Duration;

use crate::StartError;
use crate::probe::Probe;
use crate::until::until_ready;

/// The variables that name servers which run already.
pub const ADDRESSES: &[&str] = &[
    "GANTRY_TEST_REDIS_ADDR",
    "GANTRY_TEST_REDIS_CLUSTER_ADDRS",
    "GANTRY_TEST_ETCD_ENDPOINTS",
    "GANTRY_TEST_KAFKA_BROKERS",
];

const WITHIN: Duration = Duration::from_secs(10);

/// The addresses in a variable, separated by commas; a scheme before one is dropped.
pub(crate) fn addresses(name: &str) -> Vec<String> {
    split(&std::env::var(name).unwrap_or_default())
}

pub(crate) fn first(name: &str) -> Option<String> {
    addresses(name).into_iter().next()
}

fn split(list: &str) -> Vec<String> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| word.split_once("://").map_or(word, |(_, rest)| rest).trim_end_matches('/').to_owned())
        .collect()
}

/// Fails where the server that a variable names does not answer: starting another one instead would hide it.
pub(crate) async fn answers(variable: &str, address: &str, probe: Probe) -> Result<(), StartError> {
    let what = format!("{address} of {variable}");
    let shown = what.clone();
    let looked = crate::background::run(async move { Ok(until_ready(&what, WITHIN, || probe.look()).await) });
    looked.await?.map_err(|late| StartError::setup(&shown, late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_people_write_them() {
        assert_eq!(split("redis://127.0.0.1:6379/, 127.0.0.1:7000,,"), ["127.0.0.1:6379", "127.0.0.1:7000"]);
        assert_eq!(split(""), Vec::<String>::new());
    }
}
