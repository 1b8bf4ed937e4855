//! Where tasks are kept.

/// Why a store did not take a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another node has taken over the shard since.
    #[error("epoch {ours} of shard {shard} has been fenced off by epoch {theirs}")]
    Fenced {
        /// The shard.
        shard: u32,
        /// The epoch of whoever wrote.
        ours: u64,
        /// The epoch that the store knows.
        theirs: u64,
    },
    /// The engine cannot be reached or refuses.
    #[error("{0}")]
    Engine(String),
}
