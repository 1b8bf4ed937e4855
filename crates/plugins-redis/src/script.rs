//! Scripts: what has to happen in one step.

use fred::error::Error;
use fred::interfaces::ClientLike;
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};

use crate::client::Redis;

/// A script and the name that its calls are counted under.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
}

impl Redis {
    /// Runs a script on the slot of its keys. Its source goes with each call, so that a server which has restarted
    /// or taken over needs no second round trip; the server knows it again by its hash.
    pub(crate) async fn run<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<R, Error> {
        self.run_with(script, keys, arguments, &Options::default()).await
    }

    /// The same with options of its own.
    pub(crate) async fn run_with<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
        options: &Options,
    ) -> Result<R, Error> {
        let slot = keys.first().map(|key| fred::util::redis_keyslot(key.as_bytes()));
        // Not the client's own `eval`, which holds up what comes behind it until it is answered, and knows no
        // options.
        let eval =
            CustomCommand::new_static("EVAL", slot.map_or(ClusterHash::Random, ClusterHash::Custom), false);
        let mut all: Vec<Value> = vec![script.source.into(), i64::try_from(keys.len()).unwrap_or(0).into()];
        all.extend(keys.into_iter().map(Value::from));
        all.extend(arguments);
        self.call(script.name, self.client().with_options(options).custom(eval, all)).await
    }
}
