//! How events are carried over streams.

use std::time::Duration;

/// The most partitions of a stream: each has a connection of its own where it is read.
const MAX_PARTITIONS: u32 = 64;
const MAX_BATCH: usize = 8192;

/// How events are carried. All who use one stream give it the same number of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// What the streams' keys begin with: `{NAME:0}`, `{NAME:1}`, ….
    pub stream: String,
    /// Who shares the events among each other: each group gets all of them, each consumer of a group its share.
    pub group: String,
    /// What the consumer is called in the group, for people.
    pub consumer: String,
    /// How many streams there are, 1 to 64: as many consumers of one group can read at once.
    pub partitions: u32,
    /// About how many entries each partition keeps: what a group that is away for longer has missed, it gets no
    /// more.
    pub max_len: u64,
    /// How many replicas have to have an event before it counts as sent.
    pub replicas: u32,
    /// How long replicas may take over that.
    pub replica_timeout: Duration,
    /// How many events are read at once.
    pub batch: usize,
    /// How long a consumer that says nothing keeps a partition.
    pub lease: Duration,
}

impl StreamOptions {
    /// One partition of about a million entries, acknowledged by the master alone, leased for ten seconds. A new
    /// group begins with the oldest entry that is kept.
    pub fn new(stream: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            group: group.into(),
            consumer: "gantry".to_owned(),
            partitions: 1,
            max_len: 1_000_000,
            replicas: 0,
            replica_timeout: Duration::from_secs(2),
            batch: 512,
            lease: Duration::from_secs(10),
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidStream> {
        let wrong = |field, detail| Err(InvalidStream { field, detail });
        for (field, name) in [("stream", &self.stream), ("group", &self.group), ("consumer", &self.consumer)]
        {
            let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}');
            if name.is_empty() || name.len() > 200 || !name.chars().all(fits) {
                return wrong(field, "must be 1 to 200 visible ascii characters without braces");
            }
        }
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return wrong("partitions", "must be from 1 to 64");
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return wrong("batch", "must be from 1 to 8192");
        }
        if self.max_len == 0 {
            return wrong("max_len", "must be 1 or more");
        }
        if self.lease < Duration::from_secs(1) {
            return wrong("lease", "must be 1s or more");
        }
        if self.replica_timeout < Duration::from_millis(1) {
            // Redis would wait for ever.
            return wrong("replica_timeout", "must be 1ms or more");
        }
        Ok(())
    }
}

/// Why a transport cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct InvalidStream {
    /// The option that is wrong.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_10_an_option_that_is_wrong_is_named() {
        let good = StreamOptions::new("events", "node-1");
        assert_eq!(good.check(), Ok(()));
        let second = Duration::from_secs(1);
        for (field, options) in [
            ("stream", StreamOptions { stream: String::new(), ..good.clone() }),
            ("stream", StreamOptions { stream: "a{b".to_owned(), ..good.clone() }),
            ("group", StreamOptions { group: "a b".to_owned(), ..good.clone() }),
            ("consumer", StreamOptions { consumer: "x".repeat(201), ..good.clone() }),
            ("partitions", StreamOptions { partitions: 65, ..good.clone() }),
            ("batch", StreamOptions { batch: 0, ..good.clone() }),
            ("max_len", StreamOptions { max_len: 0, ..good.clone() }),
            ("lease", StreamOptions { lease: second / 2, ..good.clone() }),
            ("replica_timeout", StreamOptions { replica_timeout: Duration::ZERO, ..good.clone() }),
        ] {
            assert_eq!(options.check().unwrap_err().field, field);
        }
    }
}
